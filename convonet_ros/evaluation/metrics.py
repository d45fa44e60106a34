"""How well a reconstruction agrees with the truth: the metrics of the paper.

Peng et al., "Convolutional Occupancy Networks", ECCV 2020: tables 1 to 4, defined in the
supplementary (section "Metrics"): volumetric IoU, Chamfer-L1, normal consistency, F-score.
Numbers are those of the authors' evaluation, so that they may be compared with published tables.
Lengths are in the unit of the coordinates; the papers' objects and rooms fill a cube of side 1.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import open3d as o3d
import trimesh
from scipy.spatial import cKDTree

# Largest distances in the cube of side 1, for a reconstruction that is empty.
_EMPTY = {
    "completeness": math.sqrt(3),
    "accuracy": math.sqrt(3),
    "completeness2": 3.0,
    "accuracy2": 3.0,
    "chamfer": 6.0,
}
_EMPTY_NORMALS = {"normals completeness": -1.0, "normals accuracy": -1.0, "normals": -1.0}
# Shares of a side of the cube within which a point counts as right; the paper reports 1 %.
_F_SCORES = {"f-score": 0.01, "f-score-15": 0.015, "f-score-20": 0.02}
_WALL = 0.007  # a point so far outside the target still counts as within it


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Volumetric IoU: of the points that are occupied (>= 0.5) in a or b, the share in both.

    a, b: (B, ...) bools or probabilities -> (B,) float32; (N,) -> one number. NaN where nothing
    is occupied in either. Raises ValueError for shapes that differ.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape or a.ndim == 0:
        raise ValueError(f"b: expected the shape {a.shape} of a, (B, ...) or (N,), got {b.shape}")
    a, b = (x >= 0.5 if x.ndim == 1 else x.reshape(len(x), -1) >= 0.5 for x in (a, b))
    with np.errstate(invalid="ignore"):
        shared = (a & b).sum(axis=-1).astype(np.float32)
        return np.asarray(shared / (a | b).sum(axis=-1).astype(np.float32))


def chamfer(points1: np.ndarray, points2: np.ndarray) -> np.ndarray:
    """(B,) mean squared distance to the nearest point of the other cloud, both ways added.

    points1: (B, N, 3), points2: (B, M, 3). Raises ValueError for other shapes and empty clouds.
    """
    points1, points2 = np.asarray(points1), np.asarray(points2)
    for name, points in (("points1", points1), ("points2", points2)):
        if points.ndim != 3 or points.shape[2] != 3 or points.shape[1] == 0:
            raise ValueError(f"{name}: expected (B, N, 3), N at least 1, got shape {points.shape}")
    if len(points1) != len(points2):
        raise ValueError(f"points2: expected {len(points1)} clouds, got {len(points2)}")
    return np.array(
        [
            (_nearest(one, two)[0] ** 2).mean() + (_nearest(two, one)[0] ** 2).mean()
            for one, two in zip(points1, points2, strict=True)
        ],
        np.float32,
    )


def point_metrics(
    points: np.ndarray,
    target: np.ndarray,
    normals: np.ndarray | None = None,
    target_normals: np.ndarray | None = None,
) -> dict[str, float]:
    """Agreement of a predicted cloud (N, 3) with points (M, 3) of the true surface.

    accuracy, completeness: mean distance from prediction to truth, and back ("...2": squared);
    chamfer-L1, chamfer-L2: the mean of both; "normals ...": mean |cosine| between a point's normal
    and its nearest neighbour's, NaN without normals ((N, 3), (M, 3), of any length); f-score,
    f-score-15, f-score-20: harmonic mean of the shares of points within 1, 1.5, 2 % of the cube's
    side, NaN where both are 0. Where the prediction is empty there are no chamfer-L1, chamfer-L2
    and F-scores, but "chamfer", and every length is the largest possible.

    Raises ValueError for shapes that do not fit and an empty target.
    """
    points, normals = _cloud("points", points, "normals", normals)
    target, target_normals = _cloud("target", target, "target_normals", target_normals)
    if len(target) == 0:
        raise ValueError("target: expected at least one point, got none")
    with_normals = normals is not None and target_normals is not None
    if len(points) == 0:
        return _EMPTY | _EMPTY_NORMALS if with_normals else dict(_EMPTY)
    to_points, near_point = _nearest(target, points)
    to_target, near_target = _nearest(points, target)
    completeness, accuracy = to_points.mean(), to_target.mean()
    completeness2, accuracy2 = (to_points**2).mean(), (to_target**2).mean()
    completeness_normals = accuracy_normals = math.nan
    if normals is not None and target_normals is not None:
        ours, theirs = _unit(normals), _unit(target_normals)
        completeness_normals = np.abs((ours[near_point] * theirs).sum(axis=1)).mean()
        accuracy_normals = np.abs((theirs[near_target] * ours).sum(axis=1)).mean()
    found = {  # in the precision of the distances
        "completeness": completeness,
        "accuracy": accuracy,
        "normals completeness": completeness_normals,
        "normals accuracy": accuracy_normals,
        "normals": 0.5 * completeness_normals + 0.5 * accuracy_normals,
        "completeness2": completeness2,
        "accuracy2": accuracy2,
        "chamfer-L2": 0.5 * (completeness2 + accuracy2),
        "chamfer-L1": 0.5 * (completeness + accuracy),
    }
    for name, threshold in _F_SCORES.items():
        recall, precision = (to_points <= threshold).mean(), (to_target <= threshold).mean()
        both = precision + recall
        found[name] = 2 * precision * recall / both if both else math.nan
    return {name: float(value) for name, value in found.items()}


def mesh_metrics(
    vertices: np.ndarray,
    triangles: np.ndarray,
    target: np.ndarray,
    target_normals: np.ndarray | None,
    query_points: np.ndarray,
    occupied: np.ndarray,
    samples: int = 100_000,
    remove_wall: bool = False,
    rng: np.random.Generator | None = None,
) -> dict[str, float]:
    """Agreement of a mesh with the truth: `point_metrics` of points on it, and "iou".

    vertices (V, 3), triangles (F, 3); target, target_normals (M, 3): points of the true surface;
    query_points (Q, 3) and occupied (Q,): where the truth is inside. samples: points drawn on the
    mesh, equally likely per area, with their triangles' normals. remove_wall: only of what lies
    within the target (`without_walls`), which does not change the IoU. rng: of the samples, by
    default seeded with 0. The mesh must be watertight for the IoU; an empty one's is 0.

    Raises ValueError for shapes that do not fit.
    """
    vertices, triangles = np.asarray(vertices), np.asarray(triangles)
    query_points, occupied = np.asarray(query_points), np.asarray(occupied)
    for name, array in (
        ("vertices", vertices),
        ("triangles", triangles),
        ("query_points", query_points),
    ):
        if array.ndim != 2 or array.shape[1] != 3:
            raise ValueError(f"{name}: expected (N, 3), got shape {array.shape}")
    if occupied.shape != query_points.shape[:1]:
        raise ValueError(f"occupied: expected ({len(query_points)},), got shape {occupied.shape}")
    if samples < 1:
        raise ValueError(f"samples: expected at least 1, got {samples}")
    nothing = np.empty((0, 3), np.float32)
    no_normals = None if target_normals is None else nothing
    if len(vertices) == 0 or len(triangles) == 0:
        return point_metrics(nothing, target, no_normals, target_normals) | {"iou": 0.0}
    rng = np.random.default_rng(0) if rng is None else rng
    mesh = trimesh.Trimesh(vertices, triangles, process=False, validate=False)
    points, face = trimesh.sample.sample_surface(
        mesh, 2 * samples if remove_wall else samples, seed=rng
    )
    if remove_wall:
        kept = np.flatnonzero(without_walls(points, target))
        drawn = kept[rng.integers(len(kept), size=samples)] if len(kept) else kept
        points, face = points[drawn], face[drawn]
    normals = None if target_normals is None else mesh.face_normals[face]
    found = point_metrics(points.astype(np.float32), target, normals, target_normals)
    inside = _inside(vertices, triangles, query_points)
    return found | {"iou": float(iou(inside, occupied))}


def without_walls(points: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(N,) bool: which points (N, 3) lie within the box of the target (M, 3), 7 mm larger.

    What the network adds behind walls (x, z) and under the floor (y, from below only) is not held
    against it: the authors' remove_wall, on for their synthetic rooms. Raises ValueError for other
    shapes and an empty target.
    """
    points, _ = _cloud("points", points, "", None)
    target, _ = _cloud("target", target, "", None)
    if len(target) == 0:
        raise ValueError("target: expected at least one point, got none")
    low, high = (limit.astype(np.float64) for limit in (target.min(axis=0), target.max(axis=0)))
    low, high = low - _WALL, high + _WALL
    high[1] = math.inf
    return ((points >= low) & (points <= high)).all(axis=1)


