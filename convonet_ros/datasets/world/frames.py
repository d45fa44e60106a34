"""Furniture of thin bars and boards: what a depth camera sees only in part.

Pieces as in `furniture.py`: on z = 0 around the origin, the back towards -y, metres.
"""

from __future__ import annotations

import numpy as np

from convonet_ros.datasets.world import clutter
from convonet_ros.datasets.world.bars import arc, beam, rod, rods
from convonet_ros.datasets.world.furniture import Piece, Rng, box, cylinder, ellipsoid
from convonet_ros.datasets.world.primitives import Primitive, rotation_x, rotation_z


def slim_table(rng: Rng) -> Piece:
    """A table with a top of 1 to 3 cm on legs of 1 to 2.5 cm, on trestles, or on a bent bar."""
    w, d, h = rng.uniform(0.6, 1.8), rng.uniform(0.45, 0.85), rng.uniform(0.45, 0.78)
    t, r = rng.uniform(0.01, 0.03), rng.uniform(0.005, 0.0125)
    parts = [box((-w / 2, -d / 2, h - t), (w / 2, d / 2, h))]
    x, y, under = w / 2 - 0.04, d / 2 - 0.04, h - t
    style = rng.integers(4)
    if style == 0:
        out = rng.uniform(-0.1, 0.03)
        for sx in (-1, 1):
            for sy in (-1, 1):
                parts.append(rod((sx * (x + out), sy * (y + out), 0), (sx * x, sy * y, under), r))
    elif style == 1:  # hairpins: two rods that meet on the floor
        for sx in (-1, 1):
            for sy in (-1, 1):
                foot = (sx * x, sy * y, 0.0)
                parts.append(rod(foot, (sx * (x - 0.12), sy * y, under), 0.7 * r))
                parts.append(rod(foot, (sx * x, sy * (y - 0.12), under), 0.7 * r))
    elif style == 2:  # trestles
        for sx in (-1, 1):
            a = sx * (x - 0.15)
            for end in (-y, y):
                parts.append(beam((a, end, 0), (a, 0.15 * end, under), 0.02, 0.03))
                parts.append(beam((a + 0.2 * -sx, end, 0), (a, 0.15 * end, under), 0.02, 0.03))
    else:
        for sx in (-1, 1):
            line = [
                (sx * x, y, r),
                (sx * x, -y, r),
                (sx * x, -y, under - r),
                (sx * x, y, under - r),
            ]
            parts += rods(line, 1.5 * r)
        parts.append(rod((-x, -y, 0.5 * h), (x, -y, 0.5 * h), r))
    return Piece("table", parts, (w, d), h)


def wire_chair(rng: Rng) -> Piece:
    """A folding chair or one of bent tube with a thin seat and bars in its back."""
    w, d, seat, h = rng.uniform(0.36, 0.46), rng.uniform(0.36, 0.46), 0.45, rng.uniform(0.75, 0.95)
    r, x, y = rng.uniform(0.006, 0.011), w / 2, d / 2
    parts = [box((-x, -y, seat - rng.uniform(0.008, 0.02)), (x, y, seat))]
    folding = rng.random() < 0.5
    for side in (-x, x):
        if folding:
            parts.append(rod((side, y, 0), (side, -y - 0.02, h), r))
            parts.append(rod((side, -y - 0.05, 0), (side, y, seat), r))
        else:
            parts += rods([(side, y, 0), (side, y, seat - 0.02), (side, -y, seat - 0.02)], r)
            parts += rods([(side, -y, 0), (side, -y, seat), (side, -y - 0.07, h)], r)
    top = -y - 0.02 if folding else -y - 0.07
    for share in np.linspace(0.55, 1.0, int(rng.integers(2, 5))):
        z = seat + share * (h - seat)
        back = y - (2 * y + 0.02) * z / h if folding else -y + (top + y) * share
        parts.append(rod((-x, back, z - r), (x, back, z - r), r))
    return Piece("wire_chair", parts, (w + 0.05, d + 0.12))


