"""A simulated drive: what a depth camera delivers on its way through a procedural room."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from convonet_ros.datasets.camera import DepthCamera
from convonet_ros.datasets.noise import add_noise
from convonet_ros.datasets.recordings import Frame
from convonet_ros.datasets.rooms import Room
from convonet_ros.datasets.walks import drive
from convonet_ros.sensors import Intrinsics

_MAX_RANGE_M = 4.5


def drive_camera(width: int = 320) -> Intrinsics:
    """The camera of the drives: 4 to 3, with a Kinect's field of view."""
    height = width * 3 // 4
    focal = 525.0 * width / 640
    return Intrinsics(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)


def drive_frames(room: Room, n: int, intrinsics: Intrinsics) -> Iterator[Frame]:
    """`n` noisy frames of one drive, depth in whole millimetres; stamps count frames from 1.

    The same room gives the same frames.
    """
    camera = DepthCamera(room, intrinsics)
    rng = np.random.default_rng([room.seed, 0xD21])
    for i, T_map_camera in enumerate(drive(room, n), start=1):
        depth = add_noise(camera.render(T_map_camera), intrinsics, rng, _MAX_RANGE_M)
        millimetres = np.round(depth * 1000)
        yield Frame(millimetres.astype(np.float32) * np.float32(1e-3), intrinsics, T_map_camera, i)