def _cloud(
    name: str, points: np.ndarray, normals_name: str, normals: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Both as arrays. Raises ValueError for other shapes than (N, 3)."""
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"{name}: expected (N, 3), got shape {points.shape}")
    if normals is None:
        return points, None
    normals = np.asarray(normals)
    if normals.shape != points.shape:
        raise ValueError(f"{normals_name}: expected {points.shape}, got shape {normals.shape}")
    return points, normals


def _nearest(points: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance (N,) of each point to its nearest other, and that one's number (N,).

    Distances are float32, as the authors' search gives them, unless both clouds are float64.
    """
    exact = points.dtype == others.dtype == np.float64
    points, others = (x.astype(np.float64 if exact else np.float32) for x in (points, others))
    _, number = cKDTree(others).query(points)
    return np.sqrt(((points - others[number]) ** 2).sum(axis=1)), number


def _unit(vectors: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # no direction, no cosine: NaN
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _inside(vertices: np.ndarray, triangles: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) bool: which points (N, 3) lie inside a watertight mesh, by rays crossing it."""
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(_tensor(vertices, np.float32), _tensor(triangles, np.uint32))
    # Three rays vote: one alone now and then goes exactly through an edge.
    inside = scene.compute_occupancy(_tensor(points, np.float32), nsamples=3)
    return inside.numpy() > 0.5


def _tensor(array: np.ndarray, dtype: Any) -> Any:
    return o3d.core.Tensor.from_numpy(np.ascontiguousarray(array, dtype=dtype))
