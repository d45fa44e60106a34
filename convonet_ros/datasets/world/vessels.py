"""Open and curved things: boxes without a lid, bins, baskets, tubs, sinks, chairs like shells.

Pieces as in `furniture.py`: on z = 0 around the origin, the back towards -y, metres.
"""

from __future__ import annotations

import numpy as np

from convonet_ros.datasets.world.bars import arc, beam, ring, rod, rods
from convonet_ros.datasets.world.furniture import Piece, Rng, box, cylinder, ellipsoid
from convonet_ros.datasets.world.primitives import Primitive, rotation_x, rotation_z


def tray(w: float, d: float, h: float, t: float, z: float = 0.0) -> list[Primitive]:
    """Five thin panels: a box that is open above."""
    x, y = w / 2, d / 2
    return [
        box((-x, -y, z), (x, y, z + t)),
        box((-x, -y, z), (-x + t, y, z + h)),
        box((x - t, -y, z), (x, y, z + h)),
        box((-x, -y, z), (x, -y + t, z + h)),
        box((-x, y - t, z), (x, y, z + h)),
    ]


def open_box(rng: Rng) -> Piece:
    """A carton with open flaps, a crate, or a plain box without a lid; sometimes with things in."""
    w, d, h = rng.uniform(0.25, 0.6), rng.uniform(0.2, 0.45), rng.uniform(0.15, 0.45)
    t = rng.uniform(0.004, 0.014)
    style = rng.integers(3)
    if style == 1:  # a crate of slats
        slat = rng.uniform(0.05, 0.09)
        parts = [box((-w / 2, -d / 2, 0), (w / 2, d / 2, t))]
        for z in np.arange(0.0, h - slat, slat * rng.uniform(1.3, 1.8)):
            parts += tray(w, d, slat, t, z)[1:]
        for x in (-w / 2 + 0.02, w / 2 - 0.02):
            for y in (-d / 2 + 0.02, d / 2 - 0.02):
                parts.append(box((x - 0.012, y - 0.012, 0), (x + 0.012, y + 0.012, h)))
    else:
        parts = tray(w, d, h, t)
    if style == 0:  # flaps
        for side in (-1, 1):
            out = rng.uniform(0.3, 2.4)
            flap = np.array([0.0, np.sin(out), np.cos(out)]) * 0.45 * d
            a = np.array([0.0, d / 2 - t / 2, h])
            b = a + flap
            parts.append(beam(a * [1, side, 1], b * [1, side, 1], w, 0.7 * t))
            out = rng.uniform(0.3, 2.4)
            a = np.array([w / 2 - t / 2, 0.0, h])
            b = a + np.array([np.sin(out), 0.0, np.cos(out)]) * 0.45 * d
            parts.append(beam(a * [side, 1, 1], b * [side, 1, 1], d, 0.7 * t))
    for _ in range(int(rng.integers(0, 4))):
        r = rng.uniform(0.03, 0.09)
        x, y = rng.uniform(-1, 1, 2) * np.maximum([w / 2 - r - t, d / 2 - r - t], 0.0)
        if rng.random() < 0.5:
            parts.append(ellipsoid((x, y, t + r), (r, r, r)))
        else:
            parts.append(box((x - r, y - r, t), (x + r, y + r, rng.uniform(0.5, 1.3) * h)))
    return Piece("open_box", parts, (w, d))


