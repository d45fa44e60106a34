"""What a depth camera delivers on its way through a generated scene, in memory and on disk."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from convonet_ros.datasets.recordings import Frame
from convonet_ros.datasets.sensing.camera import DepthCamera
from convonet_ros.datasets.sensing.noise import add_noise
from convonet_ros.datasets.sensing.poses import look_along
from convonet_ros.datasets.sensing.walks import drive, walk
from convonet_ros.datasets.world.rooms import Room
from convonet_ros.sensors import Intrinsics
from convonet_ros.storage import write_bytes

_MAX_RANGE_M = 4.5
_LOOKS = 6  # views all around at a dead end of a walk
_BACK = -0.5  # cosine of a turn from which on a walk goes back
_PITCH = np.radians([-40.0, -10.0])  # of these views in turn: where one stands, and beyond


def drive_camera(width: int = 320) -> Intrinsics:
    """The camera of the drives: 4 to 3, with a Kinect's field of view."""
    height = width * 3 // 4
    focal = 525.0 * width / 640
    return Intrinsics(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)


def drive_frames(room: Room, n: int, intrinsics: Intrinsics) -> Iterator[Frame]:
    """`n` noisy frames of one drive, depth in whole millimetres; stamps count frames from 1.

    The same room gives the same frames.
    """
    return _frames(room, drive(room, n), intrinsics)


def walk_camera(width: int = 368) -> Intrinsics:
    """The camera of the walks: 16 to 9, 87 degrees wide, as stereo cameras are."""
    height = width * 9 // 16
    focal = width / 2 / np.tan(np.radians(87.0) / 2)
    return Intrinsics(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)


def walk_frames(room: Room, n: int, intrinsics: Intrinsics) -> Iterator[Frame]:
    """As `drive_frames`, on a walk through all rooms and storeys of a building."""
    return _frames(room, _walk_and_look(room, n), intrinsics)


def _walk_and_look(room: Room, n: int) -> list[np.ndarray]:
    """`n` poses (4, 4) of a walk that looks all around at dead ends, if views are left for that."""
    poses = walk(room, n)
    dead_ends = int((_turns(poses) < _BACK).sum())
    left = n - dead_ends * _LOOKS
    if left < n / 2 or not dead_ends:
        return poses
    poses = walk(room, left)
    sharpest = np.argsort(_turns(poses), kind="stable")[:dead_ends] + 1
    for end in sorted(sharpest.tolist(), reverse=True):
        eye, ahead = poses[end][:3, 3], poses[end][:3, 2]
        yaw = np.arctan2(ahead[1], ahead[0])
        angles = yaw + 2 * np.pi * np.arange(1, _LOOKS + 1) / (_LOOKS + 1)
        looks = [look_along(eye, a, _PITCH[k % len(_PITCH)]) for k, a in enumerate(angles)]
        poses[end + 1 : end + 1] = looks
    return poses


def _turns(poses: list[np.ndarray]) -> np.ndarray:
    """(P - 2,) cosine between the steps to and from each pose but the first and the last."""
    steps = np.diff(np.stack(poses)[:, :3, 3], axis=0)
    steps /= np.maximum(np.linalg.norm(steps, axis=1, keepdims=True), 1e-9)
    return (steps[1:] * steps[:-1]).sum(axis=1)


def _frames(room: Room, poses: list[np.ndarray], intrinsics: Intrinsics) -> Iterator[Frame]:
    camera = DepthCamera(room, intrinsics)
    rng = np.random.default_rng([room.seed, 0xD21])
    for i, T_map_camera in enumerate(poses, start=1):
        depth = add_noise(camera.render(T_map_camera), intrinsics, rng, _MAX_RANGE_M)
        millimetres = np.round(depth * 1000)
        yield Frame(millimetres.astype(np.float32) * np.float32(1e-3), intrinsics, T_map_camera, i)


def write_frames(folder: str | Path, frames: Iterable[Frame]) -> Iterator[Path]:
    """Write frames as a recording that `recordings.open_recording` reads; yields every image.

    Raises ValueError for a folder that holds frames already, for they would be mixed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if next(folder.glob("frame-*"), None) is not None:
        raise ValueError(f"{folder}: expected a folder without frames, got one that has some")
    for number, frame in enumerate(frames):
        if number == 0:
            k = frame.intrinsics
            about = {
                "width": k.width, "height": k.height,
                "fx": k.fx, "fy": k.fy, "cx": k.cx, "cy": k.cy,
            }  # fmt: skip
            write_bytes(folder / "camera.json", (json.dumps(about) + "\n").encode())
        rows = [" ".join(f"{x:.12f}" for x in row) for row in frame.T_map_camera]
        pose = folder / f"frame-{number:06d}.pose.txt"
        write_bytes(pose, ("\n".join(rows) + "\n").encode())
        pixels = io.BytesIO()
        Image.fromarray(np.round(frame.depth * 1000).astype(np.uint16)).save(pixels, "PNG")
        image = folder / f"frame-{number:06d}.depth.png"  # after its pose: a frame is whole
        write_bytes(image, pixels.getvalue())
        yield image
