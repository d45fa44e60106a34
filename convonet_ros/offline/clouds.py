"""Clouds, meshes and voxels of other tools, read from files that nobody vouches for.

Whatever a file promises is compared with what it holds before room is made for it.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open3d as o3d
import trimesh

from convonet_ros.datasets.archives import read_voxels
from convonet_ros.offline.surfaces import MESH_SUFFIXES
from convonet_ros.storage import DAMAGED, MAX_BYTES, read_arrays

CLOUD_SUFFIXES = (*MESH_SUFFIXES, ".pcd", ".xyz", ".npz", ".npy")
VOXEL_SUFFIX = ".binvox"

_MAX_POINTS = 50_000_000  # of a file, triangles likewise
_SAMPLES = 100_000  # points on a mesh, as many as upstream keeps of a shape
_UNIT = 0.01  # columns of a text are normals where lengths differ from 1 by no more
_LARGEST = 1e12  # coordinates beyond are no places
_PCD_LINE = 4096  # bytes of a line of a header
_PCD_KEYS = (
    "VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA",
)  # fmt: skip
_PCD_TYPES = {("F", 4), ("F", 8), *((kind, size) for kind in "IU" for size in (1, 2, 4, 8))}


@dataclass(frozen=True, slots=True)
class Cloud:
    """Points of a surface in a frame of their own.

    points: (N, 3) float64, N above 0, finite (not float32, in which georeferenced points would
    lose centimetres); colours: (N, 3) uint8 RGB or None; normals: (N, 3) float32 of length 1 as the
    file has them (0 where it has none), of which a surface's face free space, or None; dropped:
    points of the file left out because they were not finite.
    """

    points: np.ndarray
    colours: np.ndarray | None = None
    normals: np.ndarray | None = None
    dropped: int = 0


def read_input(path: str | Path, samples: int = _SAMPLES) -> Cloud | np.ndarray:
    """What `objects.reconstruct` takes: the (n, n, n) float32 voxels of a .binvox, or a cloud."""
    path = Path(path)
    if path.suffix.lower() != VOXEL_SUFFIX:
        return read_cloud(path, samples)
    _check_file(path)
    return read_voxels(path)


def read_cloud(path: str | Path, samples: int = _SAMPLES) -> Cloud:
    """The points of a cloud, or so many points drawn uniformly by area on a mesh.

    By suffix: .ply, .obj, .off, .stl (with triangles a mesh, else a cloud), .pcd, .xyz (a point a
    line, further columns may be colours and normals), .npz with (N, 3) `points`, perhaps `normals`,
    as upstream's, .npy (N, 3). Points on a mesh have the normals of its triangles.
    Materials and textures are not read, nor any other file. Raises ValueError for a file that is
    missing, too large, empty, damaged or without a finite point.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in CLOUD_SUFFIXES:
        raise ValueError(f"{path}: expected one of {', '.join(CLOUD_SUFFIXES)}, got '{suffix}'")
    _check_file(path)
    try:
        reader = _READERS.get(suffix)
        read = reader(path) if reader else _of_mesh_file(path, samples)
        _check_points(read.points)
    except DAMAGED as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path}: expected a cloud or mesh, got a damaged file: {reason}"
        ) from error
    points = read.points.astype(np.float64, copy=False)
    kept = (np.abs(points) < _LARGEST).all(axis=1)  # NaN neither
    if not kept.any():
        raise ValueError(f"{path}: expected points, got {len(points)} of which none is finite")
    colours = None if read.colours is None else read.colours[kept]
    normals = None if read.normals is None else _unit(read.normals[kept])
    return Cloud(points[kept], colours, normals, read.dropped + int((~kept).sum()))


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: expected a file, got none")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path}: expected a cloud, mesh or voxels, got an empty file")
    if size > MAX_BYTES:
        raise ValueError(f"{path}: expected at most {MAX_BYTES} bytes, got {size}")


def _check_points(points: np.ndarray) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise ValueError(f"points of shape (N, 3) wanted, got {points.dtype} {points.shape}")
    if not len(points):
        raise ValueError("it has no points")
    if len(points) > _MAX_POINTS:
        raise ValueError(f"at most {_MAX_POINTS} points wanted, got {len(points)}")


