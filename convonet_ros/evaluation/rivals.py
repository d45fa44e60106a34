"""What the map is held against: fusion of depth images (TSDF) and Poisson reconstruction.

Both are Open3D's, with the settings that are usual for rooms, and get the very pixels that the map
gets. What is inside of their surfaces is decided in their favour, as each of them allows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import open3d as o3d

from convonet_ros.config import Config
from convonet_ros.datasets.recordings import Frame, Recording
from convonet_ros.evaluation.reconstruction import Reconstruction, ValueLattice, nothing, thinned
from convonet_ros.geometry import inverse, transform
from convonet_ros.sensors import points_from_depth

TSDF_VOXEL_M = 0.03
TRUNCATION_VOXELS = 4.0
_SEEN_ONCE = 0.5  # the weight that Open3D wants exceeded; a scan weighs 1
_ANYWHERE_M = 1e4
POISSON_CELL_M, POISSON_POINTS_M = 0.02, 0.02
_DEPTHS = (6, 10)  # of the octree
_TRIMMED = 0.05  # share of the vertices, those with the fewest points around
_NORMALS_M, _NORMALS_POINTS = 0.10, 30
REACH_M = 0.3  # from a measured point: what is beyond is cut off


def tsdf(recording: Recording, config: Config) -> Reconstruction:
    """A truncated signed distance function (Curless and Levoy, 1996), Open3D's VoxelBlockGrid.

    Occupied is where its distance is negative: up to four voxels behind a seen surface.
    """
    grid = o3d.t.geometry.VoxelBlockGrid(
        ("tsdf", "weight"),
        (o3d.core.float32, o3d.core.float32),
        (o3d.core.SizeVector([1]), o3d.core.SizeVector([1])),
        TSDF_VOXEL_M,
        block_resolution=16,
        block_count=1000,
    )
    scans = 0
    for frame in recording:
        scans += _fuse(grid, thinned(frame, config.scan.max_points), config)
    if not scans:
        return nothing()
    try:
        mesh = grid.extract_triangle_mesh(_SEEN_ONCE)
    except RuntimeError:  # Open3D's word for no surface in any cell
        return nothing()
    vertices = mesh.vertex.positions.numpy().astype(np.float32)
    triangles = mesh.triangle.indices.numpy().astype(np.int32)
    known: list[ValueLattice] = []  # built when somebody asks

    def occupied(points: np.ndarray) -> np.ndarray:
        if not known:
            known.append(_distances(grid))
        return known[0].at(points) < 0

    return Reconstruction(vertices, triangles, occupied)


def _fuse(grid: Any, frame: Frame, config: Config) -> bool:
    """Integrate a frame; False where nothing in it is in range.

    Blocks are made along surfaces in range. Rays that end beyond it carve there too, as the map's.
    """
    k = frame.intrinsics
    K = o3d.core.Tensor.from_numpy(np.array([[k.fx, 0, k.cx], [0, k.fy, k.cy], [0, 0, 1.0]]))
    T = o3d.core.Tensor.from_numpy(inverse(frame.T_map_camera))
    near = np.where(_in_range(frame, config), frame.depth, np.float32(0))
    if not near.any():
        return False
    images = [o3d.t.geometry.Image(np.ascontiguousarray(d)) for d in (near, frame.depth)]
    how = (K, T, 1.0, _ANYWHERE_M, TRUNCATION_VOXELS)
    grid.integrate(grid.compute_unique_block_coordinates(images[0], *how), images[1], *how)
    return True


def _in_range(frame: Frame, config: Config) -> np.ndarray:
    """(H, W) bool: pixels whose distance to the sensor, not depth, the map takes."""
    k = frame.intrinsics
    x = (np.arange(k.width) - k.cx) / k.fx
    y = (np.arange(k.height) - k.cy) / k.fy
    distance = frame.depth * np.sqrt(1 + x[None, :] ** 2 + y[:, None] ** 2)
    near, far = config.scan.min_range_m, config.scan.max_range_m
    return np.asarray((distance > 0) & (distance >= near) & (distance <= far))


def _distances(grid: Any) -> ValueLattice:
    """The signed distances of a grid's voxels that were seen, in truncation distances."""
    place, row = (t.numpy() for t in grid.voxel_coordinates_and_flattened_indices())
    value, weight = (
        grid.attribute(name).reshape((-1, 1)).numpy()[row, 0] for name in ("tsdf", "weight")
    )
    seen = weight > 0
    index = np.rint(place[seen] / TSDF_VOXEL_M).astype(np.int64)
    first = index.min(axis=0)
    values = np.full(index.max(axis=0) - first + 1, np.nan, np.float32)
    values[tuple((index - first).T)] = value[seen]
    return ValueLattice(values, first * TSDF_VOXEL_M, TSDF_VOXEL_M)


