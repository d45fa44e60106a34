"""Maps on disk: the mesh as one PLY, the grid as nav2's map_server reads it."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import trimesh
import yaml
from PIL import Image

from convonet_ros.mapping.meshing import Mesh, no_mesh
from convonet_ros.mapping.occupancy import OccupancyGrid2D
from convonet_ros.storage import write_bytes

OBSERVED_RGB, PREDICTED_RGB = (216, 210, 200), (236, 150, 82)
_OCCUPIED, _FREE, _UNKNOWN = 0, 254, 205  # pixels, as map_server writes them
_OCCUPIED_THRESH = 0.65
_FREE_THRESH = 0.196  # just below (255 - 205) / 255: with a higher one, unknown is read as free
_MAX_PIXELS = 32767  # a side, Nav2's limit


def merged(meshes: Iterable[Mesh]) -> Mesh:
    """One mesh of many crops: the vertices that neighbours share on their border become one.

    Neighbours compute a shared vertex from the same numbers, so it is bit-equal in both.
    """
    parts = [mesh for mesh in meshes if len(mesh.triangles)]
    if not parts:
        return no_mesh()
    vertices = np.concatenate([mesh.vertices for mesh in parts]).astype(np.float32) + np.float32(0)
    observed = np.concatenate([mesh.observed for mesh in parts])
    starts = np.cumsum([0] + [len(mesh.vertices) for mesh in parts])
    triangles = np.concatenate([m.triangles + s for m, s in zip(parts, starts, strict=False)])
    keys = np.ascontiguousarray(vertices).view([("", np.float32)] * 3)[:, 0]
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    seen = np.zeros(len(first), bool)
    np.logical_or.at(seen, place, observed)
    triangles = place[triangles].astype(np.int32)
    a, b, c = triangles.T
    triangles = triangles[(a != b) & (b != c) & (c != a)]  # two corners fell together: no area
    return Mesh(vertices[first], triangles, seen)


def write_mesh(path: str | Path, mesh: Mesh) -> None:
    """Write a mesh as a binary PLY in the map frame; colours tell observed from predicted."""
    colours = np.where(mesh.observed[:, None], OBSERVED_RGB, PREDICTED_RGB).astype(np.uint8)
    whole = trimesh.Trimesh(
        mesh.vertices, mesh.triangles, vertex_colors=colours, process=False, validate=False
    )
    write_bytes(path, whole.export(file_type="ply"))


def read_mesh(path: str | Path) -> Mesh:
    """A mesh as `write_mesh` writes it; in other colours all of it counts as observed.

    Raises ValueError for a file that holds no mesh.
    """
    try:
        whole = trimesh.load(path, process=False)
        colours = np.asarray(whole.visual.vertex_colors)[:, :3]
        predicted = (colours == PREDICTED_RGB).all(axis=1)
        return Mesh(
            np.asarray(whole.vertices, np.float32), np.asarray(whole.faces, np.int32), ~predicted
        )
    except (OSError, ValueError, AttributeError, IndexError) as error:
        raise ValueError(f"{path}: expected a mesh in PLY ({error})") from error


def write_grid(folder: str | Path, grid: OccupancyGrid2D) -> None:
    """Write occupancy.png and occupancy.yaml, a trinary map for nav2's map_server."""
    folder = Path(folder)
    pixels = np.full(grid.ternary.shape, _UNKNOWN, np.uint8)
    pixels[grid.ternary == 0] = _FREE
    pixels[grid.ternary == 100] = _OCCUPIED
    buffer = io.BytesIO()
    Image.fromarray(np.flipud(pixels)).save(buffer, "PNG")  # the first row is the largest y
    about = {
        "image": "occupancy.png",
        "mode": "trinary",
        "resolution": float(grid.resolution_m),
        "origin": [float(grid.origin_m[0]), float(grid.origin_m[1]), 0.0],
        "negate": 0,
        "occupied_thresh": _OCCUPIED_THRESH,
        "free_thresh": _FREE_THRESH,
    }
    write_bytes(folder / "occupancy.png", buffer.getvalue())
    write_bytes(folder / "occupancy.yaml", yaml.safe_dump(about, sort_keys=False).encode())


def read_grid(path: str | Path) -> tuple[np.ndarray, np.ndarray, float]:
    """What map_server makes of a trinary map's .yaml: cells (Y, X) int8 (0, 100, -1), row 0 at
    the smallest y; origin (2,) and resolution in metres. Raises ValueError for anything else.
    """
    path = Path(path)
    try:
        about = yaml.safe_load(path.read_text())
        image = Image.open(path.parent / about["image"])
        if max(image.size) > _MAX_PIXELS:
            raise ValueError(f"expected at most {_MAX_PIXELS} pixels a side, got {image.size}")
        shade = np.asarray(image.convert("L"), dtype=np.float64) / 255
        occupied, free = float(about["occupied_thresh"]), float(about["free_thresh"])
        origin = np.array([float(x) for x in about["origin"][:2]])
        resolution, negate = float(about["resolution"]), bool(about["negate"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"map {path}: expected a map_server map, got {error}") from error
    share = shade if negate else 1 - shade
    cells = np.full(share.shape, -1, np.int8)
    cells[share > occupied] = 100
    cells[share < free] = 0
    return np.flipud(cells), origin, resolution
