"""A small recording on disk, made by the simulated camera; for the tests of whatever reads one."""

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from convonet_ros.datasets.recordings import Frame
from convonet_ros.datasets.sensing.drives import drive_camera, drive_frames
from convonet_ros.datasets.world.rooms import make_room
from convonet_ros.geometry import inverse
from convonet_ros.model import zoo
from convonet_ros.model.crops import CropNetwork, CropSpec

# A world that is not the map: TF and T_map_world have something to do.
T_MAP_WORLD = np.array([[0, -1, 0, 0.25], [1, 0, 0, -0.5], [0, 0, 1, 0.125], [0, 0, 0, 1.0]])


def simulated(seed: int, n: int, width: int = 160, of: int | None = None) -> list[Frame]:
    """The first `n` frames of a simulated drive of `of` frames (default: all of it)."""
    frames = drive_frames(make_room(seed), of or n, drive_camera(width))
    return list(itertools.islice(frames, n))


def write_recording(folder: Path, frames: Iterable[Frame]) -> Path:
    """Write frames as depth PNG and pose files with intrinsics.txt and T_map_world.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savetxt(folder / "T_map_world.txt", T_MAP_WORLD)
    for number, frame in enumerate(frames):
        k = frame.intrinsics
        K = [[k.fx, 0, k.cx], [0, k.fy, k.cy], [0, 0, 1]]
        np.savetxt(folder / "intrinsics.txt", K)
        pixels = np.round(frame.depth * 1000).astype(np.uint16)
        Image.fromarray(pixels).save(folder / f"frame-{number:06d}.depth.png")
        T_world_camera = inverse(T_MAP_WORLD) @ frame.T_map_camera
        np.savetxt(folder / f"frame-{number:06d}.pose.txt", T_world_camera, fmt="%.12f")
    return folder


def write_network(path: Path) -> Path:
    """Write the checkpoint of a small untrained network: fast, and its surfaces are many."""
    torch.manual_seed(2)
    spec = CropSpec(
        point_features=8, voxel_features=8, hidden=8, point_blocks=1, decoder_blocks=1,
        maps=4, levels=2,
    )  # fmt: skip
    network = CropNetwork(spec)
    with torch.no_grad():  # else everything stays on one side of the threshold
        network.decoder.fc_out.weight *= 50
        network.decoder.fc_out.bias.zero_()
    zoo.save(path, network, {})
    return path
