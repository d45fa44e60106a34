"""Scans, and how depth images and point clouds become scans.

Nothing here imports ROS: messages are read by the names of their fields, so any object that has
them (a ROS message, a rosbags message, a test's namespace) will do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from convonet_ros.geometry import canonical_pose

_MAX_DISTANCE_M = 10_000.0
_CLOUD_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
_DEPTH_TYPES = {
    "16UC1": ("u2", 1e-3),
    "mono16": ("u2", 1e-3),
    "32FC1": ("f4", 1.0),
}


@dataclass(frozen=True, slots=True)
class Scan:
    """One measurement of the surroundings: the only thing the map accepts.

    points: (N, 3) float32, metres, sensor frame, finite. Each is the end of a ray from the
        sensor's origin.
    T_map_sensor: (4, 4) float64 rigid transform.
    stamp_ns: time of the measurement in nanoseconds.
    """

    points: np.ndarray
    T_map_sensor: np.ndarray
    stamp_ns: int

    def __post_init__(self) -> None:
        points = np.ascontiguousarray(self.points, dtype=np.float32)
        if points.ndim != 2 or points.shape[1] != 3:
            raise ValueError(f"points: expected shape (N, 3), got {points.shape}")
        if not np.isfinite(points).all():
            raise ValueError("points: expected finite numbers, got NaN or infinity; remove them")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "T_map_sensor", map_pose(self.T_map_sensor, "T_map_sensor"))


def map_pose(T: np.ndarray, name: str) -> np.ndarray:
    """`geometry.canonical_pose` of a sensor; ValueError also for a place too far away."""
    T = canonical_pose(T, name)
    if np.abs(T[:3, 3]).max() > _MAX_DISTANCE_M:
        raise ValueError(
            f"{name}: expected a place within {_MAX_DISTANCE_M:.0f} m of the map's origin, where "
            "float32 still resolves millimetres; move the map's frame"
        )
    return T


@dataclass(frozen=True, slots=True)
class Intrinsics:
    """A pinhole camera: image size in pixels, focal lengths and principal point in pixels."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        numbers = (self.fx, self.fy, self.cx, self.cy)
        if not np.isfinite(numbers).all() or self.fx <= 0 or self.fy <= 0:
            raise ValueError(
                f"camera intrinsics: expected finite numbers and focal lengths above 0, got "
                f"fx {self.fx}, fy {self.fy}, cx {self.cx}, cy {self.cy}"
            )
        if self.width <= 0 or self.height <= 0:
            raise ValueError(
                f"camera intrinsics: expected an image size above 0, got "
                f"{self.width} x {self.height}"
            )

    @classmethod
    def from_camera_info(cls, info: Any) -> Intrinsics:
        """From a message like sensor_msgs/CameraInfo (the K matrix of the image as it is)."""
        k = np.asarray(info.k, dtype=np.float64).reshape(-1)
        if k.size != 9:
            raise ValueError(f"camera intrinsics: expected 9 numbers in k, got {k.size}")
        return cls(int(info.width), int(info.height), k[0], k[4], k[2], k[5])


def depth_from_image(image: Any) -> np.ndarray:
    """(H, W) float32 metres from a message like sensor_msgs/Image; 0 where nothing was measured.

    Takes 16UC1 (millimetres) and 32FC1 (metres), either endianness, padded rows.
    Raises ValueError for another encoding or a buffer shorter than its header says.
    """
    if image.encoding not in _DEPTH_TYPES:
        raise ValueError(
            f"depth image: expected encoding {' or '.join(_DEPTH_TYPES)}, "
            f"got '{image.encoding}'; subscribe to a depth topic"
        )
    kind, scale = _DEPTH_TYPES[image.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if image.is_bigendian else "<")
    height, width, step = int(image.height), int(image.width), int(image.step)
    if height <= 0 or width <= 0:
        raise ValueError(f"depth image: expected a size above 0, got {width} x {height}")
    if step < width * dtype.itemsize:
        raise ValueError(
            f"depth image: expected a row step of at least {width * dtype.itemsize} bytes "
            f"for {width} pixels of {image.encoding}, got {step}"
        )
    buffer = np.frombuffer(image.data, dtype=np.uint8)
    needed = step * (height - 1) + width * dtype.itemsize
    if buffer.size < needed:
        raise ValueError(
            f"depth image: expected {needed} bytes for {width} x {height} {image.encoding}, "
            f"got {buffer.size}"
        )
    rows = np.lib.stride_tricks.as_strided(
        buffer, (height, width * dtype.itemsize), (step, 1), writeable=False
    )
    pixels = np.ascontiguousarray(rows).view(dtype)
    depth = pixels.astype(np.float32) * np.float32(scale)
    depth[~np.isfinite(depth) | (depth < 0)] = 0
    return depth


