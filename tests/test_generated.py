"""Shapes and rooms from seeds: exact, closed, and the same each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convonet_ros.datasets.generated import ShapeKind, shape_mesh, shape_solids, write_shapes
from convonet_ros.datasets.world.furniture import box, cylinder, ellipsoid
from convonet_ros.datasets.world.solids import occupied, sample_surface

BOTH: tuple[ShapeKind, ...] = ("objects", "rooms")


@pytest.mark.parametrize("kind", BOTH)
def test_shapes_fill_the_unit_cube(kind: ShapeKind) -> None:
    for seed in range(12 if kind == "objects" else 3):
        vertices, triangles = shape_mesh(kind, seed)
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        assert triangles.max() == len(vertices) - 1
        # A round solid's mesh lies up to 0.0006 within it.
        assert (high - low).max() == pytest.approx(1.0, abs=2e-3)
        assert (np.abs(vertices) <= 0.5 + 1e-9).all()
        if kind == "objects":
            np.testing.assert_allclose(low + high, 0.0, atol=2e-3)
        else:
            np.testing.assert_allclose([*(low + high)[[0, 2]], low[1] + 0.5], 0.0, atol=1e-9)


@pytest.mark.parametrize(("kind", "seed"), [*(("objects", s) for s in range(10)), ("rooms", 1)])
def test_normals_point_from_the_inside_to_the_outside(kind: ShapeKind, seed: int) -> None:
    solids = shape_solids(kind, seed)
    points, normals = sample_surface(solids, 5000, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0)
    assert occupied(solids, points - 2e-6 * normals).all()
    assert not occupied(solids, points + 1e-6 * normals).any()
    assert occupied(solids, points - 1e-4 * normals).mean() > 0.995
    assert occupied(solids, points + 1e-4 * normals).mean() < 0.02


@pytest.mark.parametrize(("kind", "seed"), [*(("objects", s) for s in range(6)), ("rooms", 0)])
def test_surface_points_cover_a_closed_surface(kind: ShapeKind, seed: int) -> None:
    """Divergence theorem: x n_x, y n_y and z n_z have the same mean, the normals the mean 0."""
    solids = shape_solids(kind, seed)
    points, normals = sample_surface(solids, 200_000, np.random.default_rng(1))
    flux = (points * normals).mean(axis=0)
    np.testing.assert_allclose(flux, flux.mean(), rtol=0.05, atol=0.002)
    np.testing.assert_allclose(normals.mean(axis=0), 0.0, atol=0.01)


def test_surface_points_are_uniform_by_area() -> None:
    """The flux of (x, y, z) through a surface is three times the volume it encloses."""
    step = [box((-0.5, -0.2, -0.2), (0.1, 0.2, 0.2)), box((-0.1, -0.2, -0.1), (0.5, 0.2, 0.1))]
    egg = [ellipsoid((0, 0, 0), (0.5, 0.2, 0.1), 0.7)]
    p = 1.6075  # Thomsen's approximation of an ellipsoid's area
    pairs = [(0.5 * 0.2) ** p, (0.5 * 0.1) ** p, (0.2 * 0.1) ** p]
    egg_area = 4 * np.pi * (sum(pairs) / 3) ** (1 / p)
    pole = [cylinder(0, 0, -0.5, 0.5, 0.1)]
    for solids, volume, area in (
        (step, 0.128, 1.76),  # two faces coincide, others end inside of the other box
        (egg, 4 / 3 * np.pi * 0.01, egg_area),
        (pole, 0.01 * np.pi, 0.22 * np.pi),
    ):
        points, normals = sample_surface(solids, 100_000, np.random.default_rng(2))
        flux = np.einsum("ij,ij->i", points, normals).mean()
        assert flux == pytest.approx(3 * volume / area, rel=0.015)
    points, _ = sample_surface(step, 100_000, np.random.default_rng(2))
    side = np.abs(points[:, 1]) > 0.2 - 1e-9
    assert side.mean() == pytest.approx(0.64 / 1.76, rel=0.02)
    both = side & (np.abs(points[:, 0]) < 0.1) & (np.abs(points[:, 2]) < 0.1)
    assert both.mean() == pytest.approx(0.08 / 1.76, rel=0.05)


def test_rooms_stand_free_on_a_floor() -> None:
    solids = shape_solids("rooms", 0)
    low = -np.array([0.5, 0.5, 0.5])
    beyond = np.random.default_rng(0).uniform(-0.55, 0.55, (20_000, 3))
    beyond = beyond[(np.abs(beyond) > 0.5).any(axis=1)]
    assert not occupied(solids, beyond).any()
    floor = np.stack([np.linspace(-0.4, 0.4, 50), np.full(50, low[1] + 0.01), np.zeros(50)], axis=1)
    assert occupied(solids, floor).all()
    assert not any(solid.name.startswith("ceiling_lamp") for solid in solids)


def test_same_seed_same_files_and_lists_grow_in_order(shapes_folder: Path, tmp_path: Path) -> None:
    written = list(write_shapes(tmp_path, "objects", range(2, 3), "train", workers=1))
    assert [path.name for path in written] == ["000002"]
    for name in ("pointcloud.npz", "points.npz", "model.binvox"):
        one, two = written[0] / name, shapes_folder / "objects" / "000002" / name
        if name.endswith("npz"):
            with np.load(one) as a, np.load(two) as b:
                assert a.files == b.files
                for key in a.files:
                    np.testing.assert_array_equal(a[key], b[key])
        else:
            assert one.read_bytes() == two.read_bytes()
    time = (written[0] / "points.npz").stat().st_mtime_ns
    written = list(write_shapes(tmp_path, "objects", range(1, 3), "train", workers=1))
    assert sorted(path.name for path in written) == ["000001", "000002"]
    assert (tmp_path / "objects" / "train.lst").read_text() == "000002\n000001\n"
    assert (tmp_path / "objects" / "000002" / "points.npz").stat().st_mtime_ns == time
    assert not list(tmp_path.rglob("*.partial"))


def test_stored_queries_have_their_exact_occupancy(shapes_folder: Path) -> None:
    with np.load(shapes_folder / "rooms" / "000000" / "points_iou" / "points_iou_01.npz") as arrays:
        points, packed = arrays["points"], arrays["occupancies"]
    assert points.dtype == np.float16
    inside = np.zeros(len(points), bool)
    for solid in shape_solids("rooms", 0):
        inside |= solid.contains(points.astype(np.float64))
    np.testing.assert_array_equal(np.unpackbits(packed, count=len(points)).astype(bool), inside)


@pytest.mark.parametrize(
    ("kind", "split", "workers"), [("cars", "train", 1), ("objects", "../x", 1), ("rooms", "x", 0)]
)
def test_wrong_requests_are_refused(tmp_path: Path, kind: Any, split: str, workers: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        next(write_shapes(tmp_path, kind, range(1), split, workers))
