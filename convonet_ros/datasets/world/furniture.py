"""Furniture from primitives, each piece in its own frame.

A piece stands on z = 0 around the origin, its back towards -y (the wall). Every builder draws its
sizes from the generator it gets; lengths are metres.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from convonet_ros.datasets.world.primitives import Primitive, rotation_x, rotation_z

Rng = np.random.Generator
_Drawn = TypeVar("_Drawn")


@dataclass(frozen=True, slots=True)
class Piece:
    """Primitives in the piece's frame, the footprint (width x, depth y) and the top's height."""

    name: str
    parts: list[Primitive]
    footprint: tuple[float, float]
    top_m: float = 0.0  # height of a free flat top on which things may stand; 0 = none


def box(
    lo: tuple[float, float, float],
    hi: tuple[float, float, float],
    rotation: np.ndarray | None = None,
) -> Primitive:
    """A box between two corners, turned about its own centre by `rotation`."""
    low, high = np.minimum(lo, hi), np.maximum(lo, hi)
    turn = np.eye(3) if rotation is None else rotation
    return Primitive("box", "", (low + high) / 2, turn, (high - low) / 2)


def cylinder(x: float, y: float, z0: float, z1: float, radius: float) -> Primitive:
    """An upright cylinder between the heights `z0` and `z1`."""
    half = np.array([radius, radius, (z1 - z0) / 2])
    return Primitive("cylinder", "", np.array([x, y, (z0 + z1) / 2]), np.eye(3), half)


def lying_cylinder(
    x: float, y: float, z: float, radius: float, length: float, yaw: float = 0.0
) -> Primitive:
    """A horizontal cylinder of `length`; its axis is x turned by `yaw`."""
    rotation = rotation_z(yaw + np.pi / 2) @ rotation_x(np.pi / 2)
    half = np.array([radius, radius, length / 2])
    return Primitive("cylinder", "", np.array([x, y, z]), rotation, half)


def ellipsoid(
    centre: tuple[float, float, float], half: tuple[float, float, float], yaw: float = 0.0
) -> Primitive:
    """An ellipsoid turned about z."""
    return Primitive("ellipsoid", "", np.array(centre), rotation_z(yaw), np.array(half))


def _legs(rng: Rng, w: float, d: float, height: float, thick: float) -> list[Primitive]:
    x, y = w / 2 - thick, d / 2 - thick
    corners = [(-x, -y), (x, -y), (-x, y), (x, y)]
    if rng.random() < 0.5:
        return [cylinder(cx, cy, 0.0, height, thick / 2) for cx, cy in corners]
    r = thick / 2
    return [box((cx - r, cy - r, 0.0), (cx + r, cy + r, height)) for cx, cy in corners]


def table(rng: Rng) -> Piece:
    """Dining table or desk (legs, panels or one foot), or a low coffee table."""
    low = rng.random() < 0.3
    w, d = rng.uniform(0.7, 1.2 if low else 1.9), rng.uniform(0.5, 0.9)
    h, t = rng.uniform(0.35, 0.5) if low else rng.uniform(0.68, 0.78), rng.uniform(0.02, 0.05)
    style = rng.integers(4)
    if style == 0:  # round with one foot
        r = d * 0.65
        parts = [
            cylinder(0, 0, h - t, h, r),
            cylinder(0, 0, 0, h - t, rng.uniform(0.03, 0.06)),
            cylinder(0, 0, 0, 0.03, r * 0.6),
        ]
        return Piece("table", parts, (2 * r, 2 * r), h)
    top = box((-w / 2, -d / 2, h - t), (w / 2, d / 2, h))
    if style == 1:  # side panels, sometimes drawers
        s = 0.025
        parts = [
            top,
            box((-w / 2, -d / 2, 0), (-w / 2 + s, d / 2, h - t)),
            box((w / 2 - s, -d / 2, 0), (w / 2, d / 2, h - t)),
        ]
        if rng.random() < 0.6:
            parts.append(box((w / 2 - 0.4, -d / 2 + 0.05, 0.05), (w / 2, d / 2 - 0.03, h - t)))
        return Piece("table", parts, (w, d), h)
    return Piece("table", [top, *_legs(rng, w, d, h - t, rng.uniform(0.035, 0.08))], (w, d), h)


def chair(rng: Rng) -> Piece:
    """A chair with four legs, an office chair, or a stool."""
    w, d, seat = rng.uniform(0.38, 0.5), rng.uniform(0.38, 0.5), rng.uniform(0.42, 0.5)
    t, back = rng.uniform(0.025, 0.08), rng.uniform(0.8, 1.05)
    style = rng.integers(5)
    if style == 0:
        r = w / 2 * 0.8
        legs = _legs(rng, w * 0.8, w * 0.8, seat - t, 0.04)
        return Piece("stool", [cylinder(0, 0, seat - t, seat, r), *legs], (w, w))
    tilt = rotation_x(rng.uniform(0.0, 0.2))
    panel = box((-w / 2, -d / 2, seat + 0.05), (w / 2, -d / 2 + 0.04, back), tilt)
    seat_box = box((-w / 2, -d / 2, seat - t), (w / 2, d / 2, seat))
    if style == 1:
        foot = [lying_cylinder(0, 0, 0.05, 0.025, 0.56, a) for a in (0.0, 1.257, 2.513)]
        column = cylinder(0, 0, 0.03, seat - t, 0.03)
        post = box((-0.04, -d / 2 - 0.01, seat - t), (0.04, -d / 2 + 0.02, seat + 0.2))
        return Piece("office_chair", [seat_box, panel, column, post, *foot], (w + 0.1, d + 0.1))
    parts = [seat_box, panel, *_legs(rng, w, d, seat - t, rng.uniform(0.03, 0.05))]
    for x in (-w / 2 + 0.02, w / 2 - 0.02):
        parts.append(box((x - 0.018, -d / 2, seat), (x + 0.018, -d / 2 + 0.036, back - 0.02), tilt))
    return Piece("chair", parts, (w, d))


def sofa(rng: Rng) -> Piece:
    """Sofa or armchair: base, cushions, back, arms, sometimes pillows."""
    seats = int(rng.integers(1, 4))
    arm, h = rng.uniform(0.1, 0.24), rng.uniform(0.7, 0.95)
    d, seat, legs = rng.uniform(0.75, 1.0), rng.uniform(0.38, 0.48), rng.uniform(0.0, 0.12)
    w = seats * rng.uniform(0.55, 0.7) + 2 * arm
    arm_h, back = seat + rng.uniform(0.08, 0.25), rng.uniform(0.15, 0.28)
    parts = [
        box((-w / 2, -d / 2, legs), (w / 2, d / 2, seat - 0.13)),
        box((-w / 2, -d / 2, legs), (w / 2, -d / 2 + back, h), rotation_x(rng.uniform(0, 0.12))),
        box((-w / 2, -d / 2, legs), (-w / 2 + arm, d / 2, arm_h)),
        box((w / 2 - arm, -d / 2, legs), (w / 2, d / 2, arm_h)),
    ]
    if rng.random() < 0.4:  # rolled arms
        for x in (-w / 2 + arm / 2, w / 2 - arm / 2):
            parts.append(lying_cylinder(x, 0, arm_h, arm / 2, d, np.pi / 2))
    if legs > 0.02:
        parts += _legs(rng, w, d, legs, 0.05)
    inner = w - 2 * arm
    for k in range(seats):
        x0 = -inner / 2 + k * inner / seats
        y0, y1 = -d / 2 + back * 0.8, d / 2 + 0.02
        parts.append(box((x0 + 0.005, y0, seat - 0.14), (x0 + inner / seats - 0.005, y1, seat)))
        if rng.random() < 0.4:
            x = x0 + inner / seats / 2
            parts.append(ellipsoid((x, y0 + 0.12, seat + 0.17), (0.22, 0.1, 0.19)))
    return Piece("sofa", parts, (w, d))


def bed(rng: Rng) -> Piece:
    """Frame, mattress, headboard at the wall, pillows, sometimes a duvet."""
    w, d, h = rng.choice([0.9, 1.0, 1.4, 1.6, 1.8]), rng.uniform(1.95, 2.1), rng.uniform(0.2, 0.4)
    m, legs, head = rng.uniform(0.14, 0.25), rng.choice([0.0, 0.12]), rng.uniform(0.6, 1.2)
    parts = [
        box((-w / 2 - 0.03, -d / 2, legs), (w / 2 + 0.03, d / 2 + 0.03, h)),
        box((-w / 2, -d / 2 + 0.02, h), (w / 2, d / 2, h + m)),
        box((-w / 2 - 0.03, -d / 2 - 0.03, 0), (w / 2 + 0.03, -d / 2 + 0.03, head)),
    ]
    if legs > 0:
        parts += _legs(rng, w, d, legs, 0.06)
    for x in [0.0] if w < 1.2 else [-w / 4, w / 4]:
        half = (min(0.35, w / 4 if w > 1.2 else 0.35), 0.22, rng.uniform(0.07, 0.12))
        parts.append(ellipsoid((x, -d / 2 + 0.33, h + m + 0.03), half, rng.normal(0, 0.1)))
    if rng.random() < 0.6:
        half = (w * 0.56, d * 0.36, rng.uniform(0.06, 0.2))
        parts.append(ellipsoid((0.0, d * 0.15, h + m), half))
    if rng.random() < 0.4:
        x, y, z = rng.uniform(-w / 3, w / 3), rng.uniform(0, d / 3), h + m + 0.03
        parts.append(ellipsoid((x, y, z), (0.3, 0.2, 0.16), rng.uniform(0, 3)))
    return Piece("bed", parts, (w + 0.06, d + 0.06))


def things(rng: Rng, w: float, d: float, z: float, room: float, count: int) -> list[Primitive]:
    """Small things standing on a board of size w x d at height z, none higher than `room`."""
    parts: list[Primitive] = []
    for _ in range(count):
        h = min(rng.uniform(0.05, 0.35), room * 0.9)
        r = min(rng.uniform(0.03, 0.14), 0.45 * min(w, d))
        x = rng.uniform(-1, 1) * max(w / 2 - r, 0)
        y = rng.uniform(-1, 1) * max(d / 2 - r, 0)
        style = rng.integers(5)
        if style <= 1:
            s = r * rng.uniform(0.3, 1.0)
            turn = rotation_z(rng.choice([0.0, rng.uniform(0, np.pi)]))
            parts.append(box((x - r, y - s, z), (x + r, y + s, z + h), turn))
        elif style == 2:
            parts.append(cylinder(x, y, z, z + h, min(r, 0.09)))
        elif style == 3:
            parts.append(ellipsoid((x, y, z + min(r, h / 2)), (r, r, min(r, h / 2))))
        else:  # a vase: belly and neck
            r = min(r, 0.1)
            parts.append(ellipsoid((x, y, z + h * 0.35), (r, r, h * 0.36)))
            parts.append(cylinder(x, y, z, z + h, r * 0.4))
    return parts


def shelf(rng: Rng) -> Piece:
    """An open shelf with boards, sometimes a back, with books and things on the boards."""
    w, d, h = rng.uniform(0.5, 1.6), rng.uniform(0.22, 0.42), rng.uniform(0.7, 2.1)
    t, boards = rng.uniform(0.016, 0.035), max(2, int(h / rng.uniform(0.3, 0.45)))
    parts = [
        box((-w / 2, -d / 2, 0), (-w / 2 + t, d / 2, h)),
        box((w / 2 - t, -d / 2, 0), (w / 2, d / 2, h)),
    ]
    if rng.random() < 0.7:
        parts.append(box((-w / 2, -d / 2, 0), (w / 2, -d / 2 + 0.015, h)))
    gap = (h - t - 0.05) / boards
    for k in range(boards + 1):
        z = 0.05 + k * gap
        parts.append(box((-w / 2, -d / 2, z), (w / 2, d / 2, z + t)))
        above = gap - t if k < boards else 0.4
        if rng.random() < 0.5 and k < boards:  # a row of books
            x0 = rng.uniform(-w / 2 + t, 0)
            x1 = rng.uniform(x0 + 0.1, w / 2 - t)
            y1 = d / 2 - rng.uniform(0.01, 0.08)
            parts.append(box((x0, -d / 2, z + t), (x1, y1, z + t + above * rng.uniform(0.6, 0.9))))
        elif rng.random() < 0.6:
            parts += things(rng, w - 0.1, d, z + t, above, int(rng.integers(1, 4)))
    return Piece("shelf", parts, (w, d))


def cupboard(rng: Rng) -> Piece:
    """A closed sideboard, kitchen row or chest of drawers with handles."""
    w, d, h = rng.uniform(0.5, 2.0), rng.uniform(0.35, 0.62), rng.uniform(0.5, 1.15)
    legs, doors = rng.choice([0.0, 0.1, 0.15]), max(1, int(w / rng.uniform(0.4, 0.6)))
    parts = [
        box((-w / 2, -d / 2, legs), (w / 2, d / 2, h - 0.03)),
        box((-w / 2 - 0.01, -d / 2, h - 0.03), (w / 2 + 0.01, d / 2 + 0.02, h)),
    ]
    if legs > 0:
        parts += _legs(rng, w, d, legs, 0.05)
    for k in range(doors):
        x = -w / 2 + (k + 0.5) * w / doors
        z = h - 0.15
        parts.append(box((x - 0.06, d / 2, z - 0.01), (x + 0.06, d / 2 + 0.03, z + 0.01)))
    return Piece("cupboard", parts, (w, d + 0.03), h)


def wardrobe(rng: Rng) -> Piece:
    """A tall closed cupboard or a fridge."""
    w, d, h = rng.uniform(0.55, 2.2), rng.uniform(0.45, 0.68), rng.uniform(1.5, 2.2)
    parts = [
        box((-w / 2, -d / 2, 0), (w / 2, d / 2 - 0.02, h)),
        box((-w / 2, -d / 2, 0.07), (-0.004, d / 2, h - 0.02)),
        box((0.004, -d / 2, 0.07), (w / 2, d / 2, h - 0.02)),
    ]
    for x in (-0.05, 0.05):
        parts.append(cylinder(x, d / 2 + 0.025, h / 2 - 0.1, h / 2 + 0.1, 0.012))
    if rng.random() < 0.4:
        parts += things(rng, w, d, h, 0.5, 2)
    return Piece("wardrobe", parts, (w, d))


def lamp(rng: Rng) -> Piece:
    """A floor lamp: foot, pole, shade."""
    h, r = rng.uniform(1.2, 1.8), rng.uniform(0.12, 0.24)
    shade = (
        cylinder(0, 0, h - rng.uniform(0.2, 0.35), h, r)
        if rng.random() < 0.6
        else ellipsoid((0, 0, h), (r, r, r * 0.8))
    )
    pole = cylinder(0, 0, 0, h, rng.uniform(0.012, 0.025))
    return Piece("lamp", [cylinder(0, 0, 0, 0.03, 0.15), pole, shade], (0.3, 0.3))


def plant(rng: Rng) -> Piece:
    """A pot with a crown of ellipsoids."""
    r, h = rng.uniform(0.12, 0.2), rng.uniform(0.2, 0.4)
    top = h + rng.uniform(0.25, 0.9)
    parts = [cylinder(0, 0, 0, h, r), cylinder(0, 0, h, top, 0.02)]
    for _ in range(rng.integers(3, 7)):
        x, y, z = rng.normal(0, 0.1), rng.normal(0, 0.1), rng.uniform(h + 0.1, top)
        half = (rng.uniform(0.08, 0.22), rng.uniform(0.05, 0.12), rng.uniform(0.08, 0.2))
        parts.append(ellipsoid((x, y, z), half, rng.uniform(0, 3)))
    return Piece("plant", parts, (0.4, 0.4))


def clutter(rng: Rng) -> Piece:
    """Something on the floor: a ball, bin, carton, bag, stack of boxes or lying roll."""
    r = rng.uniform(0.08, 0.3)
    style = rng.integers(6)
    if style == 0:
        return Piece("ball", [ellipsoid((0, 0, r), (r, r, r))], (2 * r, 2 * r))
    if style == 1:
        r = min(r, 0.2)
        return Piece("bin", [cylinder(0, 0, 0, rng.uniform(0.25, 0.6), r)], (2 * r, 2 * r))
    if style == 2:
        half = (r, r * rng.uniform(0.5, 1), r * rng.uniform(0.6, 1.2))
        return Piece("bag", [ellipsoid((0, 0, half[2] * 0.85), half)], (2 * r, 2 * r))
    if style == 3:
        roll = lying_cylinder(0, 0, 0.5 * r, 0.5 * r, rng.uniform(0.4, 1.0))
        return Piece("roll", [roll], (0.8, r))
    parts: list[Primitive] = []
    z = 0.0
    for _ in range(1 if style == 4 else rng.integers(2, 5)):
        x, y, h = rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.3), rng.uniform(0.1, 0.35)
        parts.append(box((-x, -y, z), (x, y, z + h), rotation_z(rng.normal(0, 0.25))))
        z += h
    return Piece("boxes", parts, (0.5, 0.5))


def pillar(rng: Rng) -> Piece:
    """A pillar from floor to beyond the ceiling, square or round."""
    r = rng.uniform(0.1, 0.25)
    part = cylinder(0, 0, -0.1, 4, r) if rng.random() < 0.4 else box((-r, -r, -0.1), (r, r, 4))
    return Piece("pillar", [part], (2 * r, 2 * r))


def wall_stub(rng: Rng) -> Piece:
    """An inner wall that sticks out of a wall, of full or half height."""
    t, d = rng.uniform(0.08, 0.24), rng.uniform(0.4, 1.5)
    h = 4.0 if rng.random() < 0.7 else rng.uniform(0.9, 1.3)
    return Piece("wall_stub", [box((-t / 2, -d / 2 - 0.05, -0.1), (t / 2, d / 2, h))], (t, d))


AT_WALL: list[tuple[Callable[[Rng], Piece], float]] = [
    (table, 2), (sofa, 2.5), (bed, 1.5), (shelf, 3), (cupboard, 3), (wardrobe, 1.5), (lamp, 0.8),
    (plant, 1), (chair, 1.5), (wall_stub, 0.5), (clutter, 1.5),
]  # fmt: skip
IN_ROOM: list[tuple[Callable[[Rng], Piece], float]] = [
    (table, 3), (chair, 5), (sofa, 0.8), (clutter, 3), (pillar, 0.3), (plant, 0.5), (lamp, 0.3),
    (shelf, 0.2), (cupboard, 0.2),
]  # fmt: skip


def draw(rng: Rng, kinds: list[tuple[Callable[[Rng], _Drawn], float]]) -> _Drawn:
    """One random piece or the like, kinds drawn by their weight."""
    return pick(rng, kinds)(rng)


def pick(rng: Rng, kinds: list[tuple[_Drawn, float]]) -> _Drawn:
    """One of the kinds, by their weight."""
    weights = np.array([weight for _, weight in kinds])
    return kinds[rng.choice(len(kinds), p=weights / weights.sum())][0]
