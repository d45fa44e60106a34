"""The sensors of training data: one is drawn for each sequence of views."""

from __future__ import annotations

from typing import ClassVar, Protocol

import numpy as np

from convonet_ros.datasets.sensing.lidar import Lidar
from convonet_ros.datasets.sensing.poses import level
from convonet_ros.datasets.sensing.rays import RayScene
from convonet_ros.datasets.sensing.stereo import Stereo
from convonet_ros.datasets.sensing.structured_light import StructuredLight
from convonet_ros.datasets.sensing.views import robot_views, sample_views
from convonet_ros.datasets.world.rooms import Room


class Device(Protocol):
    """A simulated sensor. `mount` is "camera" (optical frame) or "level" (x forward, z up)."""

    mount: ClassVar[str]

    def measure(
        self,
        scene: RayScene,
        T_map_sensor: np.ndarray,
        rng: np.random.Generator,
        max_points: int = 100_000,
    ) -> np.ndarray:
        """Pose (4, 4) -> (N, 3) float32 points in the sensor frame, metres."""


def draw_sensor(rng: np.random.Generator) -> Device:
    """Mostly depth cameras; every fifth is a LiDAR."""
    kind = rng.random()
    if kind < 0.4:
        return StructuredLight.draw(rng)
    return Stereo.draw(rng) if kind < 0.8 else Lidar.draw(rng)


def sensor_views(device: Device, room: Room, rng: np.random.Generator, n: int) -> list[np.ndarray]:
    """`n` poses T_map_sensor (4, 4) as the device is carried: by hand, or on a robot."""
    if device.mount == "level":
        return [level(T) for T in robot_views(room, rng, n, heights_m=(0.3, 1.2))]
    return sample_views(room, rng, n)
