"""Closed meshes as solids: what they hold, where they stand, and which there are."""

from __future__ import annotations

import numpy as np
import pytest

from convonet_ros.datasets.world.meshes import MeshSolid, catalogue, drawn, model, solid
from convonet_ros.datasets.world.moulds import FAMILIES
from convonet_ros.datasets.world.primitives import rotation_z
from convonet_ros.datasets.world.solids import extent, sample_surface

NAMES = [f"mould/{family}/00" for family in FAMILIES]
NAMES += [name for name in catalogue() if name.startswith("pybullet")][::100]


@pytest.mark.parametrize("name", NAMES)
def test_a_mesh_is_solid_behind_its_surface_and_empty_before_it(name: str) -> None:
    found = model(name)
    if found is None:
        pytest.skip("not closed, never drawn")
    rng = np.random.default_rng(0)
    body = solid(name, 0.5, found.rests[-1])
    vertices, triangles = body.mesh()
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    volume = np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6
    assert volume > 0  # it faces out
    assert vertices[:, 2].min() == pytest.approx(0.0, abs=1e-6)
    assert np.ptp(vertices @ body.rotation, axis=0).max() == pytest.approx(0.5, rel=1e-5)
    low, high = vertices.min(axis=0), vertices.max(axis=0)
    points = rng.uniform(low, high, (20_000, 3))
    held = body.contains(points)
    share = volume / (high - low).prod()
    assert held.mean() == pytest.approx(share, abs=4 * np.sqrt(share / len(points)) + 2e-3)
    surface, normals = sample_surface([body], 500, rng)
    assert body.contains(surface - 2e-4 * normals).mean() > 0.98
    assert body.contains(surface + 2e-4 * normals).mean() < 0.02
    assert np.all(body.distance(surface + 0.05 * normals) <= 0.05 + 1e-6)
    np.testing.assert_array_equal(body.distance(points[held]), 0.0)
    assert np.all(extent(body) <= body.half_extent + 1e-6)


def test_a_mesh_moves_like_a_primitive() -> None:
    body = solid("mould/mug/00", 0.3, np.eye(3))
    shift = np.array([1.0, 2.0, 0.5])
    moved = body.moved(rotation_z(0.7), shift, "mug")
    assert isinstance(moved, MeshSolid)
    assert moved.name == "mug"
    points = np.random.default_rng(0).uniform(-0.2, 0.4, (3000, 3))
    same = body.contains(points) == moved.contains(points @ rotation_z(0.7).T + shift)
    assert same.mean() > 0.999  # but for rounding at the surface


def test_the_catalogue_has_our_moulds_and_draws_closed_meshes() -> None:
    names = catalogue()
    assert len(set(names)) == len(names)
    assert sum(name.startswith("mould/") for name in names) == 16 * len(FAMILIES)
    rng, again = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(20):
        name, found = drawn(rng)
        assert name in names
        assert found.half.max() == pytest.approx(0.5)
        assert drawn(again)[0] == name
    with pytest.raises(ValueError, match=r"closed mesh|catalogue"):
        solid("pybullet/plane.obj", 1.0, np.eye(3))