def bar_stool(rng: Rng) -> Piece:
    """A high stool on three or four slanted legs."""
    h, r, wide = rng.uniform(0.6, 0.8), rng.uniform(0.007, 0.014), rng.uniform(0.16, 0.22)
    count = int(rng.integers(3, 5))
    parts = [cylinder(0, 0, h - rng.uniform(0.02, 0.05), h, rng.uniform(0.14, 0.19))]
    feet = [(wide * np.cos(a), wide * np.sin(a)) for a in 2 * np.pi * np.arange(count) / count]
    for k, (x, y) in enumerate(feet):
        parts.append(rod((x, y, 0), (0.4 * x, 0.4 * y, h - 0.02), r))
        u, v = feet[(k + 1) % count]
        parts.append(rod((0.85 * x, 0.85 * y, 0.2), (0.85 * u, 0.85 * v, 0.2), 0.7 * r))
    return Piece("bar_stool", parts, (2 * wide, 2 * wide))


def clothes_horse(rng: Rng) -> Piece:
    """A drying rack of thin bars, sometimes with clothes over them."""
    w, d, h = rng.uniform(0.9, 1.7), rng.uniform(0.45, 0.6), rng.uniform(0.85, 1.1)
    r = rng.uniform(0.006, 0.01)
    parts = []
    for side in (-0.3 * w, 0.3 * w):
        parts.append(rod((side, -d / 2, 0), (side, d / 2, h), r))
        parts.append(rod((side, d / 2, 0), (side, -d / 2, h), r))
    for y in (-d / 2, d / 2):
        parts.append(rod((-w / 2, y, h), (w / 2, y, h), r))
    for x in (-w / 2, w / 2):
        parts.append(rod((x, -d / 2, h), (x, d / 2, h), r))
    for y in np.linspace(-d / 2, d / 2, int(rng.integers(6, 13)))[1:-1]:
        parts.append(rod((-w / 2, y, h), (w / 2, y, h), rng.uniform(0.002, 0.004)))
        if rng.random() < 0.3:
            half, x = rng.uniform(0.1, 0.3), rng.uniform(-0.5, 0.5) * (w - 0.6)
            down = rng.uniform(0.2, 0.7)
            parts.append(box((x - half, y - 0.008, h - down), (x + half, y + 0.008, h + 0.01)))
    return Piece("clothes_horse", parts, (w, d))


def bicycle(rng: Rng) -> Piece:
    """A bicycle along x: wheels of rods, tubes, handlebar and saddle; it leans a little."""
    size = rng.uniform(0.75, 1.0)
    wheel, tube = 0.34 * size, rng.uniform(0.012, 0.019)
    rear, front = np.array([-0.52, 0, 0.34]) * size, np.array([0.55, 0, 0.34]) * size
    crank, seat = np.array([-0.07, 0, 0.28]) * size, np.array([-0.22, 0, 0.82]) * size
    head, fork = np.array([0.32, 0, 0.82]) * size, np.array([0.36, 0, 0.66]) * size
    parts: list[Primitive] = []
    for hub in (rear, front):
        parts += rods(arc(hub, wheel, 16), rng.uniform(0.012, 0.024))
        parts += [rod(hub, rim, 0.0018) for rim in arc(hub, wheel, 10)[:-1]]
    tubes = [(rear, crank), (rear, seat), (crank, seat), (crank, fork), (seat, head), (head, front)]
    parts += [rod(a, b, tube) for a, b in tubes]
    bar = head + np.array([0.02, 0, 0.12 * size])
    grip, pedal = np.array([0, 0.29, 0]), np.array([0.1, 0.12, 0.1])
    parts += [rod(head, bar, 0.014), rod(bar - grip, bar + grip, 0.013)]
    parts.append(rod(crank - pedal, crank + pedal, 0.01))
    top = seat + np.array([0, 0, 0.1 * size])
    parts += [rod(seat, top, 0.013), ellipsoid(tuple(top), (0.13, 0.07, 0.035))]
    if rng.random() < 0.3:
        x, z = rear[0], rear[2] + wheel + 0.04
        parts.append(box((x - 0.2, -0.06, z), (x + 0.12, 0.06, z + 0.015)))
    lean = rotation_x(rng.choice([0.0, rng.uniform(0.02, 0.14)]))
    return Piece("bicycle", [p.moved(lean, np.zeros(3), "") for p in parts], (1.75 * size, 0.6))


