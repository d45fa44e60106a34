"""Small things that stand on tables and boards, thin and open ones among them.

Each is built around the origin on z = 0, not wider than the radius `r` and not higher than `h`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from convonet_ros.datasets.world import furniture, meshes
from convonet_ros.datasets.world.bars import beam, ring, rod, rods
from convonet_ros.datasets.world.furniture import Rng, box, cylinder, ellipsoid
from convonet_ros.datasets.world.primitives import Primitive, rotation_x, rotation_z
from convonet_ros.datasets.world.vessels import tray

_Thing = Callable[[Rng, float, float], list[Primitive]]


def load(rng: Rng, w: float, d: float, z: float, room: float, count: int) -> list[Primitive]:
    """Things on a board of size w x d at height z, none higher than `room`, mostly apart."""
    parts: list[Primitive] = []
    places: list[tuple[float, float, float]] = []
    for _ in range(count):
        most = 0.48 * min(w, d)
        r = min(rng.uniform(0.05, 0.3), most)
        for _ in range(6):
            x, y = rng.uniform(-1, 1, 2) * np.maximum([w / 2 - r, d / 2 - r], 0.0)
            if all(np.hypot(x - u, y - v) > 0.8 * (r + q) for u, v, q in places):
                break
            r *= 0.85
        if r < 0.03:
            continue
        places.append((x, y, r))
        build = furniture.pick(rng, _THINGS)
        turn = rotation_z(rng.uniform(-np.pi, np.pi) if rng.random() < 0.3 else rng.normal(0, 0.2))
        made = build(rng, r, 0.92 * room)
        parts += [part.moved(turn, np.array([x, y, z]), "") for part in made]
    return parts


def _block(rng: Rng, r: float, h: float) -> list[Primitive]:
    x, y = r * rng.uniform(0.3, 0.85), r * rng.uniform(0.15, 0.5)
    return [box((-x, -y, 0), (x, y, min(h, rng.uniform(0.02, 0.35))))]


def _papers(rng: Rng, r: float, h: float) -> list[Primitive]:
    """Thin slabs on each other: paper, books, plates."""
    parts, z = [], 0.0
    for _ in range(int(rng.integers(1, 7))):
        x, y, t = (
            0.8 * r * rng.uniform(0.7, 1),
            0.57 * r * rng.uniform(0.7, 1),
            rng.uniform(0.002, 0.035),
        )
        if z + t > h:
            break
        parts.append(box((-x, -y, z), (x, y, z + t), rotation_z(rng.normal(0, 0.15))))
        z += t
    return parts


def _books(rng: Rng, r: float, h: float) -> list[Primitive]:
    """Books that stand side by side, the last ones leaning."""
    parts, x = [], -0.8 * r
    while x < 0.6 * r:
        t, tall, deep = (
            rng.uniform(0.012, 0.045),
            rng.uniform(0.5, 1) * min(h, 0.3),
            rng.uniform(0.5, 1),
        )
        deep = min(deep * 0.11, 0.55 * r)
        parts.append(box((x, -deep, 0), (x + t, deep, tall)))
        x += t + 0.001
    lean, tall = rng.uniform(0.1, 0.5), min(h, 0.25) * 0.9
    parts.append(beam((x + tall * np.sin(lean), 0, 0), (x, 0, tall * np.cos(lean)), 0.1, 0.02))
    return parts


def _monitor(rng: Rng, r: float, h: float) -> list[Primitive]:
    """A thin screen on a thin stand."""
    high = min(h, rng.uniform(0.35, 0.55), 1.6 * r + 0.1)
    x, t = 0.95 * r, rng.uniform(0.008, 0.03)
    low = rng.uniform(0.25, 0.4) * high
    return [
        box((-0.45 * r, -0.3 * r, 0), (0.45 * r, 0.3 * r, 0.012)),
        box((-0.02, -0.02, 0), (0.02, 0, 0.7 * high)),
        box((-x, 0, low), (x, t, high), rotation_x(rng.uniform(-0.2, 0.1))),
    ]


def _laptop(rng: Rng, r: float, h: float) -> list[Primitive]:
    """Two thin slabs, the second at an angle."""
    x, y, t = 0.8 * r, 0.55 * r, rng.uniform(0.006, 0.014)
    angle = rng.uniform(0.0, 0.6)
    top = min(1.1 * r, h) * np.array([np.sin(angle), np.cos(angle)])
    return [
        box((-x, -y, 0), (x, y, 1.3 * t)),
        beam((0, -y, t), (0, -y - top[0], t + top[1]), 2 * x, 0.7 * t),
    ]


def _cup(rng: Rng, r: float, h: float) -> list[Primitive]:
    """A cup, bowl or pot of panels, open above."""
    low, high = min(r, rng.uniform(0.03, 0.12)), min(h, rng.uniform(0.05, 0.16))
    wide = min(r, low * rng.uniform(1.0, 1.6))
    low = wide / rng.uniform(1.0, 1.8)
    parts = [cylinder(0, 0, 0, 0.006, low)]
    parts += ring((low, wide), (0.0, high), rng.uniform(0.003, 0.007), 12)
    if rng.random() < 0.4:
        parts += rods(
            [(wide, 0, 0.8 * high), (wide + 0.03, 0, 0.6 * high), (low, 0, 0.3 * high)], 0.005
        )
    return parts


def _bottle(rng: Rng, r: float, h: float) -> list[Primitive]:
    wide, high = min(r, rng.uniform(0.025, 0.06)), min(h, rng.uniform(0.15, 0.34))
    neck = 0.35 * wide
    shoulder = np.array([wide, wide, 0.08 * high])
    return [
        cylinder(0, 0, 0, 0.6 * high, wide),
        Primitive("cone", "", np.array([0, 0, 0.68 * high]), np.eye(3), shoulder, 1 - neck / wide),
        cylinder(0, 0, 0.7 * high, high, neck),
    ]


def _cone(rng: Rng, r: float, h: float) -> list[Primitive]:
    wide, high = min(r, rng.uniform(0.05, 0.18)), min(h, rng.uniform(0.08, 0.4))
    taper = rng.uniform(0.2, 1.0)
    turn, up = (np.eye(3), 1.0) if rng.random() < 0.7 else (rotation_x(np.pi), 1.0)
    half = np.array([wide, wide, high / 2])
    return [Primitive("cone", "", np.array([0, 0, up * high / 2]), turn, half, taper)]


def _wedge(rng: Rng, r: float, h: float) -> list[Primitive]:
    half = r * rng.uniform([0.4, 0.3, 0.2], [0.8, 0.6, 0.6])
    half[2] = min(half[2], h / 2)
    return [Primitive("wedge", "", np.array([0, 0, half[2]]), np.eye(3), half)]


def _open_box(rng: Rng, r: float, h: float) -> list[Primitive]:
    w, d = 1.4 * r * rng.uniform(0.5, 1), 1.2 * r * rng.uniform(0.5, 1)
    return tray(w, d, min(h, rng.uniform(0.04, 0.25)), rng.uniform(0.003, 0.008))


def _lamp(rng: Rng, r: float, h: float) -> list[Primitive]:
    """A desk lamp: thin arms in a bend and a shade."""
    high = min(h, rng.uniform(0.3, 0.5))
    joint = np.array([-0.6 * r, 0.0, 0.6 * high])
    head = np.array([0.4 * r, 0.0, 0.9 * high])
    shade = np.array([0.055, 0.055, 0.05])
    return [
        cylinder(0, 0, 0, 0.02, min(r, 0.07)),
        rod((0, 0, 0), joint, 0.005),
        rod(joint, head, 0.005),
        Primitive("cone", "", head - [0, 0, 0.03], np.eye(3), shade, 0.6),
    ]


def _picture(rng: Rng, r: float, h: float) -> list[Primitive]:
    """A picture that leans on its stand."""
    high, x = min(h, rng.uniform(0.12, 0.35)), 0.7 * r
    lean = 0.25 * high
    return [
        beam((0, lean / 2, 0.0), (0, -lean / 2, 0.95 * high), 2 * x, 0.012),
        beam((0, -lean, 0.0), (0, -0.2 * lean, 0.6 * high), 0.03, 0.004),
    ]


def _sprig(rng: Rng, r: float, h: float) -> list[Primitive]:
    """A small plant: a pot, thin stems, leaves."""
    pot = np.array([0.06, 0.06, 0.045])
    parts = [Primitive("cone", "", np.array([0, 0, 0.045]), rotation_x(np.pi), pot, 0.3)]
    for _ in range(int(rng.integers(3, 9))):
        a, out = rng.uniform(0, 2 * np.pi), r * rng.uniform(0.1, 0.8)
        tip = np.array([out * np.cos(a), out * np.sin(a), rng.uniform(0.12, 0.4)])
        tip[2] = min(tip[2], h - 0.02)
        parts.append(rod((0, 0, 0.08), tip, 0.0025))
        parts.append(ellipsoid(tuple(tip), (0.045, 0.025, 0.006), a))
    return parts


def model(rng: Rng, r: float, h: float) -> list[Primitive]:
    """A closed mesh of the catalogue, upright or on one of its flat sides."""
    name, found = meshes.drawn(rng)
    turn = rotation_z(rng.uniform(-np.pi, np.pi)) @ found.rests[rng.integers(len(found.rests))]
    extent = 2 * np.abs(turn) @ found.half
    longest = min(rng.uniform(*found.size_m), h / extent[2], 2 * r / extent[:2].max())
    return [meshes.solid(name, float(longest), turn)]


def _plain(rng: Rng, r: float, h: float) -> list[Primitive]:
    return furniture.things(rng, 2 * r, 2 * r, 0.0, h, 1)


_THINGS: list[tuple[_Thing, float]] = [
    (_plain, 7), (_block, 1), (_papers, 2), (_books, 1.5), (_monitor, 1.5), (_laptop, 1.5),
    (_cup, 2), (_bottle, 1.2), (_cone, 0.7), (_wedge, 0.5), (_open_box, 1.5), (_lamp, 0.8),
    (_picture, 0.8), (_sprig, 0.6), (model, 5),
]  # fmt: skip
