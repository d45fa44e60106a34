"""The map's promises: order does not matter, rays beat the network, what left is gone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh

from convonet_ros.config import Config, with_values
from convonet_ros.geometry import transform
from convonet_ros.mapping.mapper import Mapper, MapUpdate
from convonet_ros.mapping.meshing import Mesh
from convonet_ros.mapping.occupancy import (
    OBSERVED_FREE,
    OBSERVED_OCCUPIED,
    PREDICTED_OCCUPIED,
    UNKNOWN,
    OccupancyVolume,
)
from convonet_ros.mapping.volume import CropIndex
from convonet_ros.sensors import Scan
from tests.worlds import drive_scans, scans_of_room, sphere_scans

SMALL = with_values(Config(), {"map.window_z_crops": 2})


def keep(meshes: dict[CropIndex, Mesh], update: MapUpdate) -> None:
    """What a viewer does with an update."""
    if update.cleared:
        meshes.clear()
    for crop in update.left:
        meshes.pop(crop, None)
    for crop, mesh in update.meshes.items():
        if mesh.empty:
            meshes.pop(crop, None)
        else:
            meshes[crop] = mesh


def merged(meshes: dict[CropIndex, Mesh]) -> trimesh.Trimesh:
    parts = [trimesh.Trimesh(m.vertices, m.triangles, process=False) for m in meshes.values()]
    whole = trimesh.util.concatenate(parts)
    whole.merge_vertices(digits_vertex=7)
    return whole


def test_incremental_equals_from_scratch() -> None:
    """Updates between the scans, cut short by their budget, change nothing in the end."""
    _, scans = drive_scans(seed=3, count=6)
    often, once = Mapper(SMALL), Mapper(SMALL)
    seen: dict[CropIndex, Mesh] = {}
    for scan in scans:
        often.integrate(scan)
        keep(seen, often.update(budget_s=0.0))
        once.integrate(scan)
    assert often.waiting > 0
    keep(seen, often.update(math.inf))
    once_update = once.update(math.inf)
    assert often.inferred_total > once.inferred_total
    a, b = often.occupancy(), once.occupancy()
    assert np.array_equal(a.probability, b.probability, equal_nan=True)
    assert np.array_equal(a.classes, b.classes)
    assert (a.classes == PREDICTED_OCCUPIED).sum() > 1000
    expected = {c: m for c, m in once_update.meshes.items() if not m.empty}
    assert seen.keys() == expected.keys()
    for crop, mesh in expected.items():
        assert np.array_equal(seen[crop].vertices, mesh.vertices)
        assert np.array_equal(seen[crop].triangles, mesh.triangles)


def test_incremental_equals_from_scratch_while_the_window_moves() -> None:
    """Crops that leave, and crops that enter with their halo known, change nothing of it."""
    _, scans = drive_scans(seed=3, count=9)
    often, once = Mapper(SMALL), Mapper(SMALL)
    seen: dict[CropIndex, Mesh] = {}
    for i, scan in enumerate(scans):
        T = scan.T_map_sensor.copy()
        T[0, 3] += 0.9 * i
        for mapper in (often, once):
            mapper.integrate(Scan(scan.points, T, scan.stamp_ns))
        keep(seen, often.update(math.inf if i % 3 == 0 else 0.0))
    for mapper in (often, once):
        last = mapper.update(math.inf)
        if mapper is often:
            keep(seen, last)
    assert often.volume.min_crop is not None
    assert often.volume.min_crop[0] >= 1  # it did move: at first it was -2 or -3
    a, b = often.occupancy(), once.occupancy()
    assert np.array_equal(a.probability, b.probability, equal_nan=True)
    assert np.array_equal(a.classes, b.classes)
    for mapper in (often, once):  # what a viewer has, and what a latecomer is given
        expected = {c: m for c, m in mapper.everything().meshes.items() if not m.empty}
        assert seen.keys() == expected.keys()
        for crop, mesh in expected.items():
            assert np.array_equal(seen[crop].vertices, mesh.vertices)
            assert np.array_equal(seen[crop].triangles, mesh.triangles)


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


def test_a_window_too_large_for_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("convonet_ros.mapping.mapper.Field", full)
    with pytest.raises(ValueError, match="a window of 5 x 5 x 2 crops does not fit into the mem"):
        Mapper(SMALL)


def wall(x_m: tuple[float, float], y_m: float) -> np.ndarray:
    """(N, 3) points of a wall along x, around the height 0."""
    x, z = np.meshgrid(np.linspace(*x_m, 300), np.linspace(-0.5, 0.5, 60))
    return np.stack([x.ravel(), np.full(x.size, y_m), z.ravel()], axis=1)


def test_no_mesh_reaches_into_a_crop_that_left() -> None:
    mapper = Mapper(SMALL)
    seen: dict[CropIndex, Mesh] = {}
    mapper.integrate(Scan(wall((-2.0, 3.5), 1.0), np.eye(4), 1))
    keep(seen, mapper.update(math.inf))
    last = max(mapper.volume.crops())[0]
    T = np.eye(4)
    T[0, 3] = -0.5
    mapper.integrate(Scan(np.array([[0.5, 0.0, 0.0]]), T, 2))
    assert max(mapper.volume.crops())[0] == last - 1
    keep(seen, mapper.update(math.inf))
    expected = {c: m for c, m in mapper.everything().meshes.items() if not m.empty}
    assert seen.keys() == expected.keys()
    assert any(crop[0] == last - 1 for crop in seen)
    for crop, mesh in expected.items():
        assert np.array_equal(seen[crop].triangles, mesh.triangles)


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


def test_crops_that_enter_with_points_in_them_are_inferred() -> None:
    """A wall in the halo only becomes a surface when its crop enters, without another look."""
    mapper = Mapper(SMALL)
    edge = mapper.lattice.crop_m * 3  # the window of 5 crops around crop 0 ends here
    y, z = (
        a.ravel() for a in np.meshgrid(np.linspace(-0.8, 0.8, 100), np.linspace(-0.8, 0.8, 100))
    )
    wall = np.stack([np.full_like(y, edge + 0.2), y, z], axis=1)
    T = np.eye(4)
    T[:3, 3] = [1.2, 0.0, 0.0]
    mapper.integrate(Scan(wall - T[:3, 3], T, 1))
    assert max(c[0] for c in mapper.volume.crops()) * mapper.lattice.crop_m < edge
    mapper.update(math.inf)
    T[0, 3] = 2.4
    mapper.integrate(Scan(np.array([[0.5, 0.0, 0.0]]), T, 2))
    entered = [c for c in mapper.update(math.inf).inferred if c[0] == 3]
    assert entered
    assert not np.isnan(mapper.query(wall[::500])[0]).any()


def test_sphere_is_watertight_with_the_right_volume() -> None:
    centre, radius = np.array([0.13, -0.07, 1.62]), 0.5  # across the borders of eight crops
    # At 0.5 the surface lies in the middle of what is possible; below, it errs outwards.
    mapper = Mapper(with_values(SMALL, {"map.window_z_crops": 3, "model.threshold": 0.5}))
    for scan in sphere_scans(centre, radius):
        mapper.integrate(scan)
    meshes: dict[CropIndex, Mesh] = {}
    keep(meshes, mapper.update(math.inf))
    assert len(meshes) >= 8
    whole = merged(meshes)
    assert whole.is_watertight
    assert whole.volume == pytest.approx(4 / 3 * math.pi * radius**3, rel=0.05)


def test_unknown_before_and_after_everything() -> None:
    mapper = Mapper(SMALL)
    assert (mapper.occupancy().classes == UNKNOWN).all()
    _, scans = drive_scans(seed=3, count=1)
    mapper.integrate(scans[0])
    assert mapper.update().meshes
    mapper.reset()
    update = mapper.update()
    assert update.cleared
    assert not update.meshes
    volume = mapper.occupancy()
    assert (volume.classes == UNKNOWN).all()
    assert np.isnan(volume.probability).all()
    mapper.integrate(scans[0])
    assert mapper.update(math.inf).meshes


def test_latecomers_get_everything() -> None:
    _, scans = drive_scans(seed=3, count=3)
    mapper = Mapper(SMALL)
    meshes: dict[CropIndex, Mesh] = {}
    for scan in scans:
        mapper.integrate(scan)
        keep(meshes, mapper.update(math.inf))
    late: dict[CropIndex, Mesh] = {}
    keep(late, mapper.everything())
    assert late.keys() == meshes.keys()
    assert all(np.array_equal(late[c].triangles, meshes[c].triangles) for c in late)


def test_query_agrees_with_the_volume() -> None:
    _, scans = drive_scans(seed=3, count=2)
    mapper = Mapper(SMALL)
    for scan in scans:
        mapper.integrate(scan)
    mapper.update(math.inf)
    volume = mapper.occupancy()
    index = np.argwhere(volume.classes > 0)[::997]
    points = volume.origin_m + (index + 0.5) * volume.resolution_m
    far = np.array([[1e6, 0, 0], [np.nan, 0, 0]])
    probability, classes = mapper.query(np.concatenate([points, far]))
    assert np.array_equal(classes[:-2], volume.classes[tuple(index.T)])
    assert np.array_equal(probability[:-2], volume.probability[tuple(index.T)], equal_nan=True)
    assert (classes[-2:] == UNKNOWN).all()
    assert np.isnan(probability[-2:]).all()


def test_leaving_crops_are_named_and_nothing_of_them_stays() -> None:
    _, scans = drive_scans(seed=3, count=1)
    mapper = Mapper(SMALL)
    gone: set[CropIndex] = set()
    held: set[CropIndex] = set()
    for step in range(6):
        T = scans[0].T_map_sensor.copy()
        T[0, 3] += 1.6 * step
        mapper.integrate(Scan(scans[0].points, T, step))
        update = mapper.update(math.inf)
        held |= {c for c, m in update.meshes.items() if not m.empty}
        gone |= set(update.left)
        assert all(mapper.volume.holds(c) for c in update.meshes)
        known = mapper._meshed | mapper._dirty_meshes | set(mapper.scheduler._waiting)
        assert all(mapper.volume.holds(c) for c in known)  # nothing piles up
    assert gone
    assert gone <= held
    assert not any(mapper.volume.holds(c) for c in gone)


def test_batched_equals_one_by_one() -> None:
    _, scans = drive_scans(seed=3, count=2)
    values = {"model.precision": "float32"}
    single = Mapper(with_values(SMALL, values))
    batched = Mapper(with_values(SMALL, {**values, "update.batch_crops": 4}))
    for mapper in (single, batched):
        for scan in scans:
            mapper.integrate(scan)
        mapper.update(math.inf)
    a, b = single.occupancy().probability, batched.occupancy().probability
    assert np.array_equal(np.isnan(a), np.isnan(b))
    known = ~np.isnan(a)
    assert torch.allclose(torch.from_numpy(a[known]), torch.from_numpy(b[known]), atol=2e-3)
