"""How well a map agrees with the simulated room it was made from."""

from __future__ import annotations

from typing import Any

import numpy as np
import open3d as o3d
from scipy.ndimage import binary_dilation

from convonet_ros.datasets.sensing.camera import DepthCamera
from convonet_ros.datasets.sensing.drives import drive_camera
from convonet_ros.datasets.sensing.walks import drive
from convonet_ros.datasets.world.rooms import Room
from convonet_ros.geometry import transform
from convonet_ros.mapping.meshing import Mesh
from convonet_ros.sensors import in_range, points_from_depth

_NEAR_M, _CLOSE_M = 0.05, 0.10
_COLUMN_STEP_M = 0.05


def seen_surface(room: Room, frames: int, max_range_m: float) -> np.ndarray:
    """(N, 3) points, map frame, of the true surface that a drive of so many frames passes by."""
    intrinsics = drive_camera(96)
    camera = DepthCamera(room, intrinsics)
    points = []
    for T_map_camera in drive(room, frames):
        seen = points_from_depth(camera.render(T_map_camera), intrinsics)
        points.append(transform(T_map_camera, in_range(seen, 0.0, max_range_m)))
    return np.concatenate(points)


def mesh_agreement(mesh: Mesh, room: Room, seen: np.ndarray) -> dict[str, Any]:
    """Shares, 0 to 1: of the mesh's vertices near the true surface, of seen surface near the mesh.

    mesh: not empty, map frame. seen: (N, 3) points of `seen_surface`.
    """
    to_truth = _distances(*room.mesh(), mesh.vertices)
    to_mesh = _distances(mesh.vertices, mesh.triangles, seen)
    return {
        "vertices_within_5cm": _share(to_truth < _NEAR_M),
        "vertices_within_10cm": _share(to_truth < _CLOSE_M),
        "seen_surface_within_5cm": _share(to_mesh < _NEAR_M),
        "seen_surface_within_10cm": _share(to_mesh < _CLOSE_M),
        "median_error_mm": round(float(np.median(to_truth)) * 1000, 1),
    }


def grid_agreement(
    cells: np.ndarray,
    origin_m: np.ndarray,
    resolution_m: float,
    room: Room,
    band_m: tuple[float, float],
) -> dict[str, Any]:
    """Occupied cells of a (Y, X) ternary grid, and those of them that stand in true free space.

    An obstacle is false when neither its cell's column nor a neighbour's holds anything solid
    between the heights of the band.
    """
    rows, columns = np.indices(cells.shape)
    x = origin_m[0] + (columns.ravel() + 0.5) * resolution_m
    y = origin_m[1] + (rows.ravel() + 0.5) * resolution_m
    solid = np.zeros(cells.size, bool)
    for z in np.arange(band_m[0], band_m[1] + 1e-6, _COLUMN_STEP_M):
        solid |= room.occupied(np.stack([x, y, np.full_like(x, z)], axis=1))
    near_solid = binary_dilation(solid.reshape(cells.shape), np.ones((3, 3), bool))
    occupied = cells == 100
    false = occupied & ~near_solid
    return {
        "occupied_cells": int(occupied.sum()),
        "false_obstacle_cells": int(false.sum()),
        "false_obstacle_share": round(float(false.sum() / max(1, occupied.sum())), 4),
    }


def _distances(vertices: np.ndarray, triangles: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N,) metres from (N, 3) points to a surface."""
    scene = o3d.t.geometry.RaycastingScene()
    scene.add_triangles(
        o3d.core.Tensor.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32)),
        o3d.core.Tensor.from_numpy(np.ascontiguousarray(triangles, dtype=np.uint32)),
    )
    query = o3d.core.Tensor.from_numpy(np.ascontiguousarray(points, dtype=np.float32))
    return scene.compute_distance(query).numpy()


def _share(good: np.ndarray) -> float:
    return round(float(good.mean()), 4)
