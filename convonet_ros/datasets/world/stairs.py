"""Stairs between two storeys, and what keeps people from falling: railings and parapets.

The frame of a stair hall: x across it from 0 to its width, y along it, z up from the lower floor.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from convonet_ros.datasets.world.bars import beam, rod
from convonet_ros.datasets.world.floor_plans import Rect
from convonet_ros.datasets.world.furniture import Rng, box
from convonet_ros.datasets.world.primitives import Primitive

_RISE_M = 0.178  # of a step, about
_LANDING_M = 0.95  # deep
_AHEAD_M = 1.25  # free floor before the first step and behind the last
PASSAGE_M = 1.05  # beside straight stairs


@dataclass(frozen=True, slots=True)
class Stairs:
    """Solids, the hole in the upper floor, what they block below, and the way up.

    `hole` and `blocked` in the plane; `way` (S, 3) floor points upwards.
    """

    parts: list[Primitive]
    hole: Rect
    blocked: Rect
    way: np.ndarray


def hall_size(turning: bool, rise: float, width: float) -> tuple[float, float]:
    """The least width and length of a hall for stairs of that rise with flights so wide."""
    steps = _steps(turning, rise)
    if turning:
        run = (steps // 2 - 1) * 0.25
        return 2 * width + 0.12, _AHEAD_M + run + _LANDING_M
    return width + PASSAGE_M, 2 * _AHEAD_M + (steps - 1) * 0.25


def straight(rng: Rng, hall: np.ndarray, rise: float, width: float) -> Stairs:
    """One flight along the side x = 0 of a hall, `hall` (2,) metres large."""
    steps = _steps(False, rise)
    tread = min(0.29, (hall[1] - 2 * _AHEAD_M) / (steps - 1))
    run = (steps - 1) * tread
    begin = _AHEAD_M + rng.uniform(0, 1) * (hall[1] - 2 * _AHEAD_M - run)
    parts = _flight(rng, int(rng.integers(3)), 0.0, width, begin, tread, 0.0, rise, steps)
    foot, head = (width, begin, 0.0), (width, begin + run, rise)
    parts += railing(rng, foot, head, inset=0.04, lift=rise / steps)
    hole = np.array([[0.0, begin], [width, begin + run]])
    ends = ((0.0, begin), (width, begin), (width, begin + run))
    parts += _guard(rng, [np.array([x, y, rise]) for x, y in ends])
    middle = width / 2
    way = np.array(
        [
            [middle, begin - 0.5, 0.0],
            [middle, begin - 0.05, 0.0],
            [middle, begin + run, rise],
            [middle, begin + run + 0.5, rise],
        ]
    )
    return Stairs(parts, hole, hole, way)


def turning(rng: Rng, hall: np.ndarray, rise: float, width: float) -> Stairs:
    """Two flights with a landing at the end of a hall, `hall` (2,) metres large."""
    steps = _steps(True, rise)
    half, middle = steps // 2, rise / 2
    tread = min(0.28, (hall[1] - _AHEAD_M - _LANDING_M) / (half - 1))
    run = (half - 1) * tread
    deep = min(hall[1] - _AHEAD_M - run, 1.3)
    begin = hall[1] - deep - run
    x1 = hall[0] - width
    style = int(rng.integers(3))
    parts = _flight(rng, style, 0.0, width, begin, tread, 0.0, middle, half)
    back = _flight(rng, style, 0.0, width, 0.0, tread, 0.0, middle, half)
    turn = np.diag([-1.0, -1.0, 1.0])
    shift = np.array([hall[0], begin + run, middle])
    parts += [part.moved(turn, shift, "") for part in back]
    thick = rng.uniform(0.12, 0.25)
    parts.append(box((0.0, begin + run, middle - thick), (hall[0], hall[1], middle)))
    lift = rise / steps
    parts += railing(rng, (width, begin, 0.0), (width, begin + run, middle), 0.03, lift)
    parts += railing(rng, (x1, begin + run, middle), (x1, begin, rise), -0.03, lift)
    hole = np.array([[0.0, begin], [hall[0], hall[1]]])
    parts += _guard(rng, [np.array([0.0, begin, rise]), np.array([x1, begin, rise])])
    left, right, end = width / 2, hall[0] - width / 2, begin + run + min(deep / 2, 0.5)
    way = np.array(
        [
            [left, begin - 0.5, 0.0], [left, begin - 0.05, 0.0], [left, begin + run, middle],
            [left, end, middle], [right, end, middle], [right, begin + run, middle],
            [right, begin, rise], [right, begin - 0.5, rise],
        ]
    )  # fmt: skip
    return Stairs(parts, hole, hole, way)


def railing(
    rng: Rng,
    a: tuple[float, float, float] | np.ndarray,
    b: tuple[float, float, float] | np.ndarray,
    inset: float = 0.0,
    lift: float = 0.0,
) -> list[Primitive]:
    """Thin bars and a handrail from foot to foot; beside a flight the bars begin `lift` higher."""
    shift = np.array([-inset, 0.0, lift])
    low, high = np.asarray(a, float) + shift, np.asarray(b, float) + shift
    length = float(np.linalg.norm((high - low)[:2]))
    top = np.array([0.0, 0.0, rng.uniform(0.85, 1.0)])
    r = rng.uniform(0.006, 0.014)
    if rng.random() < 0.5:
        parts = [rod(low + top, high + top, rng.uniform(0.016, 0.026))]
    else:
        parts = [beam(low + top, high + top, rng.uniform(0.03, 0.06), 0.04)]
    upright = rng.random() < 0.6
    gap = rng.uniform(0.1, 0.16) if upright else rng.uniform(0.7, 1.1)
    down = np.array([0.0, 0.0, max(lift - 0.01, 0.0)])
    for share in np.linspace(0.02, 0.98, max(2, int(np.ceil(length / gap)) + 1)):
        foot = low + share * (high - low)
        parts.append(rod(foot - down, foot + top, r))
    if not upright:
        for share in np.linspace(0.2, 0.8, int(rng.integers(2, 6))):
            parts.append(rod(low + share * top, high + share * top, 0.7 * r))
    return parts


def _guard(rng: Rng, line: list[np.ndarray]) -> list[Primitive]:
    """A railing or a parapet along the edge of the hole, on the upper floor."""
    parts = []
    solid, high = rng.random() < 0.35, np.array([0.0, 0.0, rng.uniform(0.85, 1.05)])
    thick = rng.uniform(0.06, 0.12)
    for a, b in pairwise(line):
        if solid:
            parts.append(beam(a + high / 2, b + high / 2, thick, high[2]))
        else:
            parts += railing(rng, a, b)
    return parts


def _flight(
    rng: Rng,
    style: int,
    x0: float,
    x1: float,
    begin: float,
    tread: float,
    z: float,
    rise: float,
    steps: int,
) -> list[Primitive]:
    """Steps of a flight that climbs `rise` along y: full to the floor, a slab, or open."""
    h = rise / steps
    parts = []
    thick = rng.uniform(0.03, 0.06)
    for k in range(1, steps):
        y0, top = begin + (k - 1) * tread, z + k * h
        if style == 0:
            bottom = z
        elif style == 1:
            bottom = max(z, top - h - 0.16)
        else:
            bottom = top - thick
        y1 = y0 + tread + (0.03 if style == 2 else 0.0)
        parts.append(box((x0, y0 - (0.02 if style else 0.0), bottom), (x1, y1, top)))
    if style == 2:  # two stringers below the treads
        end = begin + (steps - 1) * tread
        for x in (x0 + 0.06, x1 - 0.06):
            a, b = (x, begin, z + 0.02), (x, end, z + rise - h - 0.02)
            parts.append(beam(a, b, 0.05, rng.uniform(0.12, 0.2)))
    return parts


def _steps(turning: bool, rise: float) -> int:
    count = int(np.ceil(rise / _RISE_M))
    return count + count % 2 if turning else count
