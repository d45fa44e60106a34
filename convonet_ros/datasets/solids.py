"""Unions of solid primitives: which points they hold, their surface, their voxels, their extent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convonet_ros.datasets.furniture import Rng
from convonet_ros.datasets.primitives import Primitive

VOXELS = 32  # a side of the unit cube
_STEP = 1e-6  # units: how far from a surface one looks for what is on its two sides
_Y_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # (x, y, z) -> (x, z, -y)


def occupied(solids: Sequence[Primitive], points: np.ndarray) -> np.ndarray:
    """(N, 3) points -> (N,) bool: inside any of the solids or on its surface."""
    return _first_inside(solids, np.asarray(points, np.float64)) < len(solids)


def sample_surface(solids: Sequence[Primitive], n: int, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) points uniform by area on the boundary of the union, and their outward normals."""
    bounds = np.array([_area_bound(solid) for solid in solids])
    points, normals = np.empty((0, 3)), np.empty((0, 3))
    rate = 0.6  # of the candidates that are kept, measured as one goes
    drawn = 0
    while len(points) < n:
        count = int((n - len(points)) / rate * 1.05) + 100
        owners = np.repeat(np.arange(len(solids)), rng.multinomial(count, bounds / bounds.sum()))
        parts = [
            candidates(solids[k], int(m), rng)
            for k, m in enumerate(np.bincount(owners, minlength=len(solids)))
        ]
        found, facing, keep = (np.concatenate(part) for part in zip(*parts, strict=True))
        found, facing, owners = found[keep], facing[keep], owners[keep]
        # Where faces of two solids coincide, the first one's counts.
        keep = _first_inside(solids, found - _STEP * facing) == owners
        keep[keep] = _first_inside(solids, (found + _STEP * facing)[keep]) == len(solids)
        points = np.concatenate([points, found[keep]])
        normals = np.concatenate([normals, facing[keep]])
        drawn += count
        rate = max(len(points) / drawn, 0.01)
    chosen = rng.permutation(len(points))[:n]
    return points[chosen], normals[chosen]


def voxels(solids: Sequence[Primitive], surface: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(32, 32, 32) bool over [-0.5, 0.5]^3: voxels with a solid centre or touched by the surface.

    `surface` and `normals` (N, 3) are samples of the boundary, dense enough to meet every voxel.
    """
    axis = (np.arange(VOXELS) + 0.5) / VOXELS - 0.5
    centres = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    filled = occupied(solids, centres).reshape(VOXELS, VOXELS, VOXELS)
    touched = np.floor((surface - _STEP * normals + 0.5) * VOXELS).astype(int)
    filled[tuple(np.clip(touched, 0, VOXELS - 1).T)] = True
    return filled


def fitted(solids: Sequence[Primitive], standing: bool) -> list[Primitive]:
    """Solids with z up -> y up, longest side 1, centred or standing on y = -0.5."""
    boxes = [(solid.centre - extent(solid), solid.centre + extent(solid)) for solid in solids]
    low = np.min([corner for corner, _ in boxes], axis=0)
    high = np.max([corner for _, corner in boxes], axis=0)
    scale = 1.0 / (high - low).max()
    middle = (low + high) / 2
    if standing:
        middle[2] = low[2] + 0.5 / scale
    return [
        Primitive(
            solid.kind,
            solid.name,
            _Y_UP @ (solid.centre - middle) * scale,
            _Y_UP @ solid.rotation,
            solid.half * scale,
        )
        for solid in solids
    ]


def extent(solid: Primitive) -> np.ndarray:
    """(3,) half sizes of the smallest box around a solid along the parent's axes."""
    scaled = solid.rotation * solid.half
    if solid.kind == "box":
        return np.abs(scaled).sum(axis=1)
    if solid.kind == "cylinder":
        return np.hypot(scaled[:, 0], scaled[:, 1]) + np.abs(scaled[:, 2])
    return np.linalg.norm(scaled, axis=1)


def candidates(solid: Primitive, n: int, rng: Rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, 3) points on the solid, (n, 3) normals, and (n,) bool which to keep: uniform by area."""
    half = solid.half
    keep = np.ones(n, dtype=bool)
    rows = np.arange(n)
    if solid.kind == "box":
        unit = rng.uniform(-1.0, 1.0, (n, 3))
        areas = np.array([half[1] * half[2], half[2] * half[0], half[0] * half[1]])
        axis = rng.choice(3, n, p=areas / areas.sum())
        sign = rng.choice([-1.0, 1.0], n)
        unit[rows, axis] = sign
        normals = np.zeros((n, 3))
        normals[rows, axis] = sign
    elif solid.kind == "cylinder":
        angle = rng.uniform(0.0, 2 * np.pi, n)
        ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(n)], axis=1)
        cap = rng.random(n) < half[0] / (half[0] + 2 * half[2])
        height = np.where(cap, rng.choice([-1.0, 1.0], n), rng.uniform(-1.0, 1.0, n))
        radius = np.where(cap, np.sqrt(rng.random(n)), 1.0)
        unit = ring * radius[:, None] + height[:, None] * [0.0, 0.0, 1.0]
        normals = np.where(cap[:, None], height[:, None] * [0.0, 0.0, 1.0], ring)
    else:
        unit = rng.normal(size=(n, 3))
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        normals = unit / half
        stretch = np.linalg.norm(normals, axis=1)
        keep = rng.random(n) < stretch * half.min()
        normals /= stretch[:, None]
    return (unit * half) @ solid.rotation.T + solid.centre, normals @ solid.rotation.T, keep


def _first_inside(solids: Sequence[Primitive], points: np.ndarray) -> np.ndarray:
    """(N, 3) float64 -> (N,) int: the first solid that holds a point, len(solids) for none."""
    order = np.argsort(points[:, 0])  # so that a solid looks at a slab of x only
    points = np.take(points, order, axis=0)
    x, y, z = np.ascontiguousarray(points.T)
    first = np.full(len(points), len(solids))
    for k, solid in enumerate(solids):
        centre, half = solid.centre, solid.half_extent + 1e-12
        begin, end = np.searchsorted(x, (centre[0] - half[0], centre[0] + half[0]))
        near = np.abs(y[begin:end] - centre[1]) <= half[1]
        near &= np.abs(z[begin:end] - centre[2]) <= half[2]
        near &= first[begin:end] == len(solids)
        index = begin + np.flatnonzero(near)
        if len(index):
            index = index[solid.contains(np.take(points, index, axis=0))]
            first[index] = k
    result = np.empty_like(first)
    result[order] = first
    return result


def _area_bound(solid: Primitive) -> float:
    """The solid's area, or for an ellipsoid a bound that `candidates` makes good."""
    a, b, c = solid.half
    if solid.kind == "box":
        return float(8 * (a * b + b * c + c * a))
    if solid.kind == "cylinder":
        return float(2 * np.pi * a * (a + 2 * c))
    return float(4 * np.pi * a * b * c / solid.half.min())
