"""The files of a shape: a cloud with normals, query points with their occupancy, voxels.

As Convolutional Occupancy Networks distributes them: pointcloud.npz, points.npz, model.binvox.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from trimesh.exchange.binvox import export_binvox, load_binvox
from trimesh.transformations import scale_and_translate
from trimesh.voxel import VoxelGrid

from convonet_ros.storage import DAMAGED, read_arrays, write_arrays, write_bytes

_MAX_VOXELS = 256  # a side


def read_cloud(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Points and normals (N, 3) of a pointcloud.npz, as stored."""
    points, normals = _points_and(path, "normals")
    if normals.shape != points.shape:
        raise ValueError(f"{path}: expected normals of shape {points.shape}, got {normals.shape}")
    return points, normals


def read_queries(path: Path, unpackbits: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Points (N, 3) as stored and occupancies (N,) float32 of a points.npz."""
    points, occupied = _points_and(path, "occupancies")
    count = len(points)
    expected = -(-count // 8) if unpackbits else count
    if occupied.shape != (expected,) or (unpackbits and occupied.dtype != np.uint8):
        raise ValueError(
            f"{path}: expected {expected} occupancies{' packed as uint8' if unpackbits else ''}, "
            f"got shape {occupied.shape} of {occupied.dtype}; see data.points_unpackbits"
        )
    if unpackbits:
        occupied = np.unpackbits(occupied)[:count]
    return points, occupied.astype(np.float32)


def read_voxels(path: Path) -> np.ndarray:
    """Voxels (n, n, n) float32, 0 or 1, of a .binvox file."""
    try:
        with path.open("rb") as file:
            header = file.read(1024).split(b"data", 1)[0].split()
            place = header.index(b"dim")
            sides = [int(word) for word in header[place + 1 : place + 4]]
            # run-length encoded: few bytes may stand for many voxels
            if len(set(sides)) != 1 or not 1 <= sides[0] <= _MAX_VOXELS:
                raise ValueError(f"a cube of 1 to {_MAX_VOXELS} voxels a side wanted, got {sides}")
            file.seek(0)
            return np.asarray(load_binvox(file).matrix, dtype=np.float32)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: expected a file of the data set, got none") from error
    except DAMAGED as error:
        raise ValueError(f"{path}: expected binvox data, got a damaged file: {error}") from error


def write_cloud(path: Path, points: np.ndarray, normals: np.ndarray) -> None:
    """Write (N, 3) points and normals as float16."""
    write_arrays(path, points=points.astype(np.float16), normals=normals.astype(np.float16))


def write_queries(path: Path, points: np.ndarray, occupied: np.ndarray) -> None:
    """Write (N, 3) points as they are and (N,) bools as bits."""
    write_arrays(path, points=points, occupancies=np.packbits(occupied))


def write_voxels(path: Path, filled: np.ndarray) -> None:
    """Write (n, n, n) bools over the unit cube."""
    to_cube = scale_and_translate(1.0 / (len(filled) - 1), [-0.5] * 3)  # header: translate, scale 1
    write_bytes(path, export_binvox(VoxelGrid(filled, to_cube)))


def _points_and(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The points of an .npz file, checked, and another array."""
    try:
        points, other = read_arrays(path, "points", name)
    except FileNotFoundError as error:
        raise ValueError(f"{path}: expected a file of the data set, got none") from error
    except DAMAGED as error:
        raise ValueError(
            f"{path}: expected an .npz file with points, {name}, got a damaged one: {error}"
        ) from error
    if points.ndim != 2 or points.shape[1] != 3 or not len(points) or points.dtype.kind != "f":
        raise ValueError(
            f"{path}: expected points (N, 3) of floating point, "
            f"got shape {points.shape} of {points.dtype}"
        )
    if not np.isfinite(points).all():
        raise ValueError(f"{path}: expected finite points, got some that are not")
    return points, other
