"""Simulated sensors: exact where noise is off, and noise of the size that their formulas state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convonet_ros.datasets.sensing.devices import draw_sensor, sensor_views
from convonet_ros.datasets.sensing.lidar import Lidar
from convonet_ros.datasets.sensing.noise import Patches
from convonet_ros.datasets.sensing.poses import level, look_along
from convonet_ros.datasets.sensing.rays import RayScene
from convonet_ros.datasets.sensing.stereo import Stereo
from convonet_ros.datasets.sensing.structured_light import StructuredLight
from convonet_ros.datasets.world.rooms import Room, make_room
from convonet_ros.sensors import Intrinsics

PATCHES = Patches.draw(np.random.default_rng(0))
STEREO = Stereo(
    Intrinsics(width=160, height=120, fx=120.0, fy=120.0, cx=79.5, cy=59.5),
    baseline_m=0.06,
    scale=4.0,
    sigma_px=0.1,
    step_px=1 / 16,
    block_px=5,
    smoothing_px=1,
    near_m=0.3,
    far_m=6.0,
    flying=0.0,
    filled=0.0,
    texture=PATCHES,
    weak=-9.0,
    lost=-10.0,
)
METRES_PX = 120.0 * 4.0 * 0.06  # depth times disparity
LIDAR = Lidar(
    rings=32,
    columns=180,
    elevation_deg=(-30.0, 20.0),
    azimuth_deg=360.0,
    sigma_m=0.0,
    bias_m=np.zeros(32, dtype=np.float32),
    near_m=0.2,
    far_m=30.0,
    dropped=0.0,
    flying=0.0,
    patches=PATCHES,
    dark=np.inf,
)
TEXTURED = np.zeros((120, 160), dtype=np.float32)


def middle_of(room: Room) -> np.ndarray:
    """(4, 4) level pose in the middle of a room, 1.1 m above its floor."""
    eye = room.to_map(np.array([[0.1, -0.2, 1.1]]))[0]
    return level(look_along(eye, 0.4, 0.0))


def test_every_sensor_repeats_itself_and_keeps_its_limits() -> None:
    room = make_room(2)
    scene = RayScene(room)
    kinds = set()
    for seed in range(14):
        runs = []
        for _ in range(2):
            rng = np.random.default_rng(seed)
            device = draw_sensor(rng)
            poses = sensor_views(device, room, rng, 2)
            runs.append([device.measure(scene, T, rng, 9000) for T in poses])
        kinds.add(type(device))
        for one, two in zip(*runs, strict=True):
            np.testing.assert_array_equal(one, two)
            assert one.dtype == np.float32
            assert one.shape[1] == 3
            assert len(one) <= 9000
            assert np.isfinite(one).all()
        assert max(map(len, runs[0])) > 500
        if device.mount == "level":
            for T in poses:
                assert T[2, 2] == 1.0
                assert 0.3 <= T[2, 3] - room.T_map_room[2, 3] <= 1.2
    assert kinds == {StructuredLight, Stereo, Lidar}


def test_structured_light_has_dark_patches_at_the_same_places() -> None:
    room = make_room(2)
    scene, T = RayScene(room), look_along(middle_of(room)[:3, 3], 0.4, -0.2)
    device = replace(StructuredLight.draw(np.random.default_rng(0)), dark=0.5, flying=0.0)
    one, two = (device.depth(scene, T, np.random.default_rng(s)) > 0 for s in (1, 2))
    assert 0.1 < one.mean() < 0.85
    assert np.mean(one == two) > 0.9


def test_error_of_stereo_follows_the_formula() -> None:
    rng = np.random.default_rng(0)
    for z in (1.0, 2.0, 3.5):
        wall = np.full((120, 160), z, dtype=np.float32)
        images = np.stack([STEREO.matched(wall, TEXTURED, rng) for _ in range(20)])
        outside = int(np.ceil(METRES_PX / z / STEREO.scale))
        assert not images[:, :, : outside - 1].any()  # not in the other image
        error = images[images > 0] - z
        sigma_px = np.hypot(STEREO.sigma_px, STEREO.step_px / np.sqrt(12))
        expected = z * z * sigma_px / METRES_PX
        assert abs(error.mean()) < 0.15 * expected
        assert error.std() == pytest.approx(expected, rel=0.12)
        assert (images[:, :, outside:] > 0).mean() > 0.97
        pairs = images[:, :, 40:-1], images[:, :, 41:]
        both = (pairs[0] > 0) & (pairs[1] > 0)
        assert np.corrcoef(pairs[0][both], pairs[1][both])[0, 1] > 0.3  # blocks err together


def test_stereo_measures_in_steps_of_disparity() -> None:
    slope = np.tile(np.linspace(1.0, 3.0, 160, dtype=np.float32), (120, 1))
    depth = replace(STEREO, sigma_px=0.0).matched(slope, TEXTURED, np.random.default_rng(0))
    steps = np.diff(np.unique(np.round(METRES_PX / depth[depth > 0], 3)))
    steps /= STEREO.step_px
    assert len(steps) > 100
    np.testing.assert_allclose(steps, np.round(steps), atol=0.05)


def test_stereo_loses_the_shadow_and_fattens_the_foreground() -> None:
    near, far = 1.0, 3.0
    scene = np.full((120, 160), far, dtype=np.float32)
    scene[:, 70:110] = near
    shadow = round(METRES_PX * (1 / near - 1 / far) / STEREO.scale)  # pixels
    device = replace(STEREO, block_px=9)
    images = np.stack(
        [device.matched(scene, TEXTURED, np.random.default_rng(s)) for s in range(20)]
    )
    assert (images[:, :, 71 - shadow : 69] > 0).mean() < 0.01
    assert (images[:, :, 20 : 66 - shadow] > 0).mean() > 0.95
    right = images[:, :, 110:113]
    assert (np.abs(right - near) < 0.1).mean() > 0.1  # the foreground grew
    beyond = images[:, :, 124:]
    assert (np.abs(beyond - far) < 0.5)[beyond > 0].all()


def test_stereo_needs_texture() -> None:
    device = replace(STEREO, weak=-1.0, lost=-2.0)
    wall = np.full((120, 160), 2.0, dtype=np.float32)
    rng = np.random.default_rng(0)

    def seen(texture: float) -> np.ndarray:
        depth = device.matched(wall, np.full_like(wall, texture), rng)
        return depth[depth > 0]

    assert len(seen(-4.0)) == 0
    assert seen(-1.5).std() > 1.5 * seen(0.0).std()


def test_rays_of_a_lidar_without_noise_end_on_the_walls() -> None:
    room = make_room(5, furnished=False)
    T = middle_of(room)
    points = LIDAR.measure(RayScene(room), T, np.random.default_rng(0))
    assert len(points) > 0.95 * 32 * 180
    points_room = room.to_room(points @ T[:3, :3].T + T[:3, 3])
    beyond = np.abs(points_room - [0, 0, room.size[2] / 2]) - room.size / 2
    np.testing.assert_allclose(beyond.max(axis=1), 0.0, atol=1e-4)
    elevation = np.degrees(np.arcsin(points[:, 2] / np.linalg.norm(points, axis=1)))
    assert elevation.min() == pytest.approx(-30.0, abs=0.01)
    assert elevation.max() == pytest.approx(20.0, abs=0.01)


def test_noise_of_a_lidar_does_not_depend_on_range() -> None:
    room = make_room(5, furnished=False)
    T = middle_of(room)
    scene = RayScene(room)
    noisy = replace(LIDAR, sigma_m=0.02)
    exact, _ = LIDAR.ranges(scene, T, np.random.default_rng(0))
    ranges, _ = noisy.ranges(scene, T, np.random.default_rng(0))
    both = (exact > 0) & (ranges > 0)
    middle = np.median(exact[both])
    for part in (both & (exact < middle), both & (exact > middle)):
        assert (ranges - exact)[part].std() == pytest.approx(0.02, rel=0.06)


def test_a_lidar_loses_grazing_and_chance_rays_and_some_beams_fly() -> None:
    room = make_room(5)
    T = middle_of(room)
    scene = RayScene(room)
    exact, _ = LIDAR.ranges(scene, T, np.random.default_rng(0))
    fewer, _ = replace(LIDAR, dropped=0.3).ranges(scene, T, np.random.default_rng(0))
    assert (fewer > 0).sum() / (exact > 0).sum() == pytest.approx(0.7, abs=0.03)
    flown, _ = replace(LIDAR, flying=1.0).ranges(scene, T, np.random.default_rng(0))
    changed = (flown != exact) & (exact > 0)
    assert 0.005 < changed.mean() < 0.3
    other = np.roll(exact, 1, axis=1)
    low, high = np.minimum(exact, other), np.maximum(exact, other)
    known = changed & (other > 0)
    assert np.all((flown >= low - 1e-5)[known] & (flown <= high + 1e-5)[known])
    tilted = level(look_along(T[:3, 3], 0.0, 0.0))
    tilted[2, 3] = room.T_map_room[2, 3] + 0.05  # just above the floor: rays graze it
    grazing = replace(LIDAR, elevation_deg=(-4.0, -1.0)).measure(
        scene, tilted, np.random.default_rng(0)
    )
    assert len(grazing) < 0.8 * 32 * 180
