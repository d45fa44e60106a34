"""What belongs to a room itself: slopes under a roof, beams, pipes, and cables that lie and hang.

All in the room's frame, with its origin on the floor in the middle; `size` (3,) metres.
"""

from __future__ import annotations

import numpy as np

from convonet_ros.datasets.world.bars import rod, rods, sagging
from convonet_ros.datasets.world.furniture import Rng, box
from convonet_ros.datasets.world.primitives import Primitive
from convonet_ros.datasets.world.walls import wall_length, wall_pose


def slope(rng: Rng, size: np.ndarray, wall: int) -> tuple[Primitive, float]:
    """A slanted ceiling above one wall, and the height in metres at which it meets the wall."""
    across = size[1] if wall % 2 == 0 else size[0]
    run = min(rng.uniform(0.5, 1.9), 0.6 * across)
    drop = min(run * rng.uniform(0.6, 1.6), size[2] - 0.9)
    turn = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # its foot up, y inwards
    centre = np.array([0.0, run / 2, size[2] - drop / 2])
    half = np.array([run / 2, wall_length(wall, size) / 2, drop / 2])
    solid = Primitive("wedge", "", centre, turn, half)
    return solid.moved(*wall_pose(wall, size), ""), float(size[2] - drop)


def beams(rng: Rng, size: np.ndarray) -> list[Primitive]:
    """Beams below the ceiling, along x or y."""
    w, h, gap = rng.uniform(0.04, 0.1), rng.uniform(0.08, 0.2), rng.uniform(0.6, 1.3)
    x, y, top = size[0] / 2, size[1] / 2, size[2]
    if rng.random() < 0.5:
        places = np.arange(-x + gap / 2, x, gap)
        return [box((p - w, -y, top - h), (p + w, y, top)) for p in places]
    places = np.arange(-y + gap / 2, y, gap)
    return [box((-x, p - w, top - h), (x, p + w, top)) for p in places]


def pipes(rng: Rng, size: np.ndarray) -> list[Primitive]:
    """Pipes along a wall, low or below the ceiling, or up in a corner."""
    wall = int(rng.integers(4))
    half, r = wall_length(wall, size) / 2, rng.uniform(0.008, 0.05)
    parts = []
    y = r + rng.uniform(0.0, 0.06)
    if rng.random() < 0.5:
        z = rng.choice([rng.uniform(0.05, 0.2), size[2] - rng.uniform(0.08, 0.3)])
        for _ in range(int(rng.integers(1, 3))):
            parts.append(rod((-half, y, z), (half, y, z), r))
            z += 2.5 * r if z < 1.0 else -2.5 * r
    else:
        x = rng.choice([-1.0, 1.0]) * (half - r - rng.uniform(0.0, 0.1))
        for _ in range(int(rng.integers(1, 3))):
            parts.append(rod((x, y, 0), (x, y, size[2]), r))
            x -= np.sign(x) * 3 * r
    pose = wall_pose(wall, size)
    return [part.moved(*pose, "") for part in parts]


def floor_cable(rng: Rng, size: np.ndarray) -> list[Primitive]:
    """A cable that starts at a wall and winds over the floor."""
    wall = int(rng.integers(4))
    half, r = wall_length(wall, size) / 2, rng.uniform(0.0025, 0.007)
    rotation, origin = wall_pose(wall, size)
    at = np.array([rng.uniform(-0.8, 0.8) * half, 0.02, rng.uniform(0.15, 0.4)])
    points = [at, at * [1, 1, 0] + [0, 0.01, r]]
    heading = rng.uniform(0.3, np.pi - 0.3)
    for _ in range(int(rng.integers(6, 15))):
        heading += rng.normal(0, 0.5)
        step = 0.16 * np.array([np.cos(heading), np.sin(heading), 0.0])
        points.append(points[-1] + step)
    line = np.array(points) @ rotation.T + origin
    line[:, :2] = np.clip(line[:, :2], -size[:2] / 2 + r, size[:2] / 2 - r)
    keep = np.append(True, np.linalg.norm(np.diff(line, axis=0), axis=1) > 0.02)
    return rods(line[keep], r)


def hanging_cable(rng: Rng, size: np.ndarray) -> list[Primitive]:
    """A cable or a line from wall to wall or from the ceiling to a wall, with some sag."""
    r, z = rng.uniform(0.002, 0.006), rng.uniform(1.9, size[2] - 0.05)
    x, y = size[:2] / 2
    ends = [
        np.array([-x, rng.uniform(-y, y), z]),
        np.array([rng.uniform(-x, x), y, z]),
        np.array([x, rng.uniform(-y, y), z]),
        np.array([*(rng.uniform(-0.3, 0.3, 2) * size[:2]), size[2]]),
    ]
    a, b = rng.permutation(4)[:2]
    parts = rods(sagging(ends[a], ends[b], rng.uniform(0.02, 0.3), 10), r)
    if rng.random() < 0.3:  # a bulb on a cord
        low = ends[3] - [0, 0, rng.uniform(0.3, 0.8)]
        parts.append(rod(low, ends[3], 0.003))
        half = np.array([0.08, 0.08, 0.06])
        parts.append(Primitive("cone", "", low, np.eye(3), half, rng.uniform(0.2, 0.9)))
    return parts
