"""Rods, beams, panels and rings: what thin and curved things are made of."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from convonet_ros.datasets.world.primitives import Primitive, rotation_x, rotation_z

Point = Sequence[float] | np.ndarray


def rod(a: Point, b: Point, radius: float) -> Primitive:
    """A cylinder from point to point."""
    rotation, length = _along(a, b)
    half = np.array([radius, radius, length / 2])
    return Primitive("cylinder", "", (np.asarray(a, float) + b) / 2, rotation, half)


def beam(a: Point, b: Point, width: float, height: float) -> Primitive:
    """A box from point to point: `width` is level, `height` across it."""
    rotation, length = _along(a, b)
    half = np.array([width / 2, height / 2, length / 2])
    return Primitive("box", "", (np.asarray(a, float) + b) / 2, rotation, half)


def rods(points: Sequence[Point] | np.ndarray, radius: float) -> list[Primitive]:
    """Rods along a line of points, a little longer so that they close at the bends."""
    parts = []
    for a, b in pairwise(points):
        way = np.asarray(b, float) - a
        over = 0.5 * radius * way / max(float(np.linalg.norm(way)), 1e-9)
        parts.append(rod(np.asarray(a) - over, np.asarray(b) + over, radius))
    return parts


def arc(
    centre: Point, radius: float, count: int, begin: float = 0.0, end: float = 2 * np.pi
) -> np.ndarray:
    """(count + 1, 3) points on an upright circle in the plane of x and z, angles from x upwards."""
    angle = np.linspace(begin, end, count + 1)
    zero = np.zeros_like(angle)
    return np.asarray(centre, float) + radius * np.stack([np.cos(angle), zero, np.sin(angle)], 1)


def sagging(a: Point, b: Point, sag: float, count: int) -> np.ndarray:
    """(count + 1, 3) points of a cable that hangs from point to point, `sag` below the middle."""
    share = np.linspace(0.0, 1.0, count + 1)
    line = np.asarray(a, float) + share[:, None] * (np.asarray(b, float) - a)
    line[:, 2] -= 4 * sag * share * (1 - share)
    return line


def ring(
    radius: tuple[float, float],
    z: tuple[float, float],
    thick: float,
    count: int,
    begin: float = 0.0,
    end: float = 2 * np.pi,
    squeeze: float = 1.0,
) -> list[Primitive]:
    """A wall of boxes around the z axis, `radius` below and above; y is squeezed by `squeeze`.

    The boxes reach from their radius inwards.
    """
    parts = []
    low, high = (min(z), max(z))
    for a0, a1 in pairwise(np.linspace(begin, end, count + 1)):
        ends = np.array([[np.cos(a), squeeze * np.sin(a)] for a in (a0, a1)])
        along = ends[1] - ends[0]
        yaw = float(np.arctan2(along[1], along[0]))
        middle = ends.mean(axis=0)
        inwards = np.array([-np.sin(yaw), np.cos(yaw)])
        inwards *= np.sign(-middle @ inwards) or 1.0
        outer = middle @ -inwards  # distance of the chord from the axis for a radius of one
        lean = (radius[1] - radius[0]) * outer
        slant = float(np.hypot(lean, high - low))
        tilt = np.arctan2(lean, high - low)
        turn = rotation_z(yaw) @ rotation_x(tilt * np.sign(inwards @ [-np.sin(yaw), np.cos(yaw)]))
        width = max(radius) * float(np.linalg.norm(along))
        centre = np.append(middle * sum(radius) / 2 + inwards * thick / 2, (low + high) / 2)
        half = np.array([width / 2, thick / 2, slant / 2])
        parts.append(Primitive("box", "", centre, turn, half))
    return parts


def _along(a: Point, b: Point) -> tuple[np.ndarray, float]:
    """(3, 3) rotation that takes z to the way from a to b and keeps x level, and the length."""
    way = np.asarray(b, float) - a
    length = float(np.linalg.norm(way))
    z = way / length
    x = np.array([z[1], -z[0], 0.0])
    x = x / np.linalg.norm(x) if np.linalg.norm(x) > 1e-9 else np.array([1.0, 0.0, 0.0])
    return np.stack([x, np.cross(z, x), z], axis=1), length