def wire_rack(rng: Rng) -> Piece:
    """A shelf of four thin posts with boards or grids of wire, and things on it."""
    w, d, h = rng.uniform(0.5, 1.2), rng.uniform(0.28, 0.5), rng.uniform(0.8, 1.9)
    r, wire = rng.uniform(0.006, 0.013), rng.random() < 0.5
    posts = [(x, y) for x in (-w / 2, w / 2) for y in (-d / 2, d / 2)]
    parts = [rod((x, y, 0), (x, y, h), r) for x, y in posts]
    for z in np.linspace(0.12, h - 0.02, int(rng.integers(3, 6))):
        if wire:
            for y in (-d / 2, d / 2):
                parts.append(rod((-w / 2, y, z), (w / 2, y, z), 0.6 * r))
            for x in np.arange(-w / 2, w / 2 + 0.01, rng.uniform(0.05, 0.11)):
                parts.append(rod((x, -d / 2, z), (x, d / 2, z), 0.0025))
        else:
            t = rng.uniform(0.006, 0.018)
            parts.append(box((-w / 2, -d / 2, z - t), (w / 2, d / 2, z)))
        if z < h - 0.1:
            parts += clutter.load(rng, 0.9 * w, 0.9 * d, z, 0.25, int(rng.integers(0, 3)))
    return Piece("wire_rack", parts, (w, d), h - 0.02)


def bookcase(rng: Rng) -> Piece:
    """Thin boards between two sides, without a back; on the boards whatever there is."""
    w, d, h = rng.uniform(0.4, 1.3), rng.uniform(0.2, 0.4), rng.uniform(0.6, 2.0)
    t, gap = rng.uniform(0.008, 0.022), rng.uniform(0.25, 0.42)
    parts = [
        box((x - t / 2, -d / 2, 0), (x + t / 2, d / 2, h)) for x in (t / 2 - w / 2, w / 2 - t / 2)
    ]
    boards = np.linspace(rng.uniform(0.03, 0.12), h - t, max(2, round(h / gap) + 1))
    for z in boards:
        parts.append(box((-w / 2, -d / 2, z), (w / 2, d / 2, z + t)))
        count = int(rng.integers(0, 5))
        if z < boards[-1]:
            room = boards[1] - boards[0] - t
            parts += clutter.load(rng, 0.95 * w - 2 * t, d, z + t, room, count)
    return Piece("bookcase", parts, (w, d), h)


def step_ladder(rng: Rng) -> Piece:
    """A ladder of two legs that stands by itself."""
    w, h, deep = rng.uniform(0.35, 0.5), rng.uniform(0.8, 1.9), rng.uniform(0.25, 0.45)
    parts = []
    for side in (-w / 2, w / 2):
        parts.append(beam((side, deep, 0), (0.8 * side, 0, h), 0.02, 0.05))
        parts.append(beam((side, -deep, 0), (0.8 * side, 0, h), 0.02, 0.025))
    steps = int(h / 0.26)
    for k in range(1, steps + 1):
        z = k * h / (steps + 0.3)
        x, y = w / 2 * (1 - 0.2 * z / h), deep * (1 - z / h)
        parts.append(box((-x, y - 0.04, z - 0.025), (x, y + 0.04, z)))
    return Piece("step_ladder", parts, (w, 2 * deep))


def garment_rack(rng: Rng) -> Piece:
    """A rail on two stands with clothes on hangers."""
    w, d, h, r = rng.uniform(0.8, 1.5), 0.45, rng.uniform(1.3, 1.75), rng.uniform(0.008, 0.014)
    parts = [rod((-w / 2, 0, h), (w / 2, 0, h), r)]
    for x in (-w / 2 + 0.03, w / 2 - 0.03):
        parts.append(rod((x, 0, 0.03), (x, 0, h), r))
        parts.append(rod((x, -d / 2, 0.03), (x, d / 2, 0.03), r))
    for x in rng.uniform(-w / 2 + 0.1, w / 2 - 0.1, int(rng.integers(0, 9))):
        half, down, t = rng.uniform(0.15, 0.23), rng.uniform(0.4, 0.95), rng.uniform(0.01, 0.03)
        parts.append(box((x - t, -half, h - 0.08 - down), (x + t, half, h - 0.1)))
        parts.append(rod((x, -half, h - 0.1), (x, half, h - 0.1), 0.008))
    return Piece("garment_rack", parts, (w, d))


