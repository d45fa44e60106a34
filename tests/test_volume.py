"""The rolling volume against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from convonet_ros.config import MapConfig, ScanConfig
from convonet_ros.geometry import Lattice
from convonet_ros.mapping.scheduler import Scheduler
from convonet_ros.mapping.volume import Volume

LATTICE = Lattice(voxel_m=0.05, crop_voxels=8, halo_voxels=4)


def make_volume(scan: ScanConfig | None = None) -> Volume:
    config = MapConfig(window_xy_crops=3, window_z_crops=2)
    volume = Volume(LATTICE, config, scan or ScanConfig(min_range_m=0.0), torch.device("cpu"))
    volume.follow(np.zeros(3))
    return volume


@pytest.mark.parametrize("sensor", [[28.3, 26.1, 25.7], [-20.0, 5.0, 9.0], [32.0, 31.999998, 24.0]])
def test_rays_mark_exactly_the_cells_they_cross(sensor: list[float]) -> None:
    volume = make_volume()
    torch.manual_seed(0)
    rays = torch.randn(2000, 3) * 30
    rays[:2] = torch.tensor([[40.0, 0, 0], [25.0, 25, 25]])
    start = torch.tensor(sensor)
    volume._traverse(start, rays)
    x, y, z = (torch.arange(int(n)) for n in volume.shape)
    crossed = volume._crossed[volume._places(x[:, None, None], y[:, None], z)]  # in local order
    along = start + rays[:, None] * torch.linspace(0, 1, 3001)[1:-1, None]
    along = along.view(-1, 3)
    shape = torch.from_numpy(volume.shape)
    inside = along[((along >= 0) & (along < shape)).all(dim=1)].long()
    sampled = torch.zeros_like(crossed)
    sampled[tuple(inside.T)] = True
    assert (sampled & ~crossed).sum() <= 1e-3 * sampled.sum()  # corners within rounding
    # What only the traversal marks, the samples step over: corners cut by a hair.
    assert (crossed & ~sampled).sum() <= 0.02 * sampled.sum()


def test_rays_along_planes_between_cells_stay_on_their_way() -> None:
    volume = make_volume()
    draw = torch.Generator().manual_seed(0)
    x, y, z = (torch.arange(int(n)) for n in volume.shape)
    places = volume._places(x[:, None, None], y[:, None], z)
    for _ in range(100):
        tiny = 10.0 ** -torch.randint(0, 9, (201, 3), generator=draw).float()
        sensor = torch.randint(0, 48, (3,), generator=draw) + tiny[0] * torch.randn(
            3, generator=draw
        )
        rays = 40 * tiny[1:] * torch.randn(200, 3, generator=draw)
        volume._traverse(sensor, rays)
        crossed = volume._crossed[places].nonzero()
        volume._crossed.zero_()
        ends = torch.cat([sensor[None], sensor + rays])
        assert (crossed >= ends.amin(dim=0) - 1.01).all()
        assert (crossed <= ends.amax(dim=0) + 0.01).all()


def test_every_point_has_a_ray_by_default() -> None:
    """Else cells between the rays keep for ever what left before a camera that stands still."""
    assert ScanConfig().max_rays >= ScanConfig().max_points


@pytest.mark.parametrize("halo", [2, 4, 8, 11])
def test_every_crop_whose_box_changed_is_marked(halo: int) -> None:
    """Also where the halo is wider than half a crop, as in upstream's crop networks."""
    lattice = Lattice(voxel_m=0.05, crop_voxels=8, halo_voxels=halo)
    config = MapConfig(window_xy_crops=3, window_z_crops=2)
    volume = Volume(lattice, config, ScanConfig(), torch.device("cpu"))
    volume.follow(np.zeros(3))
    draw = torch.Generator().manual_seed(halo)
    crops = np.array(volume.crops())
    for _ in range(100):
        cell = torch.tensor(
            [int(torch.randint(int(n), (1,), generator=draw)) for n in volume.shape]
        )
        scheduler = Scheduler(lattice)
        scheduler.mark(volume, cell[None], 1)
        low = np.array([volume._corner(crop) for crop in crops])
        side = lattice.SUB * lattice.box_voxels
        inside = ((cell.numpy() >= low) & (cell.numpy() < low + side)).all(axis=1)
        assert set(scheduler.crops) == {tuple(crop) for crop in crops[inside].tolist()}


