"""Doorways between rooms: frames, and leaves that stand open."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convonet_ros.datasets.world.floor_plans import Cell, Doorway, overlap
from convonet_ros.datasets.world.furniture import Rng, box, lying_cylinder
from convonet_ros.datasets.world.primitives import Primitive, rotation_z


def doorway_parts(
    rng: Rng, way: Doorway, cells: Sequence[Cell], strips: np.ndarray, name: str
) -> list[Primitive]:
    """Frame and leaf of a doorway in the building's frame; often both, sometimes none.

    `strips` (S, 2, 3) are the floor along the walk, where no leaf may stand.
    """
    parts: list[Primitive] = []
    z = cells[way.a].z
    # The doorway's frame: x along the wall, y from cell a to cell b, from the middle of the floor.
    rotation = np.eye(3) if way.axis == 1 else rotation_z(-np.pi / 2)
    rotation = np.round(rotation)
    middle = np.append(way.point((way.begin + way.end) / 2), z)
    deep, wide, top = (way.end - way.begin) / 2, way.half, way.top
    if rng.random() < 0.75:
        t, w = rng.uniform(0.01, 0.03), rng.uniform(0.05, 0.1)
        for y0, y1 in ((-deep - t, -deep), (deep, deep + t)):
            parts += [
                box((-wide - w, y0, 0.0), (-wide, y1, top + w)),
                box((wide, y0, 0.0), (wide + w, y1, top + w)),
                box((-wide, y0, top), (wide, y1, top + w)),
            ]
    if rng.random() < 0.3:
        parts.append(box((-wide, -deep, 0.0), (wide, deep, rng.uniform(0.008, 0.025))))
    parts = [part.moved(rotation, middle, f"frame_{name}") for part in parts]
    if wide < 0.55 and rng.random() < 0.6:
        for _ in range(4):
            leaf, cell = _leaf(rng, way, deep, wide, top)
            leaf = [part.moved(rotation, middle, f"leaf_{name}") for part in leaf]
            if _fits(leaf[0], cells[cell], strips):
                return parts + leaf
    return parts


def _leaf(
    rng: Rng, way: Doorway, deep: float, wide: float, top: float
) -> tuple[list[Primitive], int]:
    """A leaf that stands open, in the doorway's frame, and the cell into which it opens."""
    into_b = bool(rng.random() < 0.5)
    hinge = float(rng.choice([-1.0, 1.0]))
    angle = rng.uniform(np.radians(70), np.radians(165))
    length, t = 2 * wide - 0.01, rng.uniform(0.03, 0.05)
    parts = [box((0.0, 0.0, 0.008), (length, t, top - 0.01))]
    for y in (-0.05, t + 0.05):  # handles
        parts.append(lying_cylinder(length - 0.11, y, 1.02, 0.01, 0.12))
        parts.append(box((length - 0.06, min(y, t), 1.01), (length - 0.04, max(y, 0.0), 1.03)))
    out = 1.0 if into_b else -1.0
    # Closed, the leaf points from its hinge to the other side of the opening.
    yaw = (0.0 if hinge < 0 else np.pi) - hinge * out * angle
    shift = np.array([hinge * (wide - 0.01), out * (deep + 0.015), 0.0])
    return [part.moved(rotation_z(yaw), shift, "") for part in parts], way.b if into_b else way.a


def _fits(leaf: Primitive, cell: Cell, strips: np.ndarray) -> bool:
    """Whether a leaf stays in its cell and leaves the walk free."""
    ends = leaf.centre + np.outer([-1.0, 1.0], leaf.rotation[:, 0] * leaf.half[0])
    low, high = cell.floor
    if not np.all((ends[:, :2] > low - 0.06) & (ends[:, :2] < high + 0.06)):
        return False
    rects = [np.stack([p - 0.03, p + 0.03]) for p in np.linspace(ends[0, :2], ends[1, :2], 7)]
    here = strips[np.abs(strips[:, 0, 2] - cell.z) < 0.05][:, :, :2]
    inner = here + np.array([[0.08], [-0.08]])  # a leaf may stand a little into the strip
    return not any(overlap(rect, strip) for rect in rects for strip in inner)
