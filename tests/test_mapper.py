"""The map's promises: order does not matter, rays beat the network, what left is gone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import trimesh

from convonet_ros.config import Config, with_values
from convonet_ros.mapping.mapper import Mapper
from convonet_ros.mapping.meshing import Mesh
from convonet_ros.mapping.occupancy import (
    PREDICTED_OCCUPIED,
    UNKNOWN,
)
from convonet_ros.mapping.volume import CropIndex
from convonet_ros.sensors import Scan
from tests.worlds import drive_scans, keep, sphere_scans, wall

SMALL = with_values(Config(), {"map.window_z_crops": 2})


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


def test_a_window_too_large_for_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise RuntimeError("can't allocate memory")

    monkeypatch.setattr("convonet_ros.mapping.mapper.Field", full)
    with pytest.raises(ValueError, match="a window of 5 x 5 x 2 crops does not fit into the mem"):
        Mapper(SMALL)


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


@pytest.mark.parametrize(
    ("threshold", "of_surface", "of_whole"),
    [
        # The surface errs outwards, as one that a robot should not touch.
        (Config().model.threshold, 0.05, 0.05),
        # It lies in the middle of what is possible, and deep inside, where nothing was measured,
        # the network is not sure, and holes are.
        (0.5, 0.03, 0.06),
    ],
)
def test_sphere_is_watertight_with_the_right_volume(
    threshold: float, of_surface: float, of_whole: float
) -> None:
    centre, radius = np.array([0.13, -0.07, 1.62]), 0.5  # across the borders of eight crops
    mapper = Mapper(with_values(SMALL, {"map.window_z_crops": 3, "model.threshold": threshold}))
    for scan in sphere_scans(centre, radius):
        mapper.integrate(scan)
    meshes: dict[CropIndex, Mesh] = {}
    keep(meshes, mapper.update(math.inf))
    assert len(meshes) >= 8
    whole = merged(meshes)
    assert whole.is_watertight
    true = 4 / 3 * math.pi * radius**3
    outside = max(whole.split(), key=lambda body: body.area)
    assert outside.volume == pytest.approx(true, rel=of_surface)
    assert whole.volume == pytest.approx(true, rel=of_whole)


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