def test_box_holds_the_mean_point_and_direction_of_each_sub_voxel() -> None:
    volume = make_volume(ScanConfig(min_range_m=0.0, max_rays=0))
    rng = np.random.default_rng(1)
    sensor = np.array([0.01, 0.02, 0.03])
    T = np.eye(4)
    T[:3, 3] = sensor
    points = rng.uniform(-0.2, 0.6, (500, 3)).astype(np.float32)
    volume.integrate(points, T)
    box = volume.box((0, 0, 0))
    corner = -LATTICE.halo_voxels * LATTICE.voxel_m
    points_map = points + sensor
    inside = ((points_map >= corner) & (points_map < corner + 16 * 0.05)).all(axis=1)
    keys = np.floor((points_map[inside] - corner) / LATTICE.sub_m).astype(int)
    expected: dict[tuple[int, ...], list[int]] = {}
    for i, key in zip(np.flatnonzero(inside), keys, strict=True):
        expected.setdefault(tuple(key), []).append(int(i))
    assert len(expected) == len(box.points)
    for point, direction in zip(box.points.numpy(), box.directions.numpy(), strict=True):
        members = expected[tuple(np.floor(point * 2).astype(int))]
        mean = (points_map[members].mean(axis=0) - corner) / LATTICE.voxel_m
        assert np.abs(point - mean).max() < 0.5 / 256 + 1e-3
        towards = -points[members] / np.linalg.norm(points[members], axis=1, keepdims=True)
        assert np.abs(direction - towards.mean(axis=0)).max() < 0.01


def test_moving_the_window_forgets_only_what_left() -> None:
    volume = make_volume()
    rng = np.random.default_rng(2)
    T = np.eye(4)
    points = rng.uniform(-0.5, 0.5, (800, 3)).astype(np.float32)
    volume.integrate(points, T)
    before = {crop: volume.box(crop) for crop in volume.crops()}
    left = volume.follow(np.array([1.6 * LATTICE.crop_m, 0.0, 0.0]))
    after = set(volume.crops())
    assert set(left) == set(before) - after
    assert len(left) == 6
    for crop in set(before) & after:
        old, new = before[crop], volume.box(crop)
        assert torch.equal(old.points, new.points)
        assert torch.equal(old.visibility, new.visibility)
    # Far away and back: everything is forgotten, nothing haunts the ring.
    volume.follow(np.array([100.0, -50.0, 20.0]))
    assert not volume.evidence.any()
    volume.follow(np.zeros(3))
    assert all(len(volume.box(crop).points) == 0 for crop in volume.crops())


def test_evidence_saturates_and_an_obstacle_that_left_is_carved_away() -> None:
    volume = make_volume()
    wall = np.stack(np.meshgrid([0.43], np.linspace(-0.2, 0.2, 60), np.linspace(-0.2, 0.2, 60)), -1)
    near, far = wall.reshape(-1, 3), wall.reshape(-1, 3) * 3
    T = np.eye(4)
    for _ in range(60):
        changed = volume.integrate(near.astype(np.float32), T)
    assert len(changed) == 0  # the map of a still world stands still
    hit = (volume.evidence > 0).sum()
    assert hit > 0
    for _ in range(MapConfig().max_evidence):
        volume.integrate(far.astype(np.float32), T)
    box = volume.box((0, -1, 0)), volume.box((0, 0, 0))
    assert all(len(b.points) == 0 for b in box)
    volume.integrate(near.astype(np.float32), T)
    assert len(volume.box((0, 0, 0)).points) > 0  # a new obstacle counts at once


def test_points_beyond_the_range_carve_but_make_no_obstacle() -> None:
    volume = make_volume(ScanConfig(min_range_m=0.1, max_range_m=0.4))
    volume.integrate(np.array([[5.0, 0.01, 0.01]], np.float32), np.eye(4))
    assert not (volume.evidence > 0).any()
    assert 15 <= int((volume.evidence < 0).sum()) <= 17


def test_points_in_the_sensor_and_absurdly_far_ones_do_no_harm() -> None:
    volume = make_volume()
    volume.integrate(np.array([[0, 0, 0], [3e38, 0, 0], [0.3, 0, 0]], np.float32), np.eye(4))
    assert (volume.evidence > 0).sum() == 1
    assert len(volume.integrate(np.empty((0, 3), np.float32), np.eye(4))) == 0
