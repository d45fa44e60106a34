"""A simulated depth camera in a room: exact depth by ray casting.

The camera's optical frame has x to the right, y down and z forward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from convonet_ros.datasets.sensing.rays import RayScene
from convonet_ros.datasets.world.rooms import Room
from convonet_ros.sensors import Intrinsics, points_from_depth


class DepthCamera:
    """Renders what an ideal depth camera sees in one room."""

    def __init__(self, room: Room | RayScene, intrinsics: Intrinsics) -> None:
        self.intrinsics = intrinsics
        self._scene = room if isinstance(room, RayScene) else RayScene(room)
        k = intrinsics
        rays = np.ones((k.height, k.width, 3), dtype=np.float32)
        rays[..., 0] = (np.arange(k.width, dtype=np.float32) - k.cx)[None, :] / k.fx
        rays[..., 1] = (np.arange(k.height, dtype=np.float32) - k.cy)[:, None] / k.fy
        self._rays_camera = rays  # directions with z = 1, so that ray length is depth

    def render(self, T_map_camera: np.ndarray) -> np.ndarray:
        """Pose (4, 4) -> (H, W) float32 depth along the optical axis in metres, 0 = nothing."""
        depth = self._scene.cast(T_map_camera, self._rays_camera).distance
        return np.where(np.isfinite(depth), depth, np.float32(0.0))

    def points_map(self, depth_m: np.ndarray, T_map_camera: np.ndarray) -> np.ndarray:
        """(H, W, 3) float32 points in the map frame of a depth image; the eye where it is 0."""
        points = self._rays_camera * depth_m[..., None]
        T = T_map_camera.astype(np.float32)
        return points @ T[:3, :3].T + T[:3, 3]


class DepthSensor(ABC):
    """A depth camera with errors: what it reports of a scene as an image, and as points."""

    __slots__ = ()
    mount: ClassVar[str] = "camera"

    intrinsics: Intrinsics

    @abstractmethod
    def depth(
        self, scene: RayScene, T_map_sensor: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """(H, W) float32 metres, 0 = invalid."""

    def measure(
        self,
        scene: RayScene,
        T_map_sensor: np.ndarray,
        rng: np.random.Generator,
        max_points: int = 100_000,
    ) -> np.ndarray:
        """Pose (4, 4) of the optical frame -> (N, 3) float32 points in it, metres."""
        depth = self.depth(scene, T_map_sensor, rng)
        return points_from_depth(depth, self.intrinsics, max_points)
