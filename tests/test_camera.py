"""The simulated depth camera: exact depth, and noise like a sensor's."""

from __future__ import annotations

import numpy as np
import pytest

from convonet_ros.datasets.sensing.camera import DepthCamera
from convonet_ros.datasets.sensing.noise import Patches, add_noise, flying_pixels, smooth_noise
from convonet_ros.datasets.sensing.poses import look_at
from convonet_ros.datasets.sensing.views import sample_views
from convonet_ros.datasets.world.rooms import make_room
from convonet_ros.sensors import Intrinsics

INTRINSICS = Intrinsics(width=120, height=90, fx=110.0, fy=110.0, cx=59.5, cy=44.5)


def surface_points(depth_m: np.ndarray, T_map_camera: np.ndarray, further_m: float) -> np.ndarray:
    """Pixels with depth to points (N, 3) in the map frame, `further_m` along the ray from it."""
    k = INTRINSICS
    row, col = np.nonzero(depth_m)
    ray = np.stack([(col - k.cx) / k.fx, (row - k.cy) / k.fy, np.ones(len(row))], axis=1)
    length = np.linalg.norm(ray, axis=1, keepdims=True)
    points = ray * (depth_m[row, col][:, None] + further_m / length)
    return points @ T_map_camera[:3, :3].T + T_map_camera[:3, 3]


def test_mesh_and_occupancy_agree_along_rays() -> None:
    """Just before the hit it is free; just behind it is solid (but at the rims of things)."""
    free, solid, behind_1cm = [], [], []
    for seed in range(8):
        room = make_room(seed)
        camera = DepthCamera(room, INTRINSICS)
        for T_map_camera in sample_views(room, np.random.default_rng(seed), 5):
            depth = camera.render(T_map_camera)
            assert (depth > 0).all()  # a room is closed
            free.append(~room.occupied(surface_points(depth, T_map_camera, -0.003)))
            solid.append(room.occupied(surface_points(depth, T_map_camera, 0.003)))
            behind_1cm.append(room.occupied(surface_points(depth, T_map_camera, 0.01)))
    assert np.mean(free) >= 0.999
    assert np.mean(solid) >= 0.995
    assert np.mean(behind_1cm) >= 0.985  # rays that cut a rim are out again after a centimetre


def test_a_wall_seen_straight_on_has_its_distance_everywhere() -> None:
    room = make_room(1, furnished=False)
    R, middle = room.T_map_room[:3, :3], room.to_map(np.array([[0.0, 0.0, 1.2]]))[0]
    depth = DepthCamera(room, INTRINSICS).render(look_at(middle, middle + R[:, 0]))
    centre = depth[40:50, 50:70]
    np.testing.assert_allclose(centre, room.size[0] / 2, atol=1e-4)


def test_noise_grows_with_the_square_of_depth() -> None:
    rng = np.random.default_rng(0)
    for z in (0.8, 1.5, 2.5, 3.4):
        images = np.stack(
            [
                add_noise(np.full((90, 120), z, dtype=np.float32), INTRINSICS, rng, 5.0)
                for _ in range(40)
            ]
        )
        error = images[images > 0] - z
        step = 0.0028 * z * z
        expected = np.hypot(0.0012 + 0.0019 * (z - 0.4) ** 2, step / np.sqrt(12))
        assert abs(error.mean()) < 0.1 * expected
        assert error.std() == pytest.approx(expected, rel=0.15)
        assert (images > 0).mean() > 0.9


def test_noise_is_deterministic_and_keeps_the_range() -> None:
    depth = np.tile(np.linspace(0.1, 6.0, 120, dtype=np.float32), (90, 1))
    one = add_noise(depth, INTRINSICS, np.random.default_rng(3))
    two = add_noise(depth, INTRINSICS, np.random.default_rng(3))
    np.testing.assert_array_equal(one, two)
    assert one.dtype == np.float32
    valid = one[one > 0]
    assert valid.min() > 0.33
    assert valid.max() < 5.2
    limited = add_noise(depth, INTRINSICS, np.random.default_rng(3), max_range_m=2.0)
    assert limited.max() < 2.05
    nothing = add_noise(np.zeros_like(depth), INTRINSICS, np.random.default_rng(3))
    assert not nothing.any()


def test_holes_at_edges_and_at_grazing_incidence() -> None:
    step = np.full((90, 120), 2.0, dtype=np.float32)
    step[:, 60:] = 1.0
    valid = np.mean(
        [add_noise(step, INTRINSICS, np.random.default_rng(s), 4.5) > 0 for s in range(20)], axis=0
    )
    assert valid[:, 57:60].mean() < 0.6
    assert valid[:, :50].mean() > 0.9
    # A floor 0.1 m below the camera: at 2 m it is seen at 87 degrees from its normal.
    row = np.arange(90)[:, None] - INTRINSICS.cy
    floor = np.where(row > 4, 0.1 * INTRINSICS.fy / np.maximum(row, 1e-3), 0.0)
    floor = np.tile(floor, (1, 120)).astype(np.float32)
    grazing = (floor > 1.5) & (floor < 2.2)
    noisy = add_noise(floor, INTRINSICS, np.random.default_rng(0), 4.5)
    assert (noisy[grazing] > 0).mean() < 0.2


def test_smooth_noise_has_variance_one_and_is_smooth() -> None:
    rng = np.random.default_rng(0)
    noise = np.stack([smooth_noise(rng, (90, 120), 8) for _ in range(100)])
    np.testing.assert_allclose(noise.std(axis=0), 1.0, atol=0.35)
    assert noise.std() == pytest.approx(1.0, rel=0.05)
    assert np.mean(noise[:, :, 1:] * noise[:, :, :-1]) > 0.9
    assert abs(np.mean(noise[:, :, 32:] * noise[:, :, :-32])) < 0.1


def test_flying_pixels_lie_between_near_and_far() -> None:
    step = np.full((90, 120), 3.0, dtype=np.float32)
    step[:, 60:] = 1.0
    step[:20] = 0.0
    rng = np.random.default_rng(0)
    flown = flying_pixels(step, 0.5, rng)
    changed = flown != step
    assert not changed[:, :58].any()
    assert not changed[:, 62:].any()
    assert not changed[:20].any()  # nothing flies beside what returns nothing
    assert changed[22:, 59:61].mean() == pytest.approx(0.5, abs=0.1)
    values = flown[changed]
    assert np.all((values > 1.0) & (values < 3.0))
    assert values.std() > 0.4
    np.testing.assert_array_equal(flying_pixels(step, 0.0, rng), step)


def test_patches_belong_to_places_and_have_variance_one() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-20, 20, (20_000, 3)).astype(np.float32)
    for _ in range(5):
        patches = Patches.draw(rng)
        value = patches.at(points)
        assert value.mean() == pytest.approx(0.0, abs=0.05)
        assert value.std() == pytest.approx(1.0, rel=0.05)
        shift = np.array([0.01, 0.0, 0.0], dtype=np.float32)
        assert np.abs(patches.at(points + shift) - value).max() < 1.3
        np.testing.assert_array_equal(patches.at(points[:7]), value[:7])
