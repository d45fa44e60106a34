"""The true surface of a generated room: of its mesh what lies between free space and a body."""

from __future__ import annotations

import numpy as np
import open3d as o3d
from scipy.spatial import cKDTree

from convonet_ros.datasets.world.rooms import Room
from convonet_ros.geometry import Lattice

_PER_M2 = 1600  # samples, 2.5 cm apart
_SIDE_M = 0.002  # from the surface to what is on its two sides; more than round meshes are off
_PARTS = 4  # of a crop's side; so much around a crop belongs to it


class TrueSurface:
    """Samples of the surface, and the distance to it. Parts of bodies inside of others are no part
    of it."""

    def __init__(self, room: Room) -> None:
        self._room = room
        vertices, triangles = room.mesh()
        self._corners = vertices[triangles].astype(np.float64)  # F 3 3
        self._mesh = ClosestPlaces(vertices, triangles)

    def in_crops(
        self, crops: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """(T, 3) samples in (C, 3) crops and 0.4 m around, and their normals into free space."""
        side_m = Lattice().crop_m / _PARTS
        steps = np.stack(np.meshgrid(*[np.arange(_PARTS)] * 3), axis=-1).reshape(-1, 3)
        cells = grown((crops[:, None] * _PARTS + steps).reshape(-1, 3))
        low, high = cells.min(axis=0) * side_m, (cells.max(axis=0) + 1) * side_m
        meets = (self._corners.max(axis=1) >= low) & (self._corners.min(axis=1) <= high)
        corners = self._corners[meets.all(axis=1)]
        points, normals = sampled(corners, _PER_M2, rng)
        inside = _among(np.floor(points / side_m).astype(np.int64), cells)
        points, normals = points[inside], normals[inside]
        exposed = self._exposed(points, normals)
        return points[exposed], normals[exposed]

    def nearest(
        self, points: np.ndarray, samples: np.ndarray, normals: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Distance (N,) from points (N, 3) to the surface and its normal there (N, 3).

        Exact, but where the nearest place of the mesh lies inside of another body: then to the
        nearest of the samples (T, 3) with normals (T, 3).
        """
        distance, place, normal = self._mesh.of(points)
        hidden = ~self._exposed(place, normal)
        if hidden.any():
            distance[hidden], number = cKDTree(samples).query(points[hidden])
            normal[hidden] = normals[number]
        return distance, normal

    def _exposed(self, points: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """(N,) bool: whether points on the mesh have free space in front and a body behind."""
        front = self._room.occupied(points + _SIDE_M * normals)
        behind = self._room.occupied(points - _SIDE_M * normals)
        return np.asarray(~front & behind)


class ClosestPlaces:
    """Where a mesh, vertices (V, 3) and triangles (T, 3), is closest to points."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray) -> None:
        # Triangles without area, as at the poles of a sphere, have no normal.
        triangles = triangles[crossed(vertices[triangles].astype(np.float64)).any(axis=1)]
        self._scene = o3d.t.geometry.RaycastingScene()
        self._scene.add_triangles(
            o3d.core.Tensor.from_numpy(np.ascontiguousarray(vertices, np.float32)),
            o3d.core.Tensor.from_numpy(np.ascontiguousarray(triangles, np.uint32)),
        )

    def of(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(N, 3) points to distances (N,), closest places (N, 3) and normals (N, 3) there."""
        query = o3d.core.Tensor.from_numpy(np.ascontiguousarray(points, np.float32))
        found = self._scene.compute_closest_points(query)
        place = found["points"].numpy().astype(np.float64)
        normal = found["primitive_normals"].numpy().astype(np.float64)
        return np.linalg.norm(points - place, axis=1), place, normal


def sampled(
    corners: np.ndarray, per_m2: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) points uniform by area on triangles (F, 3, 3), so many per m2, and their normals."""
    across = crossed(corners)
    twice = np.linalg.norm(across, axis=1)
    count = int(np.ceil(twice.sum() / 2 * per_m2))
    face = np.repeat(np.arange(len(corners)), _shared(twice, count, rng))
    u, v = rng.random((2, len(face)))
    over = u + v > 1
    u, v = np.where(over, 1 - u, u), np.where(over, 1 - v, v)
    a, b, c = corners[face].transpose(1, 0, 2)
    points = a + u[:, None] * (b - a) + v[:, None] * (c - a)
    return points, across[face] / twice[face, None]


def crossed(corners: np.ndarray) -> np.ndarray:
    """(F, 3) normals of triangles (F, 3, 3), twice as long as their area."""
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def _shared(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """(F,) how many of so many draws each gets, in proportion to its weight and evenly spread."""
    ends = np.cumsum(weights)
    if not len(ends) or ends[-1] <= 0:
        return np.zeros(len(weights), np.int64)
    marks = np.floor(ends / ends[-1] * count + rng.random()).astype(np.int64)
    return np.diff(marks, prepend=0)


def grown(cells: np.ndarray) -> np.ndarray:
    """(D, 3) the cells (C, 3) and all that touch them, each once."""
    steps = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3), axis=-1).reshape(-1, 3)
    return np.unique((np.unique(cells, axis=0)[:, None] + steps).reshape(-1, 3), axis=0)


def _among(cells: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) bool: which of the cells (N, 3) are among the others (C, 3)."""
    low, high = others.min(axis=0), others.max(axis=0)
    within = ((cells >= low) & (cells <= high)).all(axis=1)
    filled = np.zeros(high - low + 1, bool)
    filled[tuple((others - low).T)] = True
    return within & filled[tuple((np.clip(cells, low, high) - low).T)]
