"""Unions of empty boxes: inside test, boundary, clearance, and what is left of a solid box."""

from __future__ import annotations

import numpy as np
import pytest

from convonet_ros.datasets.world.hollows import Hollows, remainder


def random_hollows(seed: int, count: int = 7) -> Hollows:
    """Boxes that overlap, touch and share coordinates, on a lattice of 0.25 m."""
    rng = np.random.default_rng(seed)
    low = rng.integers(-8, 6, (count, 3))
    return Hollows(np.stack([low, low + rng.integers(1, 7, (count, 3))], axis=1) * 0.25)


def inside_by_hand(hollows: Hollows, points: np.ndarray) -> np.ndarray:
    within = (points[:, None] >= hollows.boxes[:, 0]) & (points[:, None] <= hollows.boxes[:, 1])
    return within.all(axis=2).any(axis=1)


@pytest.mark.parametrize("seed", range(8))
def test_the_boundary_has_free_space_before_it_and_solid_behind(seed: int) -> None:
    hollows = random_hollows(seed)
    rng = np.random.default_rng(seed)
    vertices, triangles = hollows.mesh()
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1)
    face = rng.choice(len(area), 4000, p=area / area.sum())
    weights = rng.dirichlet([1, 1, 1], len(face))
    points = np.einsum("nk,nkj->nj", weights, np.stack([a, b, c], axis=1)[face])
    normals = (cross / area[:, None])[face]
    assert inside_by_hand(hollows, points + 1e-4 * normals).all()
    assert not inside_by_hand(hollows, points - 1e-4 * normals).any()
    # Closed: the volume that the boundary encloses is that of the cells of the lattice.
    volume = -np.einsum("ij,ij->i", a, cross).sum() / 6  # it faces the empty space
    axis = np.arange(-16, 32) * 0.125 + 0.0625
    cells = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    assert volume == pytest.approx(inside_by_hand(hollows, cells).sum() * 0.125**3)


def test_inside_equals_the_plain_test_bit_for_bit() -> None:
    for seed in range(5):
        hollows = random_hollows(seed)
        rng = np.random.default_rng(seed)
        points = np.concatenate(
            [rng.uniform(-2.5, 4.0, (5000, 3)), rng.integers(-10, 16, (500, 3)) * 0.25]
        )
        np.testing.assert_array_equal(hollows.inside(points), inside_by_hand(hollows, points))


@pytest.mark.parametrize("seed", range(4))
def test_clearance_is_that_of_a_ball(seed: int) -> None:
    hollows = random_hollows(seed)
    rng = np.random.default_rng(seed)
    points = rng.uniform(-2.0, 3.0, (3000, 3))
    points = points[hollows.inside(points)]
    clear = hollows.clear(points, 0.2)
    ball = rng.normal(size=(400, 3))
    ball *= 0.2 / np.linalg.norm(ball, axis=1, keepdims=True)
    around = (points[:, None] + ball).reshape(-1, 3)
    free = inside_by_hand(hollows, around).reshape(len(points), -1).all(axis=1)
    assert not (clear & ~free).any()
    assert (clear == free).mean() > 0.99  # 400 directions miss a corner now and then
    assert 0.02 < clear.mean() < 0.98


@pytest.mark.parametrize("seed", range(4))
def test_the_remainder_and_the_hollows_fill_a_box_once(seed: int) -> None:
    hollows = random_hollows(seed, 5)
    low, high = np.array([-2.0, -1.5, -1.0]), np.array([2.0, 1.5, 1.0])
    boxes = np.array(list(remainder(low, high, hollows)))
    points = np.random.default_rng(seed).uniform(low, high, (5000, 3))
    within = (points[:, None] > boxes[:, 0]) & (points[:, None] < boxes[:, 1])
    count = within.all(axis=2).sum(axis=1) + inside_by_hand(hollows, points)
    np.testing.assert_array_equal(count, 1)


def test_bad_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"boxes.*\(H, 2, 3\).*\(3, 3\)"):
        Hollows(np.zeros((3, 3)))
