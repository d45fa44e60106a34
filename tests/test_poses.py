"""Where simulated sensors look, and the errors of their poses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from convonet_ros.datasets.sensing.poses import PoseNoise, level, look_along, look_at
from convonet_ros.geometry import canonical_pose


def test_look_at_is_a_rotation_that_looks_there() -> None:
    rng = np.random.default_rng(0)
    for eye, target in [*rng.uniform(-2, 2, (50, 2, 3)), np.array([[0, 0, 1.0], [0, 0, 0]])]:
        roll = rng.normal(0, 0.3)
        T_map_camera = look_at(eye, target, roll)
        R = T_map_camera[:3, :3]
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(R) == pytest.approx(1.0)
        seen = R.T @ (target - eye)
        np.testing.assert_allclose(seen, [0, 0, np.linalg.norm(target - eye)], atol=1e-9)
    upright = look_along(np.zeros(3), yaw=0.5, pitch=-0.2)
    assert upright[2, 0] == pytest.approx(0.0)  # the image's rows are level
    assert upright[2, 1] < 0  # and its columns run down
    assert np.arcsin(upright[2, 2]) == pytest.approx(-0.2)
    with pytest.raises(ValueError, match="target_map"):
        look_at(np.ones(3), np.ones(3))


def test_level_keeps_place_and_heading() -> None:
    T_map_camera = look_along(np.array([1.0, 2.0, 0.7]), yaw=0.6, pitch=-0.4, roll=0.1)
    T_map_sensor = level(T_map_camera)
    np.testing.assert_allclose(T_map_sensor[:3, 3], [1.0, 2.0, 0.7])
    np.testing.assert_allclose(T_map_sensor[:3, 2], [0, 0, 1])
    np.testing.assert_allclose(T_map_sensor[:3, 0], [np.cos(0.6), np.sin(0.6), 0], atol=1e-12)
    canonical_pose(T_map_sensor)


def errors(noise: PoseNoise, n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) metres and (n, 3) radians by which the poses of one sequence are wrong."""
    true = [look_along(np.array([0.1 * i, 1.0, 1.2]), 0.1 * i, -0.3) for i in range(n)]
    reported = list(noise.applied(true, np.random.default_rng(seed)))
    again = list(noise.applied(true, np.random.default_rng(seed)))
    np.testing.assert_array_equal(reported, again)
    shift = np.array([b[:3, 3] - a[:3, 3] for a, b in zip(true, reported, strict=True)])
    turns = [a[:3, :3].T @ b[:3, :3] for a, b in zip(true, reported, strict=True)]
    return shift, Rotation.from_matrix(np.array(turns)).as_rotvec()


def test_pose_noise_has_its_size_and_its_bounds() -> None:
    shift, turn = errors(PoseNoise(0.005, np.radians(0.3), 0.5, 8.0), 4000)
    assert shift.std() == pytest.approx(0.005, rel=0.1)
    assert np.degrees(turn.std()) == pytest.approx(0.3, rel=0.1)
    shift, turn = errors(PoseNoise(0.1, np.radians(5.0), 0.5, 8.0), 200)
    assert np.linalg.norm(shift, axis=1).max() <= 0.03 + 1e-9
    assert np.degrees(np.linalg.norm(turn, axis=1)).max() <= 2.0 + 1e-6
    shift, turn = errors(PoseNoise(), 5)
    assert not shift.any()
    assert np.abs(turn).max() < 1e-9


def test_drift_changes_slowly_and_the_rest_does_not() -> None:
    slow, _ = errors(PoseNoise(0.005, 0.001, 1.0, 20.0), 2000)
    fast, _ = errors(PoseNoise(0.005, 0.001, 0.0, 20.0), 2000)
    assert np.corrcoef(slow[1:, 0], slow[:-1, 0])[0, 1] > 0.9
    assert abs(np.corrcoef(fast[1:, 0], fast[:-1, 0])[0, 1]) < 0.1


def test_a_third_of_the_sequences_has_exact_poses() -> None:
    rng = np.random.default_rng(0)
    drawn = [PoseNoise.draw(rng) for _ in range(600)]
    assert np.mean([noise == PoseNoise() for noise in drawn]) == pytest.approx(1 / 3, abs=0.06)
    noisy = [noise for noise in drawn if noise != PoseNoise()]
    assert all(0.001 <= noise.sigma_m <= 0.015 for noise in noisy)
    assert all(np.degrees(noise.sigma_rad) <= 1.0 for noise in noisy)
    assert np.median([noise.sigma_m for noise in noisy]) < 0.005