def points_from_depth(
    depth: np.ndarray, intrinsics: Intrinsics, max_points: int = 100_000
) -> np.ndarray:
    """(N, 3) float32 points in the camera's optical frame from (H, W) depth in metres.

    Pixels of depth 0 are left out. Where the image holds more than max_points pixels, every
    n-th row and column is taken, so that the rays stay evenly spread.
    """
    if depth.shape != (intrinsics.height, intrinsics.width):
        raise ValueError(
            f"depth image: expected {intrinsics.width} x {intrinsics.height} pixels as in its "
            f"camera_info, got {depth.shape[1]} x {depth.shape[0]}"
        )
    stride = max(1, int(np.ceil(np.sqrt(depth.size / max_points))))
    z = depth[::stride, ::stride]
    v, u = np.nonzero(z > 0)
    z = z[v, u]
    x = (u * stride - intrinsics.cx) * z / intrinsics.fx
    y = (v * stride - intrinsics.cy) * z / intrinsics.fy
    return np.stack([x, y, z], axis=1).astype(np.float32)


def points_from_cloud(cloud: Any, max_points: int = 100_000) -> np.ndarray:
    """(N, 3) float32 finite points of a message like sensor_msgs/PointCloud2, sensor frame.

    Any field order, type, padding and endianness; points with NaN or infinity are left out.
    More than max_points are thinned evenly.
    """
    offsets = {f.name: (int(f.offset), int(f.datatype)) for f in cloud.fields}
    missing = [name for name in "xyz" if name not in offsets]
    if missing:
        raise ValueError(
            f"point cloud: expected fields x, y and z, got {sorted(offsets) or 'none'}"
        )
    step, row_step = int(cloud.point_step), int(cloud.row_step)
    width, height = int(cloud.width), int(cloud.height)
    order = ">" if cloud.is_bigendian else "<"
    columns = []
    for name in "xyz":
        offset, datatype = offsets[name]
        if datatype not in _CLOUD_TYPES:
            raise ValueError(f"point cloud: field {name} has the unknown datatype {datatype}")
        dtype = np.dtype(order + _CLOUD_TYPES[datatype])
        if offset < 0 or offset + dtype.itemsize > step:
            raise ValueError(
                f"point cloud: field {name} ends at byte {offset + dtype.itemsize} of a point, "
                f"beyond point_step {step}"
            )
        columns.append((offset, dtype))
    if width == 0 or height == 0:
        return np.empty((0, 3), np.float32)
    if height > 1 and row_step < width * step:
        raise ValueError(
            f"point cloud: expected row_step of at least {width * step} for {width} points of "
            f"{step} bytes, got {row_step}"
        )
    buffer = np.frombuffer(cloud.data, dtype=np.uint8)
    needed = row_step * (height - 1) + width * step
    if buffer.size < needed:
        raise ValueError(
            f"point cloud: expected {needed} bytes for {width} x {height} points, got {buffer.size}"
        )
    stride = max(1, -(-width * height // max_points))
    flat = np.arange(0, width * height, stride)
    starts = (flat // width) * row_step + (flat % width) * step
    points = np.empty((len(flat), 3), np.float32)
    for axis, (offset, dtype) in enumerate(columns):
        cells = buffer[starts[:, None] + np.arange(offset, offset + dtype.itemsize)]
        with np.errstate(over="ignore", invalid="ignore"):
            points[:, axis] = cells.view(dtype)[:, 0].astype(np.float32)
    return points[np.isfinite(points).all(axis=1)]


def in_range(points: np.ndarray, min_range_m: float, max_range_m: float) -> np.ndarray:
    """The (M, 3) of (N, 3) sensor-frame points whose distance to the sensor lies in the range."""
    distance = np.linalg.norm(points, axis=1)
    return points[(distance >= min_range_m) & (distance <= max_range_m)]
