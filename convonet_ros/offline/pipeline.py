"""A recording through the mapper into files."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from convonet_ros.config import Config, to_yaml, with_values
from convonet_ros.datasets.recordings import Recording
from convonet_ros.geometry import Lattice, transform
from convonet_ros.mapping.mapper import Mapper, MapUpdate
from convonet_ros.mapping.meshing import Mesh
from convonet_ros.mapping.occupancy import OccupancyGrid2D, OccupancyVolume
from convonet_ros.mapping.volume import CropIndex
from convonet_ros.model import zoo
from convonet_ros.model.crops import CropModel
from convonet_ros.offline.files import (
    OBSERVED_RGB,
    PREDICTED_RGB,
    merged,
    write_grid,
    write_mesh,
)
from convonet_ros.offline.surfaces import Surface, simplified
from convonet_ros.sensors import points_from_depth
from convonet_ros.storage import write_bytes

Progress = Callable[[str, int, int], None]  # what ("frames", "scans", "crops"), done, of how many

_BYTES_PER_VOXEL = 86  # of the volume and the decoded lattice
_MAX_BYTES = 3e9
_MAX_CROPS = 64  # a side, the knobs' limit
_PART_Z_CROPS = 6  # of a part of a recording that is too large to be mapped as a whole
_POINTS_OF_EXTENT = 5000  # of each frame
_UPDATE_S = 5.0  # between two steps of the progress; each makes meshes anew that border on others


@dataclass(frozen=True, slots=True)
class OfflineMap:
    """What a recording became.

    meshes: every crop's mesh; grid: all of the recording; volume: occupancy of the last part (all
    of the recording where report["window"]["parts"] is 1); path: (N, 3) positions of the camera,
    map frame; config: the one used, with the window's size.
    """

    meshes: dict[CropIndex, Mesh]
    volume: OccupancyVolume
    grid: OccupancyGrid2D
    path: np.ndarray
    config: Config
    report: dict[str, Any]


def map_recording(
    recording: Recording,
    config: Config,
    progress: Progress = lambda what, done, total: None,
    network: CropModel | None = None,
) -> OfflineMap:
    """Map a recording. `network` None: the weights that the configuration names.

    The window holds the whole recording where memory allows, else one part of it after the other.
    Raises ValueError when no frame of the recording can be mapped.
    """
    started = time.monotonic()
    volumes: list[OccupancyVolume] = []
    grids: list[OccupancyGrid2D] = []

    def take(mapper: Mapper) -> None:
        volumes[:] = [mapper.occupancy()]
        grids.append(volumes[0].project(config.grid.min_z_m, config.grid.max_z_m))

    sized, meshes, path, report = _mapped(recording, config, progress, network, take)
    grid = _joined(grids)
    report["grid"] = _about_grid(grid)
    _complete(report, started, merged(meshes.values()), len(meshes))
    return OfflineMap(meshes, volumes[0], grid, path, sized, report)


def mesh_of_recording(
    recording: Recording, config: Config, progress: Progress = lambda what, done, total: None
) -> tuple[Mesh, dict[str, Any]]:
    """The mesh of all crops that `map_recording` makes, and its report, in less memory: without
    occupancy and grid.
    """
    started = time.monotonic()
    _, meshes, _, report = _mapped(recording, config, progress)  # here the map's memory is freed
    whole = merged(meshes.values())
    _complete(report, started, whole, len(meshes))
    return whole, report


def surface_of_map(mesh: Mesh, simplify_to: int | None = None) -> Surface:
    """A mesh of the map as a surface in the colours of `write_mesh`; see `surfaces.simplified`."""
    surface = Surface(mesh.vertices.astype(np.float64), mesh.triangles)
    observed = mesh.observed
    if simplify_to is not None and len(mesh.triangles) > simplify_to:
        surface = simplified(surface, simplify_to)
        observed = observed[cKDTree(mesh.vertices).query(surface.vertices)[1]]
    colours = np.where(observed[:, None], OBSERVED_RGB, PREDICTED_RGB).astype(np.uint8)
    return replace(surface, colours=colours)


def _mapped(
    recording: Recording,
    config: Config,
    progress: Progress,
    network: CropModel | None = None,
    take: Callable[[Mapper], None] = lambda mapper: None,
) -> tuple[Config, dict[CropIndex, Mesh], np.ndarray, dict[str, Any]]:
    """The configuration used, all meshes, the camera's path (N, 3) and a report.

    take: is given the map when a part of the recording is finished.
    """
    loaded, about = (
        (network, {}) if network else zoo.load_crops(config.model.weights, config.model.config)
    )
    lattice = Lattice(loaded.voxel_m, loaded.crop_voxels, loaded.halo_voxels)
    boxes = _frame_boxes(recording, config, progress)
    config, middles = parts_for(_around(boxes, config), config, lattice)
    window = np.array([config.map.window_xy_crops] * 2 + [config.map.window_z_crops])
    reach = window * lattice.crop_m / 2 + lattice.halo_voxels * lattice.voxel_m
    parts = []
    for middle in middles:
        meets = (boxes[:, 1] >= middle - reach) & (boxes[:, 0] <= middle + reach)  # N 3
        seen = np.asarray(meets.all(axis=1))
        if seen.any():
            parts.append((middle, seen))
    scans, all_scans = 0, int(np.sum([seen for _, seen in parts]))
    mapper = Mapper(config, network)
    meshes: dict[CropIndex, Mesh] = {}
    stages: dict[str, float] = {}
    path: dict[int, np.ndarray] = {}
    for part, (middle, seen) in enumerate(parts):
        if part > 0:
            mapper.reset()
        mapper.volume.hold(middle)
        for number, scan in enumerate(recording.scans(config)):
            if not seen[number]:
                continue
            before = time.monotonic()
            mapper.integrate(scan)
            path[number] = scan.T_map_sensor[:3, 3]
            stages["integrate"] = stages.get("integrate", 0.0) + time.monotonic() - before
            scans += 1
            progress("scans", scans, all_scans)
        total = mapper.inferred_total + mapper.waiting
        while mapper.waiting:
            _collect(meshes, mapper.update(_UPDATE_S), stages)
            progress("crops", total - mapper.waiting, total)
        take(mapper)
    report = {
        "recording": str(recording.folder),
        "frames": {
            "chosen": len(recording),
            "mapped": len(path),
            "skipped": dict(recording.skipped),
        },
        "seconds": {name: round(seconds, 3) for name, seconds in sorted(stages.items())},
        "crops_inferred": mapper.inferred_total,
        "window": {"crops": window.tolist(), "parts": len(parts)},
        "device": str(mapper.device),
        "weights": {"file": config.model.weights or "the package's", **about},
    }
    return config, meshes, np.array([path[number] for number in sorted(path)]), report


def extent(recording: Recording, config: Config, progress: Progress) -> np.ndarray:
    """(2, 3) metres, map frame: the box of all that the recording measures and sees through.

    Raises ValueError when no frame of the recording can be read.
    """
    return _around(_frame_boxes(recording, config, progress), config)


def _around(boxes: np.ndarray, config: Config) -> np.ndarray:
    """(2, 3) the box of the boxes (N, 2, 3), and of what is predicted beside them."""
    reach = config.model.completion_m
    return np.stack([boxes[:, 0].min(axis=0) - reach, boxes[:, 1].max(axis=0) + reach])


def _frame_boxes(recording: Recording, config: Config, progress: Progress) -> np.ndarray:
    """(N, 2, 3) metres, map frame: of each frame that can be read, what it sees and sees through.

    Raises ValueError when there is none.
    """
    far = config.scan.max_range_m
    boxes = []
    for done, frame in enumerate(recording, start=1):
        points = points_from_depth(frame.depth, frame.intrinsics, _POINTS_OF_EXTENT)
        distance = np.linalg.norm(points, axis=1, keepdims=True)
        points = points * np.minimum(1.0, far / distance)  # a ray is followed that far
        seen = transform(frame.T_map_camera, np.concatenate([points, np.zeros((1, 3))]))
        boxes.append([seen.min(axis=0), seen.max(axis=0)])
        progress("frames", done, len(recording))
    if not boxes:
        why = next(iter(recording.skipped.values()))
        raise ValueError(f"recording {recording.folder}: no frame can be read ({why})")
    return np.array(boxes)


def parts_for(box: np.ndarray, config: Config, lattice: Lattice) -> tuple[Config, list[np.ndarray]]:
    """The configuration with a window that memory allows, and (3,) its middles, map frame, which
    together hold a (2, 3) box.

    Where there are several, neighbours share a layer of crops, for a mesh reaches into the next
    crops. Of a shared crop the later part has all of these.
    """
    sized, middle = window_for(box, config, lattice)
    if middle is not None:
        return sized, [middle]
    low, high = np.floor(box[0] / lattice.crop_m), np.ceil(box[1] / lattice.crop_m)
    window = np.array([sized.map.window_xy_crops] * 2 + [sized.map.window_z_crops])
    beyond = high - low - 1  # crops along each axis that a part does not share with the next one
    counts = np.maximum(np.ceil(beyond / np.maximum(window - 1, 1)), 1).astype(np.int64)
    step = np.ceil(beyond / counts)  # as small as so many parts allow
    step[:2] = step[:2].max()
    xy, _, z = (step + 1).astype(np.int64).tolist()
    sized = with_values(config, {"map.window_xy_crops": xy, "map.window_z_crops": z})
    firsts = [low + np.array(place) * step for place in np.ndindex(*counts.tolist())]
    return sized, [(first + (step + 1) / 2) * lattice.crop_m for first in firsts]


def window_for(
    box: np.ndarray, config: Config, lattice: Lattice
) -> tuple[Config, np.ndarray | None]:
    """The configuration with a window for all of a (2, 3) box, and the window's middle.

    The middle is (3,) metres in the map frame; None where so large a window does not fit into
    memory: then it is as large as memory allows.
    """
    low, high = np.floor(box[0] / lattice.crop_m), np.ceil(box[1] / lattice.crop_m)
    xy, z = int((high - low)[:2].max()), int((high - low)[2])
    too_large = max(xy, z) > _MAX_CROPS or _window_bytes(xy, z, lattice) > _MAX_BYTES
    if too_large:
        xy, z = min(xy, _MAX_CROPS), min(z, _PART_Z_CROPS)
        while _window_bytes(xy, z, lattice) > _MAX_BYTES:
            xy -= 1
    sized = with_values(config, {"map.window_xy_crops": xy, "map.window_z_crops": z})
    return sized, None if too_large else (low + np.array([xy, xy, z]) / 2) * lattice.crop_m


def _window_bytes(xy: int, z: int, lattice: Lattice) -> float:
    side, halo = lattice.crop_voxels, 2 * lattice.halo_voxels
    return float(xy * side + halo) ** 2 * (z * side + halo) * _BYTES_PER_VOXEL


def _collect(meshes: dict[CropIndex, Mesh], update: MapUpdate, stages: dict[str, float]) -> None:
    for crop, mesh in update.meshes.items():
        if mesh.empty:
            meshes.pop(crop, None)
        else:
            meshes[crop] = mesh
    for name in ("infer", "mesh"):
        stages[name] = stages.get(name, 0.0) + update.stage_ms.get(name, 0.0) / 1000


def _joined(grids: list[OccupancyGrid2D]) -> OccupancyGrid2D:
    """One grid of those of all parts: a cell is occupied where it is in one of them, then free."""
    step, stamp_ns = grids[0].resolution_m, max(grid.stamp_ns for grid in grids)
    origins = np.stack([grid.origin_m for grid in grids])
    firsts = np.rint((origins - origins.min(axis=0)) / step).astype(np.int64)  # columns, rows
    shape = np.max([f[::-1] + g.ternary.shape for f, g in zip(firsts, grids, strict=True)], axis=0)
    ternary, probability = np.full(shape, -1, np.int8), np.full(shape, -1, np.int8)
    for (column, row), grid in zip(firsts, grids, strict=True):
        rows, columns = grid.ternary.shape
        place = slice(row, row + rows), slice(column, column + columns)
        ternary[place] = np.maximum(ternary[place], grid.ternary)
        probability[place] = np.maximum(probability[place], grid.probability)
    return OccupancyGrid2D(origins.min(axis=0), step, ternary, probability, stamp_ns)


def _complete(report: dict[str, Any], started: float, whole: Mesh, crops: int) -> None:
    """Add to a report what is known in the end only."""
    report["mesh"] = _about_mesh(whole, crops)
    report["seconds"] = {"total": round(time.monotonic() - started, 3), **report["seconds"]}
    report["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _about_mesh(whole: Mesh, crops: int) -> dict[str, Any]:
    a, b, c = (whole.vertices[whole.triangles[:, i]] for i in range(3))
    area = 0.5 * np.linalg.norm(np.cross(b - a, c - a), axis=1)
    observed = whole.observed[whole.triangles].all(axis=1)
    return {
        "crops": crops,
        "vertices": len(whole.vertices),
        "triangles": len(whole.triangles),
        "area_m2": round(float(area.sum()), 3),
        "observed_m2": round(float(area[observed].sum()), 3),
    }


def _about_grid(grid: OccupancyGrid2D) -> dict[str, Any]:
    values = {"occupied": 100, "free": 0, "unknown": -1}
    counts = {name: int((grid.ternary == value).sum()) for name, value in values.items()}
    return {"cells": list(grid.ternary.shape[::-1]), "resolution_m": grid.resolution_m, **counts}


def write_map(folder: str | Path, result: OfflineMap) -> None:
    """Write mesh.ply, occupancy.png and .yaml, report.json, config.yaml and picture.png."""
    from convonet_ros.offline.pictures import picture_of_mesh

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    whole = merged(result.meshes.values())
    write_mesh(folder / "mesh.ply", whole)
    write_grid(folder, result.grid)
    write_bytes(folder / "report.json", (json.dumps(result.report, indent=2) + "\n").encode())
    write_bytes(folder / "config.yaml", to_yaml(result.config).encode())
    if not whole.empty:
        picture_of_mesh(folder / "picture.png", whole, result.path)
