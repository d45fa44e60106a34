"""A recording through the mapper into files."""

from __future__ import annotations

import json
import math
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

_BYTES_PER_VOXEL = 75  # of the volume and the decoded lattice
_MAX_BYTES = 3e9
_MAX_CROPS = 64  # a side, the knobs' limit
_ROLLING_Z_CROPS = 6
_POINTS_OF_EXTENT = 5000  # of each frame
_UPDATE_S = 5.0  # between two steps of the progress; each makes meshes anew that border on others


@dataclass(frozen=True, slots=True)
class OfflineMap:
    """What a recording became.

    meshes: every crop's mesh, also of crops that left the window; volume, grid: occupancy of the
    window (all of the recording unless report["window"]["rolling"]); path: (N, 3) positions of the
    camera, map frame; config: the one used, with the window's size.
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

    The window holds the whole recording where memory allows, else it rolls with the camera.
    Raises ValueError when no frame of the recording can be mapped.
    """
    started = time.monotonic()
    mapper, meshes, path, report = _mapped(recording, config, progress, network)
    volume = mapper.occupancy()
    grid = volume.project(config.grid.min_z_m, config.grid.max_z_m)
    report["grid"] = _about_grid(grid)
    _complete(report, started, merged(meshes.values()), len(meshes))
    return OfflineMap(meshes, volume, grid, path, mapper.config, report)


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
) -> tuple[Mapper, dict[CropIndex, Mesh], np.ndarray, dict[str, Any]]:
    """The map after the whole recording, all meshes, the camera's path (N, 3) and a report."""
    loaded, about = (
        (network, {}) if network else zoo.load_crops(config.model.weights, config.model.config)
    )
    lattice = Lattice(loaded.voxel_m, loaded.crop_voxels, loaded.halo_voxels)
    config, middle = window_for(extent(recording, config, progress), config, lattice)
    mapper = Mapper(config, network)
    if middle is not None:
        mapper.volume.hold(middle)
    meshes: dict[CropIndex, Mesh] = {}
    left: dict[CropIndex, Mesh] = {}
    stages: dict[str, float] = {}
    refused: list[str] = []
    mapped, path = 0, []
    updated_at: np.ndarray | None = None

    for scan in recording.scans(config):
        position = scan.T_map_sensor[:3, 3]
        if middle is None and updated_at is None:
            updated_at = position
        # A rolling window is brought up to date before a crop with news can leave it.
        if updated_at is not None and np.abs(position - updated_at).max() > lattice.crop_m / 2:
            _collect(meshes, left, mapper.update(math.inf), stages)
            updated_at = position
        before = time.monotonic()
        try:
            mapper.integrate(scan)
        except ValueError as error:
            refused.append(str(error))
            continue
        stages["integrate"] = stages.get("integrate", 0.0) + time.monotonic() - before
        mapped += 1
        path.append(position)
        progress("scans", mapped, len(recording))
    if not mapped:
        raise ValueError(f"recording {recording.folder}: no frame can be mapped ({refused[0]})")
    done = mapper.inferred_total
    total = done + mapper.waiting
    while mapper.waiting:
        _collect(meshes, left, mapper.update(_UPDATE_S), stages)
        progress("crops", total - mapper.waiting, total)
    for crop, mesh in left.items():
        meshes[crop] = _fuller(mesh, meshes.get(crop))

    report = {
        "recording": str(recording.folder),
        "frames": {
            "chosen": len(recording),
            "mapped": mapped,
            "skipped": dict(recording.skipped),
            "refused": refused,
        },
        "seconds": {name: round(seconds, 3) for name, seconds in sorted(stages.items())},
        "crops_inferred": mapper.inferred_total,
        "window": {
            "crops": [config.map.window_xy_crops] * 2 + [config.map.window_z_crops],
            "rolling": middle is None,
        },
        "device": str(mapper.device),
        "weights": {"file": config.model.weights or "the package's", **about},
    }
    return mapper, meshes, np.array(path), report


def extent(recording: Recording, config: Config, progress: Progress) -> np.ndarray:
    """(2, 3) metres, map frame: the box of all that the recording measures and sees through.

    Raises ValueError when no frame of the recording can be read.
    """
    far = config.scan.max_range_m
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for done, frame in enumerate(recording, start=1):
        points = points_from_depth(frame.depth, frame.intrinsics, _POINTS_OF_EXTENT)
        distance = np.linalg.norm(points, axis=1, keepdims=True)
        points = points * np.minimum(1.0, far / distance)  # a ray is followed that far
        seen = transform(frame.T_map_camera, np.concatenate([points, np.zeros((1, 3))]))
        low, high = np.minimum(low, seen.min(axis=0)), np.maximum(high, seen.max(axis=0))
        progress("frames", done, len(recording))
    if not np.isfinite(low).all():
        why = next(iter(recording.skipped.values()))
        raise ValueError(f"recording {recording.folder}: no frame can be read ({why})")
    return np.stack([low, high]) + np.array([[-1.0], [1.0]]) * config.model.completion_m


def window_for(
    box: np.ndarray, config: Config, lattice: Lattice
) -> tuple[Config, np.ndarray | None]:
    """The configuration with a window for all of a (2, 3) box, and the window's middle.

    The middle is (3,) metres in the map frame; None where so large a window does not fit into
    memory: then it has to roll, and is as large as memory allows.
    """
    low, high = np.floor(box[0] / lattice.crop_m), np.ceil(box[1] / lattice.crop_m)
    xy, z = int((high - low)[:2].max()), int((high - low)[2])
    rolls = max(xy, z) > _MAX_CROPS or _window_bytes(xy, z, lattice) > _MAX_BYTES
    if rolls:
        xy, z = min(xy, _MAX_CROPS), min(z, _ROLLING_Z_CROPS)
        while _window_bytes(xy, z, lattice) > _MAX_BYTES:
            xy -= 1
    sized = with_values(config, {"map.window_xy_crops": xy, "map.window_z_crops": z})
    return sized, None if rolls else (low + np.array([xy, xy, z]) / 2) * lattice.crop_m


def _window_bytes(xy: int, z: int, lattice: Lattice) -> float:
    side, halo = lattice.crop_voxels, 2 * lattice.halo_voxels
    return float(xy * side + halo) ** 2 * (z * side + halo) * _BYTES_PER_VOXEL


def _collect(
    meshes: dict[CropIndex, Mesh],
    left: dict[CropIndex, Mesh],
    update: MapUpdate,
    stages: dict[str, float],
) -> None:
    """Take an update over; the meshes of crops that left the window go to `left`."""
    if update.cleared:
        meshes.clear()
        left.clear()
    for crop in update.left:
        if crop in meshes:
            left[crop] = _fuller(meshes.pop(crop), left.get(crop))
    for crop, mesh in update.meshes.items():
        if mesh.empty:
            meshes.pop(crop, None)
        else:
            meshes[crop] = mesh
    for name in ("infer", "mesh"):
        stages[name] = stages.get(name, 0.0) + update.stage_ms.get(name, 0.0) / 1000


def _fuller(mesh: Mesh, other: Mesh | None) -> Mesh:
    """That of two meshes of a crop with more observed surface: the window forgets a crop that it
    leaves, and may see little of it when it comes back."""
    return mesh if other is None or mesh.observed.sum() >= other.observed.sum() else other


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
