"""Unions of solid primitives: which points they hold, their surface, their voxels, their extent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from convonet_ros.datasets.world.furniture import Rng
from convonet_ros.datasets.world.primitives import Primitive

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
        replace(
            solid,
            centre=_Y_UP @ (solid.centre - middle) * scale,
            rotation=_Y_UP @ solid.rotation,
            half=solid.half * scale,
        )
        for solid in solids
    ]


def extent(solid: Primitive) -> np.ndarray:
    """(3,) half sizes of the smallest box about a solid's centre, along the parent's axes."""
    scaled = solid.rotation * solid.half
    if solid.kind == "mesh":
        vertices, _ = solid.mesh()
        return np.abs(vertices - solid.centre).max(axis=0)
    if solid.kind == "box":
        return np.abs(scaled).sum(axis=1)
    if solid.kind == "wedge":
        x, y, z = scaled.T
        return np.max([np.abs(s) + np.abs(y) for s in (x + z, x - z)], axis=0)
    if solid.kind in ("cylinder", "cone"):
        return np.hypot(scaled[:, 0], scaled[:, 1]) + np.abs(scaled[:, 2])
    return np.linalg.norm(scaled, axis=1)


def candidates(solid: Primitive, n: int, rng: Rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, 3) points on the solid, (n, 3) normals, and (n,) bool which to keep: uniform by area."""
    half = solid.half
    keep = np.ones(n, dtype=bool)
    if solid.kind == "mesh":
        return *_on_mesh(*solid.mesh(), n, rng), keep
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
    elif solid.kind == "cone":
        unit, normals = _on_cone(half, solid.taper, n, rng)
    elif solid.kind == "wedge":
        unit, normals = _on_wedge(half, n, rng)
    else:
        unit = rng.normal(size=(n, 3))
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        normals = unit / half
        stretch = np.linalg.norm(normals, axis=1)
        keep = rng.random(n) < stretch * half.min()
        normals /= stretch[:, None]
    return (unit * half) @ solid.rotation.T + solid.centre, normals @ solid.rotation.T, keep


def _on_cone(half: np.ndarray, taper: float, n: int, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) points uniform by area on a cone, in units of `half`, and (n, 3) normals."""
    top, run = 1.0 - taper, half[0] * taper
    slant = float(np.hypot(run, 2 * half[2]))
    areas = np.array([1.0, top**2, (1.0 + top) * slant / half[0]])
    face = rng.choice(3, n, p=areas / areas.sum())
    angle = rng.uniform(0.0, 2 * np.pi, n)
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(n)], axis=1)
    share = rng.random(n)
    side = np.sqrt(1.0 - share * (1.0 - top**2))  # the radius on the side, denser below
    radius = np.choose(face, [np.sqrt(share), top * np.sqrt(share), side])
    along = share if taper == 0.0 else (1.0 - side) / taper
    height = np.choose(face, [-1.0, 1.0, 2 * along - 1.0])
    up = np.array([0.0, 0.0, 1.0])
    sloped = (2 * half[2] * ring + run * up) / slant
    normals = np.where((face == 2)[:, None], sloped, np.sign(height)[:, None] * up)
    return ring * radius[:, None] + height[:, None] * up, normals


def _on_wedge(half: np.ndarray, n: int, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) points uniform by area on a wedge, in units of `half`, and (n, 3) normals."""
    x, y, z = half
    slope = np.array([z, 0.0, x]) / np.hypot(x, z)
    outward = np.array([[0, -1, 0], [0, 1, 0], [-1, 0, 0], [0, 0, -1], slope])
    areas = np.array([x * z, x * z, 2 * y * z, 2 * x * y, 2 * y * np.hypot(x, z)])
    face = rng.choice(5, n, p=areas / areas.sum())
    unit = rng.uniform(-1.0, 1.0, (n, 3))
    across = (unit[:, 0] + unit[:, 2] > 0) & (face <= 1)  # mirrored into the triangle
    unit[across, 0], unit[across, 2] = -unit[across, 2], -unit[across, 0]
    unit[face <= 1, 1] = 2.0 * face[face <= 1] - 1.0
    unit[face == 2, 0] = -1.0
    unit[face == 3, 2] = -1.0
    unit[face == 4, 2] = -unit[face == 4, 0]
    return unit, outward[face]


def _on_mesh(
    vertices: np.ndarray, triangles: np.ndarray, n: int, rng: Rng
) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) points uniform by area on a mesh, and (n, 3) normals."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    normals = np.cross(b - a, c - a)
    areas = np.linalg.norm(normals, axis=1)
    face = rng.choice(len(areas), n, p=areas / areas.sum())
    u, v = rng.random((2, n, 1))
    u, v = np.where(u + v > 1.0, 1.0 - u, u), np.where(u + v > 1.0, 1.0 - v, v)
    points = a[face] + u * (b - a)[face] + v * (c - a)[face]
    return points, normals[face] / areas[face][:, None]


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
    if solid.kind == "mesh":
        vertices, triangles = solid.mesh()
        a, b, c = (vertices[triangles[:, k]] for k in range(3))
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
    a, b, c = solid.half
    if solid.kind == "box":
        return float(8 * (a * b + b * c + c * a))
    if solid.kind == "cylinder":
        return float(2 * np.pi * a * (a + 2 * c))
    if solid.kind == "cone":
        top = a * (1.0 - solid.taper)
        return float(np.pi * (a**2 + top**2 + (a + top) * np.hypot(a - top, 2 * c)))
    if solid.kind == "wedge":
        return float(4 * (a * c + b * c + a * b + b * np.hypot(a, c)))
    return float(4 * np.pi * a * b * c / solid.half.min())