def basket(rng: Rng) -> Piece:
    """A round bin, bucket or basket, open above: closed walls, or rods with gaps."""
    r, h = rng.uniform(0.1, 0.26), rng.uniform(0.2, 0.6)
    wide = r * rng.uniform(1.0, 1.3)
    count = int(rng.integers(10, 17))
    parts = [cylinder(0, 0, 0, 0.012, r)]
    if rng.random() < 0.65:
        parts += ring((r, wide), (0.0, h), rng.uniform(0.004, 0.012), count)
    else:
        w = rng.uniform(0.002, 0.005)
        for a in 2 * np.pi * np.arange(2 * count) / (2 * count):
            c, s = np.cos(a), np.sin(a)
            parts.append(rod((r * c, r * s, 0), (wide * c, wide * s, h), w))
        for z in (0.5 * h, h):
            radius = r + (wide - r) * z / h
            parts += ring((radius + w, radius + w), (z - w, z + w), 2 * w, count)
    if rng.random() < 0.3:
        parts.append(ellipsoid((0, 0, 0.4 * h), (0.8 * r, 0.8 * r, 0.3 * h)))
    return Piece("basket", parts, (2 * wide, 2 * wide))


def bathtub(rng: Rng) -> Piece:
    """A tub: an oval of tilted panels with a rim, or a box around it."""
    w, d, h = rng.uniform(1.3, 1.75), rng.uniform(0.65, 0.8), rng.uniform(0.5, 0.62)
    t = rng.uniform(0.015, 0.04)
    squeeze = (d / 2) / (w / 2)
    floor = ellipsoid((0, 0, 0.13), (0.43 * w, 0.43 * d, 0.03))
    parts = [floor, *ring((0.42 * w, w / 2), (0.11, h), t, 22, squeeze=squeeze)]
    if rng.random() < 0.5:  # built in: panels to the floor and a top between
        parts += tray(w, d, h, 0.02)[1:]
        for sx in (-1, 1):
            for sy in (-1, 1):
                corner = (sx * w / 2, sy * d / 2, h)
                parts.append(box((sx * 0.36 * w, sy * 0.38 * d, h - 0.02), corner))
    else:
        for x in (-0.25 * w, 0.25 * w):
            for y in (-0.2 * d, 0.2 * d):
                parts.append(cylinder(x, y, 0, 0.14, 0.025))
    return Piece("bathtub", parts, (w, d))


def sink_row(rng: Rng) -> Piece:
    """A worktop with a basin sunk into it and a bent tap, on a carcass."""
    w, d, h = rng.uniform(0.8, 2.0), rng.uniform(0.55, 0.65), rng.uniform(0.82, 0.92)
    bw, bd, deep, t = rng.uniform(0.35, 0.5), rng.uniform(0.3, 0.4), rng.uniform(0.12, 0.2), 0.03
    x = rng.uniform(-0.5, 0.5) * (w - bw - 0.2)
    parts = [
        p.moved(np.eye(3), np.array([x, 0.03, h - deep]), "") for p in tray(bw, bd, deep, 0.006)
    ]
    x0, x1, y0, y1 = x - bw / 2, x + bw / 2, 0.03 - bd / 2, 0.03 + bd / 2
    for low, high in (
        ((-w / 2, -d / 2), (x0, d / 2)), ((x1, -d / 2), (w / 2, d / 2)),
        ((x0, -d / 2), (x1, y0)), ((x0, y1), (x1, d / 2)),
    ):  # fmt: skip
        parts.append(box((*low, h - t), (*high, h)))
    if rng.random() < 0.6:
        parts.append(box((-w / 2, -d / 2, 0.1), (w / 2, d / 2 - 0.04, h - deep - 0.02)))
        parts.append(box((-w / 2, d / 2 - 0.06, 0.1), (w / 2, d / 2 - 0.04, h - t)))
    else:  # open below
        for side in (-w / 2 + 0.012, w / 2 - 0.012):
            parts.append(box((side - 0.012, -d / 2, 0), (side + 0.012, d / 2, h - t)))
        parts += rods([(x, 0, h - deep), (x, 0, 0.45), (x, -d / 2, 0.45)], 0.02)
    r, up = rng.uniform(0.008, 0.014), rng.uniform(0.12, 0.25)
    bend = arc((0, 0, 0), 0.07, 6, np.pi, 0.0) @ rotation_z(np.pi / 2).T
    foot = np.array([x, y0 - 0.03, h])
    bend += foot + np.array([0, 0.07, up])
    parts += [rod(foot, bend[0], r), *rods(bend, r)]
    return Piece("sink_row", parts, (w, d))


