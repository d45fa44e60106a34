"""The surface of an object, and its files for other tools."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open3d as o3d
import trimesh

from convonet_ros.storage import write_bytes

MESH_SUFFIXES = (".ply", ".obj", ".off", ".stl")


@dataclass(frozen=True, slots=True)
class Surface:
    """A triangle mesh; triangles are counter-clockwise seen from free space.

    vertices: (V, 3) float64; triangles: (F, 3) int32; normals: (V, 3) float64 of length 1, facing
    free space, or None; colours: (V, 3) uint8 RGB or None.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    normals: np.ndarray | None = None
    colours: np.ndarray | None = None

    @property
    def empty(self) -> bool:
        """Whether it has no triangles."""
        return len(self.triangles) == 0


def simplified(surface: Surface, count: int) -> Surface:
    """The surface with about `count` triangles (Garland and Heckbert, 1997); without normals and
    colours. One that has no more stays as it is.
    """
    if len(surface.triangles) <= count:
        return surface
    mesh = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(surface.vertices), o3d.utility.Vector3iVector(surface.triangles)
    )
    mesh = mesh.simplify_quadric_decimation(count)
    return Surface(np.asarray(mesh.vertices).copy(), np.asarray(mesh.triangles).astype(np.int32))


def write_surface(path: str | Path, surface: Surface) -> None:
    """Write a .ply, .obj, .off or .stl, whole or not at all.

    PLY and OBJ hold normals and colours, OFF and STL neither; PLY and STL round to float32. Raises
    ValueError for another suffix and for a surface of nothing.
    """
    path = Path(path)
    suffix = check_suffix(path)
    if surface.empty:
        raise ValueError(f"{path}: expected a surface, got an empty one; lower the threshold")
    mesh = trimesh.Trimesh(
        surface.vertices,
        surface.triangles,
        vertex_normals=surface.normals,
        vertex_colors=surface.colours,
        process=False,
        validate=False,
    )
    has_normals = surface.normals is not None
    options: dict[str, Any] = {}
    if suffix == ".ply":
        options = {"vertex_normal": has_normals}
    elif suffix == ".obj":
        options = {"include_normals": has_normals, "header": None}
    content = mesh.export(file_type=suffix[1:], **options)
    write_bytes(path, content.encode() if isinstance(content, str) else content)


def check_suffix(path: str | Path) -> str:
    """The suffix of a file that `write_surface` can write; ValueError for another."""
    suffix = Path(path).suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise ValueError(f"{path}: expected one of {', '.join(MESH_SUFFIXES)}, got '{suffix}'")
    return suffix
