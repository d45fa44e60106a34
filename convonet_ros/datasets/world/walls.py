"""The four walls of a room that is a box, each with a frame of its own, and niches in them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convonet_ros.datasets.world.primitives import Transform, rotation_z


@dataclass(frozen=True, slots=True)
class Niche:
    """A recess carved into one wall: a rectangle in the wall's plane and a depth, metres.

    `wall` is 0 to 3; x runs along the wall from its middle, z up from the floor.
    """

    wall: int
    x0: float
    x1: float
    z0: float
    z1: float
    depth: float


def wall_length(wall: int, size: np.ndarray) -> float:
    return float(size[0] if wall % 2 == 0 else size[1])


def wall_pose(wall: int, size: np.ndarray) -> Transform:
    """Pose in the room frame of a wall's frame: x along it, y inwards, z up from the floor."""
    rotation = np.round(rotation_z(wall * np.pi / 2))  # exact quarter turns
    distance = size[1] / 2 if wall % 2 == 0 else size[0] / 2
    return rotation, rotation @ np.array([0.0, -distance, 0.0])


def niche_box(niche: Niche, size: np.ndarray) -> np.ndarray:
    """Low and high corner, (2, 3) metres in the room frame, of what a niche carves out."""
    rotation, origin = wall_pose(niche.wall, size)
    corners = np.array(
        [[niche.x0, -niche.depth, niche.z0], [niche.x1, 0.0, niche.z1]]
    ) @ rotation.T + origin  # fmt: skip
    return np.stack([corners.min(axis=0), corners.max(axis=0)])