def toilet(rng: Rng) -> Piece:
    """A bowl on a foot with a cistern behind, the lid up or down."""
    h = rng.uniform(0.38, 0.45)
    foot = Primitive(
        "cone", "", np.array([0, 0.02, h / 3]), np.eye(3), np.array([0.14, 0.14, h / 3]), 0.25
    )
    parts = [foot, *ring((0.13, 0.2), (0.5 * h, h), 0.03, 14, squeeze=1.2)]
    parts.append(box((-0.19, -0.34, h - 0.03), (0.19, -0.18, h + rng.uniform(0.3, 0.4))))
    parts.append(box((-0.1, -0.34, 0), (0.1, -0.05, h - 0.03)))
    if rng.random() < 0.5:
        parts.append(box((-0.18, -0.16, h), (0.18, 0.22, h + 0.02)))
    else:
        parts.append(box((-0.18, -0.19, h), (0.18, -0.17, h + 0.4), rotation_x(0.12)))
    return Piece("toilet", parts, (0.4, 0.7))


def tub_chair(rng: Rng) -> Piece:
    """An armchair with a round back of panels."""
    r, seat, back = rng.uniform(0.3, 0.42), rng.uniform(0.36, 0.46), rng.uniform(0.62, 0.85)
    t, low = rng.uniform(0.015, 0.08), rng.uniform(0.0, 0.3)
    opening = rng.uniform(0.3, 0.9)
    parts = [cylinder(0, 0, seat - rng.uniform(0.05, 0.15), seat, r - 0.02)]
    parts += ring(
        (r, r * rng.uniform(1.0, 1.12)),
        (low, back),
        t,
        12,
        np.pi / 2 + opening,
        2.5 * np.pi - opening,
    )
    if rng.random() < 0.5:
        parts += [cylinder(0, 0, 0.02, seat, 0.03), cylinder(0, 0, 0, 0.025, 0.25)]
    else:
        for a in np.pi / 4 + np.pi / 2 * np.arange(4):
            x, y = 0.75 * r * np.cos(a), 0.75 * r * np.sin(a)
            parts.append(
                rod((1.15 * x, 1.15 * y, 0), (x, y, seat - 0.05), rng.uniform(0.007, 0.015))
            )
    return Piece("tub_chair", parts, (2 * r, 2 * r))


def curved_shelf(rng: Rng) -> Piece:
    """A low shelf or counter along an arc."""
    r, h, deep = rng.uniform(0.8, 1.3), rng.uniform(0.4, 1.05), rng.uniform(0.18, 0.32)
    open_, half = rng.random() < 0.6, rng.uniform(0.4, 0.8)
    angle = (np.pi / 2 - half, np.pi / 2 + half)
    parts = ring((r, r), (h - 0.025, h), deep, 10, *angle)
    if open_:
        for z in np.linspace(0.05, h, int(rng.integers(2, 4)) + 1)[:-1]:
            parts += ring((r, r), (z, z + 0.02), deep, 10, *angle)
        ends = np.linspace(*angle, 5)
        for a in ends:
            c, s = np.cos(a), np.sin(a)
            inner = r - deep
            mid = h / 2
            parts.append(
                beam((inner * c, inner * s, mid), (0.99 * r * c, 0.99 * r * s, mid), 0.018, h)
            )
    else:
        parts += ring((r, r), (0.0, h), 0.03, 10, *angle)
    shift = np.array([0.0, -r + (r - (r - deep) * np.cos(half)) / 2, 0.0])
    parts = [p.moved(np.eye(3), shift, "") for p in parts]
    return Piece("curved_shelf", parts, (2 * r * np.sin(half), r - (r - deep) * np.cos(half)))
