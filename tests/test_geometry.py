"""Transforms, and the pose that is the same by whatever way it came."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from convonet_ros.geometry import (
    canonical_pose,
    interpolate_pose,
    inverse,
    point_to_index,
    pose_from,
    quaternion_of,
    transform,
)


def random_pose(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    T = np.eye(4)
    T[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    T[:3, 3] = rng.uniform(-50, 50, 3)
    return T


def test_a_pose_is_bit_equal_from_matrix_and_quaternion() -> None:
    for seed in range(200):
        T = random_pose(seed)
        over_tf = pose_from(T[:3, 3], quaternion_of(T))
        assert np.array_equal(canonical_pose(T), canonical_pose(over_tf))
        assert np.abs(canonical_pose(T) - T).max() < 1e-8


@pytest.mark.parametrize(
    "T",
    [np.eye(3), np.full((4, 4), np.nan), np.diag([1, 1, -1, 1]), np.diag([1.1, 1, 1, 1])],
)
def test_what_is_no_pose_is_refused(T: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"^T_a_b: expected"):
        canonical_pose(T, "T_a_b")


def test_inverse_and_transform() -> None:
    T = random_pose(1)
    points = np.random.default_rng(0).normal(size=(10, 3))
    assert np.allclose(transform(inverse(T), transform(T, points)), points)


def test_interpolation_hits_both_ends_and_turns_evenly() -> None:
    T_0, T_1 = random_pose(1), random_pose(2)
    assert np.allclose(interpolate_pose(T_0, T_1, 0.0), T_0)
    assert np.allclose(interpolate_pose(T_0, T_1, 1.0), T_1)
    middle = interpolate_pose(T_0, T_1, 0.5)
    angles = [
        Rotation.from_matrix(a[:3, :3].T @ b[:3, :3]).magnitude()
        for a, b in ((T_0, middle), (middle, T_1))
    ]
    assert angles[0] == pytest.approx(angles[1])
    assert np.allclose(middle[:3, 3], (T_0[:3, 3] + T_1[:3, 3]) / 2)


def test_cells_hold_their_points() -> None:
    points = np.random.default_rng(0).uniform(-5, 5, (1000, 3))
    corner = point_to_index(points, 0.05) * 0.05
    assert (points >= corner - 1e-9).all()
    assert (points < corner + 0.05 + 1e-9).all()