def _unit(normals: np.ndarray) -> np.ndarray | None:
    """(N, 3) float32 of length 1, 0 where there is no direction; None where there are none."""
    with np.errstate(all="ignore"):
        length = np.linalg.norm(normals.astype(np.float64), axis=1)
        known = np.isfinite(length) & (length > 0)
        unit = np.where(known[:, None], normals / length[:, None], 0)
    return unit.astype(np.float32) if known.any() else None


def _of_mesh_file(path: Path, samples: int) -> Cloud:
    """The vertices, or where there are triangles points drawn on them."""
    with path.open("rb") as file:  # a file without a name leads to no other file
        loaded = trimesh.load(
            file, file_type=path.suffix.lower()[1:], process=False, skip_materials=True
        )
    parts = loaded.dump() if isinstance(loaded, trimesh.Scene) else [loaded]
    meshes = [part for part in parts if len(getattr(part, "faces", ()))]
    if meshes:
        return _on_meshes(meshes, samples)
    points = np.concatenate([np.asarray(part.vertices) for part in parts])
    colours = [_rgb(getattr(part, "colors", None), len(part.vertices)) for part in parts]
    return Cloud(points, _all_or_none(colours), _all_or_none([_of_ply(part) for part in parts]))


def _of_ply(part: Any) -> np.ndarray | None:
    """The (N, 3) normals of a .ply cloud, which trimesh reads and leaves aside."""
    rows = part.metadata.get("_ply_raw", {}).get("vertex", {}).get("data")
    try:
        normals = np.stack([np.ravel(rows[name]) for name in ("nx", "ny", "nz")], axis=1)
    except (KeyError, ValueError, TypeError):  # it has none
        return None
    return normals if normals.shape == part.vertices.shape else None


def _on_meshes(meshes: list[trimesh.Trimesh], samples: int) -> Cloud:
    """Points drawn on meshes; triangles with a vertex that is not finite are left out."""
    dropped = 0
    corners, colours = [], []
    for mesh in meshes:
        if len(mesh.faces) > _MAX_POINTS:
            raise ValueError(f"at most {_MAX_POINTS} triangles wanted, got {len(mesh.faces)}")
        if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
            raise ValueError("a triangle has a vertex that is not there")
        finite = (np.abs(mesh.vertices) < _LARGEST).all(axis=1)
        dropped += int((~finite).sum())
        whole = finite[mesh.faces].all(axis=1)
        corners.append(mesh.vertices[mesh.faces[whole]])
        tinted = mesh.visual.kind in ("face", "vertex")
        tint = _rgb(mesh.visual.face_colors if tinted else None, len(mesh.faces))
        colours.append(None if tint is None else tint[whole])
    vertices = np.concatenate(corners).reshape(-1, 3)
    soup = trimesh.Trimesh(vertices, np.arange(len(vertices)).reshape(-1, 3), process=False)
    if not len(vertices) or not soup.area > 0:
        raise ValueError("its triangles have no area")
    points, owners = trimesh.sample.sample_surface(soup, samples, seed=0)
    rgb = _all_or_none(colours)
    normals = np.asarray(soup.face_normals)[owners]
    return Cloud(np.asarray(points), None if rgb is None else rgb[owners], normals, dropped)


def _all_or_none(parts: list[np.ndarray | None]) -> np.ndarray | None:
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def _rgb(colours: Any, count: int) -> np.ndarray | None:
    """(N, 3 or 4) uint8 to (N, 3), None for another number than `count`."""
    colours = np.asarray(colours) if colours is not None else np.empty(0)
    if colours.ndim != 2 or len(colours) != count or colours.shape[1] < 3:
        return None
    return colours[:, :3].astype(np.uint8)


def _of_pcd(path: Path) -> Cloud:
    _check_pcd(path)
    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        cloud = o3d.io.read_point_cloud(path, format="pcd")
    colours = np.rint(np.asarray(cloud.colors) * 255) if cloud.has_colors() else None
    normals = np.array(cloud.normals) if cloud.has_normals() else None
    return Cloud(np.array(cloud.points), _rgb(colours, len(cloud.points)), normals)


