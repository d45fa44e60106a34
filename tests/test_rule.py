"""A measured ray beats the network, in all that the map says."""

from __future__ import annotations

import math

import numpy as np

from convonet_ros.config import Config, with_values
from convonet_ros.geometry import transform
from convonet_ros.mapping.mapper import Mapper
from convonet_ros.mapping.meshing import Mesh
from convonet_ros.mapping.occupancy import (
    OBSERVED_FREE,
    OBSERVED_OCCUPIED,
    PREDICTED_OCCUPIED,
    OccupancyVolume,
)
from convonet_ros.mapping.volume import CropIndex
from convonet_ros.sensors import Scan
from tests.worlds import drive_scans, keep, scans_of_room, wall

SMALL = with_values(Config(), {"map.window_z_crops": 2})


def crossed_parts(scan: Scan, volume: OccupancyVolume, margin_m: float) -> np.ndarray:
    """(2 X, 2 Y, 2 Z) bool by dense sampling: sub-voxels that rays pass, ending margin_m before
    their ends."""
    origin = scan.T_map_sensor[:3, 3]
    rays = scan.points[np.linalg.norm(scan.points, axis=1) <= 4.0] @ scan.T_map_sensor[:3, :3].T
    length = np.linalg.norm(rays, axis=1)
    along = np.linspace(0, 1, 800)
    share = np.clip(1 - (margin_m + 0.005 * length**2) / length, 0, 1)
    crossed = np.zeros(2 * np.array(volume.classes.shape), bool)
    for part in np.array_split(along, 8):
        points = origin + rays[:, None] * (part[:, None] * share[:, None, None])
        mark(crossed, points.reshape(-1, 3), volume)
    return crossed


def mark(parts: np.ndarray, points: np.ndarray, volume: OccupancyVolume) -> None:
    """Set the sub-voxels of the window that hold (N, 3) points."""
    index = np.floor((points - volume.origin_m) / volume.resolution_m * 2).astype(int)
    parts[tuple(index[((index >= 0) & (index < parts.shape)).all(axis=1)].T)] = True


def test_nothing_that_rays_crossed_and_nothing_hit_is_occupied_anywhere() -> None:
    _, scans = drive_scans(seed=5, count=12)
    mapper = Mapper(SMALL)
    meshes: dict[CropIndex, Mesh] = {}
    for scan in scans:
        mapper.integrate(scan)
        keep(meshes, mapper.update(0.0))
    keep(meshes, mapper.update(math.inf))
    volume = mapper.occupancy()
    crossed = np.zeros(2 * np.array(volume.classes.shape), bool)
    hit = np.zeros_like(crossed)
    for scan in scans:
        crossed |= crossed_parts(scan, volume, margin_m=0.06)
        mark(hit, transform(scan.T_map_sensor, scan.points.astype(float)), volume)
    parts = crossed & ~hit
    x, y, z = volume.classes.shape
    free = parts.reshape(x, 2, y, 2, z, 2).all(axis=(1, 3, 5))
    assert free.sum() > 5_000
    assert (volume.classes[free] == OBSERVED_FREE).all()
    assert volume.probability[free].max() <= 0.01
    # 2D: a column is occupied only where a cell that is not free stands in it.
    grid = volume.project(0.1, 1.5)
    z_m = volume.origin_m[2] + (np.arange(z) + 0.5) * volume.resolution_m
    band = (z_m >= 0.1) & (z_m <= 1.5)
    assert not (grid.ternary[free[:, :, band].all(axis=2).T] == 100).any()
    # No vertex of the mesh lies among eight middles of free sub-voxels.
    vertices = np.concatenate([m.vertices for m in meshes.values()])
    low = np.floor((vertices - volume.origin_m) / volume.resolution_m * 2 - 0.5).astype(int)
    low = low[((low >= 0) & (low < np.array(parts.shape) - 1)).all(axis=1)]
    assert len(low) > 5_000
    around = [parts[tuple((low + step).T)] for step in np.ndindex(2, 2, 2)]
    assert not np.all(around, axis=0).any()