def tripod(rng: Rng) -> Piece:
    """Three slanted legs with a pole: a camera, a music stand, a fan or a lamp on it."""
    h, r, wide = rng.uniform(0.9, 1.6), rng.uniform(0.006, 0.012), rng.uniform(0.2, 0.38)
    knee = rng.uniform(0.3, 0.7) * h
    parts = [rod((0, 0, 0.6 * knee), (0, 0, h), r)]
    for a in 2 * np.pi * np.arange(3) / 3:
        parts.append(rod((wide * np.cos(a), wide * np.sin(a), 0), (0, 0, knee), r))
    style = rng.integers(4)
    if style == 0:
        parts.append(box((-0.07, -0.05, h), (0.07, 0.05, h + 0.1)))
    elif style == 1:
        parts.append(box((-0.24, -0.005, h - 0.15), (0.24, 0.005, h + 0.2), rotation_x(-0.5)))
    elif style == 2:
        parts += rods(arc((0, 0.05, h), 0.2, 14), 0.006)
        parts += [rod((0, 0.05, h), rim, 0.002) for rim in arc((0, 0.05, h), 0.2, 9)]
        parts.append(rod((0, -0.08, h), (0, 0.08, h), 0.05))
    else:
        parts.append(
            Primitive("cone", "", np.array([0, 0, h]), np.eye(3), np.array([0.2, 0.2, 0.13]), 0.5)
        )
    return Piece("tripod", parts, (2 * wide, 2 * wide))


def crib(rng: Rng) -> Piece:
    """A cot or a pen: bars all around, a mattress, sometimes a cage with bars on top."""
    w, d, h = rng.uniform(0.7, 1.3), rng.uniform(0.5, 0.75), rng.uniform(0.5, 0.95)
    r, gap = rng.uniform(0.003, 0.009), rng.uniform(0.06, 0.11)
    low = rng.uniform(0.02, 0.3)
    parts = [box((-w / 2, -d / 2, low), (w / 2, d / 2, low + rng.uniform(0.01, 0.12)))]
    corners = [(-w / 2, -d / 2), (w / 2, -d / 2), (w / 2, d / 2), (-w / 2, d / 2)]
    for k, (x, y) in enumerate(corners):
        u, v = corners[(k + 1) % 4]
        parts.append(rod((x, y, 0), (x, y, h), 2 * r))
        parts.append(beam((x, y, h), (u, v, h), 4 * r, 4 * r))
        count = int(np.hypot(u - x, v - y) / gap)
        for share in np.arange(1, count) / count:
            a, b = x + share * (u - x), y + share * (v - y)
            parts.append(rod((a, b, low), (a, b, h), r))
    return Piece("crib", parts, (w, d))


def screen(rng: Rng) -> Piece:
    """A folding screen: thin panels in a zigzag."""
    h, wide, t = rng.uniform(1.2, 1.8), rng.uniform(0.35, 0.55), rng.uniform(0.012, 0.03)
    count, bend = int(rng.integers(2, 5)), rng.uniform(0.3, 0.8)
    step = np.array([np.cos(bend), np.sin(bend)]) * wide
    parts = []
    at = np.array([-count * step[0] / 2, -step[1] / 2])
    for k in range(count):
        to = at + step * [1, 1 if k % 2 == 0 else -1]
        parts.append(beam((*at, 0.5 * h + 0.02), (*to, 0.5 * h + 0.02), t, h))
        at = to
    return Piece("screen", parts, (count * step[0], step[1]))


def arc_lamp(rng: Rng) -> Piece:
    """A lamp that hangs from a bent rod."""
    h, reach, r = rng.uniform(1.5, 1.9), rng.uniform(0.35, 0.6), rng.uniform(0.007, 0.013)
    bend = arc((0.0, 0.0, h - reach), reach, 12, np.pi, 0.1)
    parts = [cylinder(-reach, 0, 0, 0.04, 0.14), rod((-reach, 0, 0), bend[0], r), *rods(bend, r)]
    end = bend[-1]
    shade = rng.uniform(0.1, 0.18)
    half = np.array([shade, shade, 0.7 * shade])
    parts.append(
        Primitive("cone", "", end - [0, 0, 0.5 * shade], np.eye(3), half, rng.uniform(0.3, 0.9))
    )
    turned = rotation_z(rng.uniform(-0.5, 0.5))
    return Piece("arc_lamp", [p.moved(turned, np.zeros(3), "") for p in parts], (2 * reach, 0.4))