def _check_pcd(path: Path) -> None:
    """Raise ValueError for what Open3D would believe: a wrong header ends its process."""
    header: dict[str, list[str]] = {}
    with path.open("rb") as file:
        while "DATA" not in header:
            line = file.readline(_PCD_LINE)
            if not line.endswith(b"\n") or len(header) > len(_PCD_KEYS):
                raise ValueError("its header has no end")
            name, *words = line.decode("ascii").split() or ["#"]
            if not name.startswith("#"):
                if name not in _PCD_KEYS or name in header:
                    raise ValueError(f"its header has an unexpected line {name}")
                header[name] = words
        body = path.stat().st_size - file.tell()
        packed = file.read(8)
    fields, (kind,) = header["FIELDS"], header["DATA"]
    counts = [int(word) for word in header.get("COUNT", ["1"] * len(fields))]
    sizes = [int(word) for word in header["SIZE"]]
    types = {(t, n) for t, n in zip(header["TYPE"], sizes, strict=True)}
    if not len(fields) == len(sizes) == len(counts) or not {"x", "y", "z"} <= set(fields):
        raise ValueError("its header's lines do not fit to each other")
    if not types <= _PCD_TYPES or not all(1 <= count <= _PCD_LINE for count in counts):
        raise ValueError("its header has a field of a type that there is not")
    (points,), (width,), (height,) = (map(int, header[k]) for k in ("POINTS", "WIDTH", "HEIGHT"))
    if not 0 <= points <= _MAX_POINTS or points != width * height:
        raise ValueError(f"at most {_MAX_POINTS} points wanted, got {points}")
    whole = points * sum(size * count for size, count in zip(sizes, counts, strict=True))
    if kind == "binary_compressed":
        small, large = struct.unpack("<II", packed)
        fits = large == whole and small <= body - 8
    else:
        fits = whole <= body if kind == "binary" else kind == "ascii" and 2 * points <= body + 1
    if not fits:
        raise ValueError("it ends too early")


def _of_lines(path: Path) -> Cloud:
    """Lines x y z ..., separated by blanks or commas; columns 4 to 6 and 7 to 9 are colours or
    normals if they can be."""
    with path.open(encoding="utf-8") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no data is an error of the caller's
        lines = (line.replace(",", " ") for line in file)
        table = np.loadtxt(lines, np.float64, ndmin=2)
    if table.size and table.shape[1] < 3:
        raise ValueError(f"at least 3 columns wanted, got {table.shape[1]}")
    colours = normals = None
    for first in range(3, table.shape[1] - 2, 3):
        found = table[:, first : first + 3]
        length = np.linalg.norm(found, axis=1)
        # of whole numbers up to 1 one cannot tell; normals along the axes look like that
        if colours is None and found.max(initial=0) > 1 and _can_be_rgb(found):
            colours = found.astype(np.uint8)
        elif normals is None and ((np.abs(length - 1) < _UNIT) | (length == 0)).all():
            normals = found
    return Cloud(table[:, :3].reshape(-1, 3), colours, normals)


def _can_be_rgb(columns: np.ndarray) -> bool:
    whole = (columns == np.rint(columns)).all()
    return bool(whole and (columns >= 0).all() and (columns <= 255).all())


def _of_archive(path: Path) -> Cloud:
    points = read_arrays(path, "points")[0]
    try:
        normals = read_arrays(path, "normals")[0]
    except ValueError:  # it has none
        return Cloud(points)
    fits = normals.shape == points.shape and normals.dtype.kind == "f"
    return Cloud(points, None, normals if fits else None)


def _of_array(path: Path) -> Cloud:
    # mapped: what the header promises is compared with the file before room is made
    return Cloud(np.array(np.load(path, mmap_mode="r", allow_pickle=False)))


_READERS = {".pcd": _of_pcd, ".xyz": _of_lines, ".npz": _of_archive, ".npy": _of_array}