def poisson(recording: Recording, config: Config) -> Reconstruction:
    """Screened Poisson reconstruction (Kazhdan and Hoppe, 2013) of all points, Open3D's.

    Points are averaged in cells of 2 cm, normals estimated from their neighbours and turned to the
    sensors; the octree's finest cells are as small. Of the surface the 5 % of the vertices with the
    fewest points around are trimmed, and what is farther than 0.3 m from a point. Occupied is what
    lies, within 0.3 m of a point, behind the nearest place of the untrimmed surface: that is not
    closed, since it meets the border of the octree, so that rays cannot tell inside from outside.
    """
    cloud = _oriented_cloud(recording, config)
    if cloud is None:
        return nothing()
    extent = float(np.max(cloud.get_max_bound() - cloud.get_min_bound()))
    depth = int(np.clip(np.ceil(np.log2(1.1 * extent / POISSON_CELL_M)), *_DEPTHS))
    # With several threads it crashes now and then (Open3D's issue 6828).
    whole, listed = o3d.geometry.TriangleMesh.create_from_point_cloud_poisson(
        cloud, depth=depth, n_threads=1
    )
    vertices, densities = np.asarray(whole.vertices), np.asarray(listed)
    points = np.asarray(cloud.points)
    far = _distance_to(cloud, vertices) > REACH_M
    drop = far | (densities < np.quantile(densities[~far], _TRIMMED)) if not far.all() else far
    trimmed = o3d.geometry.TriangleMesh(whole)
    trimmed.remove_vertices_by_mask(drop.tolist())
    whole.compute_vertex_normals()
    inside = _Inside(whole, points)
    return Reconstruction(
        np.asarray(trimmed.vertices).astype(np.float32),
        np.asarray(trimmed.triangles).astype(np.int32),
        inside.at,
    )


def _oriented_cloud(recording: Recording, config: Config) -> Any:
    """A cloud of the points in range with normals to their sensors; None without points."""
    points, views = [], []
    for frame in recording:
        small = thinned(frame, config.scan.max_points)
        depth = np.where(_in_range(small, config), small.depth, np.float32(0))
        seen = transform(small.T_map_camera, points_from_depth(depth, small.intrinsics))
        points.append(seen)
        away = small.T_map_camera[:3, 3] - seen
        views.append(away / np.linalg.norm(away, axis=1, keepdims=True))
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(np.concatenate(points)))
    cloud.normals = o3d.utility.Vector3dVector(np.concatenate(views))  # averaged with the points
    cloud = cloud.voxel_down_sample(POISSON_POINTS_M)
    if len(cloud.points) < _NORMALS_POINTS:
        return None
    # Open3D keeps the side of normals that are there already.
    near = o3d.geometry.KDTreeSearchParamHybrid(_NORMALS_M, _NORMALS_POINTS)
    cloud.estimate_normals(near)
    return cloud


def _distance_to(cloud: Any, points: np.ndarray) -> np.ndarray:
    """(N,) metres from (N, 3) points to the nearest one of a cloud."""
    others = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    return np.asarray(others.compute_point_cloud_distance(cloud))


class _Inside:
    """Which side of a surface that is not closed a point is on."""

    def __init__(self, surface: Any, cloud: np.ndarray) -> None:
        self._surface, self._cloud = surface, cloud
        self._scene: Any = None

    def at(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points to (N,) bool: near the cloud and behind the surface."""
        triangles = np.asarray(self._surface.triangles)
        if self._scene is None:
            self._scene = o3d.t.geometry.RaycastingScene()
            self._scene.add_triangles(o3d.t.geometry.TriangleMesh.from_legacy(self._surface))
        query = np.ascontiguousarray(points, np.float32)
        found = self._scene.compute_closest_points(o3d.core.Tensor.from_numpy(query))
        corners = triangles[found["primitive_ids"].numpy().astype(np.int64)]  # N 3
        u, v = found["primitive_uvs"].numpy().T
        # Interpolated normals also tell the side where the nearest place is an edge.
        weights = np.stack([1 - u - v, u, v], axis=1)
        normals = np.asarray(self._surface.vertex_normals)[corners]  # N 3 3
        normal = (normals * weights[..., None]).sum(axis=1)
        behind = ((query - found["points"].numpy()) * normal).sum(axis=1) < 0
        cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(self._cloud))
        return np.asarray(behind & (_distance_to(cloud, points) <= REACH_M))