def test_a_removed_box_disappears_from_mesh_and_grids() -> None:
    room, scans = drive_scans(seed=7, count=8, noisy=False)
    pose = scans[0].T_map_sensor
    centre = pose[:3, 3] + 1.3 * pose[:3, 2]
    half = np.array([0.15, 0.15, 0.15])
    with_box = room.with_box(centre, half, "removed")
    mapper = Mapper(SMALL)
    meshes: dict[CropIndex, Mesh] = {}

    def look(world: object, first_ns: int, count: int) -> OccupancyVolume:
        for scan in scans_of_room(world, [pose] * count, False, first_ns):  # type: ignore[arg-type]
            mapper.integrate(scan)
            keep(meshes, mapper.update())
        keep(meshes, mapper.update(math.inf))
        return mapper.occupancy()

    def inside(volume: OccupancyVolume) -> np.ndarray:
        low, high = (np.round((centre + s * half - volume.origin_m) / 0.05) for s in (-1, 1))
        cells = volume.classes[tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))]
        return (cells == OBSERVED_OCCUPIED) | (cells == PREDICTED_OCCUPIED)

    def vertices_near() -> int:
        vertices = np.concatenate([m.vertices for m in meshes.values()])
        return int((np.abs(vertices - centre) < half + 0.03).all(axis=1).sum())

    assert inside(look(with_box, 0, 6)).sum() > 20
    assert vertices_near() > 100
    assert not inside(look(room, 10**9, 10)).any()
    assert vertices_near() == 0


def test_someone_who_walks_in_is_occupied_at_once() -> None:
    """One scan is enough, though the cells were free a moment ago and may be again."""
    room, scans = drive_scans(seed=7, count=8)
    pose = scans[0].T_map_sensor
    mapper = Mapper(SMALL)
    for scan in scans_of_room(room, [pose] * 7):
        mapper.integrate(scan)
    mapper.update(math.inf)
    forward = pose[:3, 2] * [1, 1, 0] / np.linalg.norm(pose[:2, 2])
    half = np.array([0.2, 0.2, 0.5])
    for step, distance in enumerate((1.9, 1.7, 1.5, 1.3, 1.1)):
        centre = pose[:3, 3] + distance * forward
        world = room.with_box(centre, half, "someone")
        (scan,) = scans_of_room(world, [pose], first_stamp_ns=(step + 10) * 10**9)
        mapper.integrate(scan)
        for budget_s in (0.0, math.inf):  # before and after the network had its say
            grid = mapper.occupancy().project(0.1, 1.5)
            points = transform(scan.T_map_sensor, scan.points.astype(float))
            on_it = (np.abs(points - centre) < half - 0.03 * np.array([0, 0, 1])).all(axis=1)
            column = np.floor((points[on_it, :2] - grid.origin_m) / grid.resolution_m).astype(int)
            assert len(column) > 50
            assert (grid.ternary[column[:, 1], column[:, 0]] == 100).mean() > 0.95
            mapper.update(budget_s)


def test_what_rays_crossed_is_free_before_the_network_says_so() -> None:
    mapper = Mapper(SMALL)
    for stamp_ns in range(1, 4):
        mapper.integrate(Scan(wall((-0.5, 0.5), 1.0), np.eye(4), stamp_ns))
    mapper.update(math.inf)
    occupied = (OBSERVED_OCCUPIED, PREDICTED_OCCUPIED)
    assert np.isin(mapper.occupancy().classes, occupied).sum() > 500
    for stamp_ns in range(4, 16):  # it went, and rays pass to a wall farther off
        mapper.integrate(Scan(wall((-1.5, 1.5), 3.0), np.eye(4), stamp_ns))
    assert mapper.waiting
    evidence = mapper.volume.evidence_of_window().numpy()
    parts = evidence.reshape([n for side in evidence.shape for n in (side // 2, 2)])
    crossed = parts.max(axis=(1, 3, 5)) < 0
    before = mapper.occupancy().classes.copy()
    assert not np.isin(before[crossed], occupied).any()
    mapper.update(math.inf)
    for classes in (before, mapper.occupancy().classes):
        assert crossed.sum() > 5000
        assert (classes[crossed] == OBSERVED_FREE).all()
