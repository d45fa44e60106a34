"""Slanted and stacked things: boards and ladders against a wall, ramps, steps, pallets, stacks.

Pieces as in `furniture.py`: on z = 0 around the origin, the back towards -y, metres.
"""

from __future__ import annotations

import numpy as np

from convonet_ros.datasets.world import furniture
from convonet_ros.datasets.world.bars import beam
from convonet_ros.datasets.world.furniture import Piece, Rng, box
from convonet_ros.datasets.world.primitives import Primitive, rotation_x, rotation_z


def leaning(rng: Rng) -> Piece:
    """A board, a picture, a ladder or some slats that lean against the wall."""
    w, h, foot = rng.uniform(0.2, 1.0), rng.uniform(0.6, 2.0), rng.uniform(0.12, 0.6)
    t = rng.uniform(0.008, 0.04)
    parts: list[Primitive] = []
    style = rng.integers(3)
    if style == 0:
        parts.append(beam((0, foot / 2, 0), (0, -foot / 2, h), w, t))
    elif style == 1:
        w = rng.uniform(0.3, 0.45)
        for x in (-w / 2, w / 2):
            parts.append(beam((x, foot / 2, 0), (x, -foot / 2, h), 0.025, 0.06))
        for share in np.arange(0.25, h, 0.27) / h:
            y, z = foot * (0.5 - share), share * h
            parts.append(beam((-w / 2, y, z), (w / 2, y, z), 0.03, 0.025))
    else:
        for _ in range(int(rng.integers(2, 6))):
            x0, x1, high = (
                rng.uniform(-w / 2, w / 2),
                rng.uniform(-w / 2, w / 2),
                h * rng.uniform(0.6, 1),
            )
            parts.append(beam((x0, foot / 2, 0), (x1, -foot / 2, high), rng.uniform(0.02, 0.08), t))
    return Piece("leaning", parts, (w, foot))


def ramp(rng: Rng) -> Piece:
    """A ramp, often with a platform behind it, sometimes with a curb."""
    w, d, h = rng.uniform(0.6, 1.2), rng.uniform(0.5, 1.3), rng.uniform(0.08, 0.45)
    deep = rng.choice([0.0, rng.uniform(0.3, 0.8)])
    half = np.array([d / 2, w / 2, h / 2])
    centre = np.array([0.0, deep / 2, h / 2])
    parts = [Primitive("wedge", "", centre, np.round(rotation_z(np.pi / 2)), half)]
    if deep:
        parts.append(box((-w / 2, -(d + deep) / 2, 0), (w / 2, (deep - d) / 2, h)))
    if rng.random() < 0.3:
        for x in (-w / 2, w / 2):
            y0, y1 = (d + deep) / 2, (deep - d) / 2
            parts.append(beam((x, y0, 0.02), (x, y1, h + 0.02), 0.02, 0.08))
    return Piece("ramp", parts, (w, d + deep))


def steps(rng: Rng) -> Piece:
    """A podium, or a few steps that lead up to it."""
    w, h, tread = rng.uniform(0.6, 1.4), rng.uniform(0.12, 0.2), rng.uniform(0.25, 0.35)
    count = int(rng.integers(1, 5))
    deep = count * tread + rng.uniform(0.0, 0.5)
    parts = []
    for k in range(count):
        parts.append(box((-w / 2, -deep / 2, k * h), (w / 2, deep / 2 - k * tread, (k + 1) * h)))
    return Piece("steps", parts, (w, deep))


def lectern(rng: Rng) -> Piece:
    """A desk or a drawing table with a slanted top."""
    w, d, h = rng.uniform(0.5, 1.3), rng.uniform(0.4, 0.8), rng.uniform(0.75, 1.1)
    tilt = rng.uniform(0.15, 0.7)
    drop = d / 2 * np.sin(tilt)
    parts = [box((-w / 2, -d / 2, h), (w / 2, d / 2, h + 0.025), rotation_x(-tilt))]
    for x in (-w / 2 + 0.05, w / 2 - 0.05):
        parts.append(beam((x, -0.1, 0), (x, -0.1, h), 0.03, 0.04))
        parts.append(beam((x, -0.3, 0.02), (x, 0.25, 0.02), 0.03, 0.03))
    parts.append(box((-w / 2, d / 2 - 0.1, h - drop), (w / 2, d / 2 - 0.08, h - drop + 0.06)))
    return Piece("lectern", parts, (w, d))


def pallet(rng: Rng) -> Piece:
    """A pallet of slats with boxes on it."""
    w, d = rng.uniform(0.6, 1.2), rng.uniform(0.5, 0.8)
    parts = [
        box((-w / 2, y - 0.04, 0), (w / 2, y + 0.04, 0.09))
        for y in (-d / 2 + 0.04, 0, d / 2 - 0.04)
    ]
    for x in np.linspace(-w / 2 + 0.05, w / 2 - 0.05, int(rng.integers(5, 9))):
        parts.append(box((x - 0.045, -d / 2, 0.09), (x + 0.045, d / 2, 0.11)))
    z = 0.11
    for _ in range(int(rng.integers(0, 4))):
        h, a, b = rng.uniform(0.12, 0.35), rng.uniform(0.4, 1) * w / 2, rng.uniform(0.4, 1) * d / 2
        parts.append(box((-a, -b, z), (a, b, z + h), rotation_z(rng.normal(0, 0.08))))
        z += h
    return Piece("pallet", parts, (w, d))


def stack(rng: Rng) -> Piece:
    """A stack of chairs, of crates, of boards or paper, none exactly on the one below."""
    style = rng.integers(3)
    parts: list[Primitive] = []
    if style == 0:
        one, rise = furniture.chair(rng), rng.uniform(0.07, 0.16)
        for k in range(int(rng.integers(2, 5))):
            shift = np.array([0.0, 0.02 * k, rise * k])
            parts += [p.moved(rotation_z(rng.normal(0, 0.02)), shift, "") for p in one.parts]
        return Piece("stack", parts, one.footprint)
    w, d, z = rng.uniform(0.25, 0.6), rng.uniform(0.2, 0.4), 0.0
    h = rng.uniform(0.003, 0.05) if style == 1 else rng.uniform(0.15, 0.3)
    for _ in range(int(rng.integers(3, 14) if style == 1 else rng.integers(2, 5))):
        turn = rotation_z(rng.normal(0, 0.08))
        parts.append(box((-w / 2, -d / 2, z), (w / 2, d / 2, z + 0.96 * h), turn))
        z += h
    return Piece("stack", parts, (w, d), z if style == 1 else 0.0)
