"""Objects from primitives: furniture, and compositions that look like nothing in particular.

z up, any size, around the origin or on it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from convonet_ros.datasets.world import furniture
from convonet_ros.datasets.world.furniture import Piece, Rng
from convonet_ros.datasets.world.primitives import Kind, Primitive, rotation_x, rotation_z
from convonet_ros.datasets.world.solids import candidates


def make_object(rng: Rng) -> list[Primitive]:
    """Furniture or a composition, turned by a multiple of a right angle about z."""
    parts = furniture.draw(rng, _OBJECTS)
    turn = np.round(rotation_z(rng.integers(4) * np.pi / 2))
    return [part.moved(turn, np.zeros(3), part.name) for part in parts]


def _furniture(rng: Rng) -> list[Primitive]:
    """A piece of furniture, sometimes with things on its top."""
    piece = furniture.draw(rng, _FURNITURE)
    parts = list(piece.parts)
    if piece.top_m and rng.random() < 0.4:
        w, d = piece.footprint
        count = int(rng.integers(1, 5))
        parts += furniture.things(rng, 0.85 * w, 0.85 * d, piece.top_m, 0.4, count)
    return parts


def _pile(rng: Rng) -> list[Primitive]:
    """Primitives of any pose, each grown out of the surface of an earlier one."""
    parts: list[Primitive] = []
    for k in range(int(rng.integers(1, 7))):
        half = rng.uniform(0.12, 0.5, 3) * (1.0 if k == 0 else 0.8)
        centre = np.zeros(3)
        if parts:
            anchor = parts[rng.integers(len(parts))]
            points, normals, _ = candidates(anchor, 1, rng)
            centre = points[0] + normals[0] * half.min() * rng.uniform(-0.5, 0.8)
        turn = rng.random()
        rotation = np.eye(3)
        if turn < 0.3:
            rotation = rotation_z(rng.uniform(0, np.pi)) @ rotation_x(rng.uniform(0, np.pi))
        elif turn < 0.6:
            rotation = rotation_z(rng.integers(2) * np.pi / 2) @ rotation_x(np.pi / 2)
        parts.append(_part(rng, centre, half, rotation))
    return parts


def _mirrored(rng: Rng) -> list[Primitive]:
    """A long body and pairs of parts at its sides: something that rolls, flies or crawls."""
    body = rng.uniform([0.15, 0.5, 0.12], [0.4, 1.0, 0.35])
    along_y = rotation_x(np.pi / 2)
    parts = [
        _part(rng, np.zeros(3), body, np.eye(3), ("box", "ellipsoid"))
        if rng.random() < 0.7
        else Primitive("cylinder", "", np.zeros(3), along_y, np.array([body[0], body[0], body[1]]))
    ]
    for _ in range(int(rng.integers(1, 4))):
        y, z = rng.uniform(-0.7, 0.7) * body[1], rng.uniform(-0.6, 0.5) * body[2]
        slim = np.sqrt(1 - (y / body[1]) ** 2) if parts[0].kind == "ellipsoid" else 1.0
        style = rng.integers(4)
        if style == 0:  # wings
            half = rng.uniform([0.25, 0.06, 0.012], [0.8, 0.25, 0.04])
            x, z, rotation = half[0], 0.3 * z, rotation_z(rng.uniform(-0.4, 0.4))
            kinds: tuple[Kind, ...] = ("box", "ellipsoid")
        elif style == 1:  # wheels
            r = rng.uniform(0.1, 0.25)
            half = np.array([r, r, rng.uniform(0.03, 0.1)])
            x, z, rotation = half[2], -0.6 * body[2], rotation_z(np.pi / 2) @ along_y
            kinds = ("cylinder",)
        elif style == 2:  # engines
            r = rng.uniform(0.05, 0.14)
            half = np.array([r, r, rng.uniform(0.12, 0.4)])
            x, rotation, kinds = 0.6 * r, along_y, ("cylinder", "ellipsoid")
        else:  # legs
            half = np.array([0.04, 0.04, rng.uniform(0.15, 0.5)]) * rng.uniform(0.7, 1.6)
            x, z, rotation = -0.3 * slim * body[0], -0.4 * body[2] - half[2] / slim, np.eye(3)
            kinds = ("box", "cylinder")
        x, z = x + 0.75 * slim * body[0], z * slim
        side = _part(rng, np.array([x, y, z]), half, rotation, kinds)
        flip = np.diag([-1.0, 1.0, 1.0])
        mirror = flip @ side.rotation @ flip  # a rotation again; the solids have this symmetry
        parts += [side, Primitive(side.kind, "", flip @ side.centre, mirror, side.half)]
    for _ in range(int(rng.integers(0, 3))):  # cabin, mast, fin
        half = rng.uniform([0.02, 0.05, 0.08], [0.8 * body[0], 0.5 * body[1], 0.35])
        centre = np.array([0.0, rng.uniform(-0.6, 0.6) * body[1], body[2] + 0.5 * half[2]])
        parts.append(_part(rng, centre, half, np.eye(3)))
    return parts


def _stacked(rng: Rng) -> list[Primitive]:
    """Segments one on another around an upright axis: vases, bottles, towers."""
    parts: list[Primitive] = []
    z, slim = 0.0, rng.uniform(0.3, 1.2)
    kinds: tuple[Kind, ...] = ("cylinder", "ellipsoid") if rng.random() < 0.7 else ("box",)
    for _ in range(int(rng.integers(2, 7))):
        r, h = slim * rng.uniform(0.08, 0.5), rng.uniform(0.04, 0.4)
        half = np.array([r, r, h])
        turn = rotation_z(rng.choice([0.0, np.pi / 4]))
        parts.append(_part(rng, np.array([0.0, 0.0, z + h]), half, turn, kinds))
        z += 2 * h * (0.9 if parts[-1].kind == "ellipsoid" else 0.98)
    return parts


def _bars(rng: Rng) -> list[Primitive]:
    """A frame of bars along the edges of a box, with cross bars and sometimes panels."""
    half, t = rng.uniform(0.25, 1.0, 3), rng.uniform(0.015, 0.05)
    parts = []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        for a in (-1, 1):
            for b in (-1, 1):
                size, centre = np.full(3, t), np.zeros(3)
                size[axis], centre[others] = half[axis] + t, np.array([a, b]) * half[others]
                parts.append(Primitive("box", "", centre, np.eye(3), size))
    for _ in range(int(rng.integers(0, 6))):
        axis, other, fixed = rng.permutation(3)
        size, centre = np.full(3, t * rng.uniform(0.5, 1.0)), np.zeros(3)
        size[axis] = half[axis]
        centre[other], centre[fixed] = (
            rng.uniform(-1, 1) * half[other],
            rng.choice([-1, 1]) * half[fixed],
        )
        if rng.random() < 0.35:  # a panel that fills the side
            size[other], centre[other] = half[other], 0.0
        parts.append(Primitive("box", "", centre, np.eye(3), size))
    return parts


def _part(
    rng: Rng,
    centre: np.ndarray,
    half: np.ndarray,
    rotation: np.ndarray,
    kinds: tuple[Kind, ...] = ("box", "cylinder", "ellipsoid"),
) -> Primitive:
    """A primitive of one of the kinds; a cylinder gets a round section."""
    kind = kinds[rng.integers(len(kinds))]
    if kind == "cylinder":
        half = np.array([min(half[0], half[1]), min(half[0], half[1]), half[2]])
    return Primitive(kind, "", centre, rotation, half)


_FURNITURE: list[tuple[Callable[[Rng], Piece], float]] = [
    (furniture.table, 3), (furniture.chair, 4), (furniture.sofa, 2), (furniture.bed, 1),
    (furniture.shelf, 2), (furniture.cupboard, 1.5), (furniture.wardrobe, 0.5),
    (furniture.lamp, 1), (furniture.plant, 1), (furniture.clutter, 1),
]  # fmt: skip
_OBJECTS: list[tuple[Callable[[Rng], list[Primitive]], float]] = [
    (_furniture, 5), (_pile, 2), (_mirrored, 2), (_stacked, 1.2), (_bars, 0.8),
]  # fmt: skip
