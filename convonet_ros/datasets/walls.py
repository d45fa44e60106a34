"""The shell of a room: four walls with niches, floor and ceiling, in the room frame."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from convonet_ros.datasets.primitives import Transform, rotation_z


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


def niche_box(niche: Niche, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high corner, (3,) metres in the room frame, of what a niche carves out."""
    rotation, origin = wall_pose(niche.wall, size)
    corners = np.array(
        [[niche.x0, -niche.depth, niche.z0], [niche.x1, 0.0, niche.z1]]
    ) @ rotation.T + origin  # fmt: skip
    return corners.min(axis=0), corners.max(axis=0)


def shell_mesh(size: np.ndarray, niches: tuple[Niche, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Floor, ceiling and walls with their niches, facing in: vertices (V, 3) room frame, (T, 3)."""
    x, y, h = size[0] / 2, size[1] / 2, size[2]
    quads = [
        np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]]),
        np.array([[-x, -y, h], [-x, y, h], [x, y, h], [x, -y, h]]),
    ]
    for wall in range(4):
        rotation, origin = wall_pose(wall, size)
        half = wall_length(wall, size) / 2
        for quad in _wall_quads(half, h, [n for n in niches if n.wall == wall]):
            quads.append(quad @ rotation.T + origin)
    vertices = np.concatenate(quads)
    first = 4 * np.arange(len(quads))[:, None, None]
    triangles = (first + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
    return vertices, triangles


def _wall_quads(half: float, height: float, niches: list[Niche]) -> list[np.ndarray]:
    """One wall in its own frame as quads (4, 3) that face +y, and the insides of its niches."""
    xs = np.unique([-half, half, *(e for n in niches for e in (n.x0, n.x1))])
    zs = np.unique([0.0, height, *(e for n in niches for e in (n.z0, n.z1))])
    quads = []
    for x0, x1 in pairwise(xs):
        for z0, z1 in pairwise(zs):
            x, z = (x0 + x1) / 2, (z0 + z1) / 2
            y = -max((n.depth for n in niches if n.x0 < x < n.x1 and n.z0 < z < n.z1), default=0.0)
            quads.append(np.array([[x0, y, z0], [x0, y, z1], [x1, y, z1], [x1, y, z0]]))
    for n in niches:
        a, b, c, d, y = n.x0, n.x1, n.z0, n.z1, -n.depth
        quads.append(np.array([[a, y, c], [b, y, c], [b, 0, c], [a, 0, c]]))
        quads.append(np.array([[a, y, d], [a, 0, d], [b, 0, d], [b, y, d]]))
        quads.append(np.array([[a, y, c], [a, 0, c], [a, 0, d], [a, y, d]]))
        quads.append(np.array([[b, y, c], [b, y, d], [b, 0, d], [b, 0, c]]))
    return quads
