"""Surfaces of a field: evaluated where they pass, closed, and the same as the authors' code's."""

from pathlib import Path

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from convonet_ros.mapping.meshing import closed_surface
from convonet_ros.offline.mise import Mise, evaluate

LEVEL = float(np.log(0.2) - np.log(0.8))


def sphere(radius: float, side: int) -> np.ndarray:
    """Logits of a ball in the middle of a lattice, 1 per step from its surface."""
    where = np.indices((side,) * 3) - (side - 1) / 2
    return radius - np.linalg.norm(where, axis=0)


def assert_same_mesh(
    vertices: np.ndarray, triangles: np.ndarray, wanted: np.ndarray, faces: np.ndarray
) -> None:
    """The same vertices, one to one, and the same triangles, whatever their order."""
    distance, place = cKDTree(wanted).query(vertices)
    assert len(vertices) == len(wanted)
    assert len(np.unique(place)) == len(wanted)
    assert distance.max() < 1e-12
    assert in_order(place[triangles]) == in_order(faces)


def in_order(triangles: np.ndarray) -> list[list[int]]:
    """The triangles, each beginning with its smallest vertex (its side stays), sorted."""
    turn = (np.argmin(triangles, axis=1)[:, None] + np.arange(3)) % 3
    return sorted(np.take_along_axis(triangles, turn, axis=1).tolist())


@pytest.mark.parametrize("name", ["t02", "t05"])
def test_octree_asks_what_upstream_asks(goldens: Path, name: str) -> None:
    recorded = np.load(goldens / "mise_sphere_torus.npz")
    dense, order = recorded[f"{name}/dense"], recorded[f"{name}/query_order"].astype(np.int64)
    octree = Mise(
        int(recorded["resolution0"]),
        int(recorded["upsampling_steps"]),
        float(recorded[f"{name}/threshold"]),
    )
    assert octree.resolution == len(dense) - 1
    rounds = []
    while len(points := octree.query()):
        wanted = order[sum(rounds) :][: len(points)]
        rounds.append(len(points))
        for one in (points, wanted):
            one[:] = one[np.lexsort(one.T)]
        np.testing.assert_array_equal(points, wanted)
        octree.update(points, dense[tuple(points.T)])
    assert rounds == recorded[f"{name}/rounds"].tolist()
    assert sum(rounds) == int(recorded[f"{name}/n_queried"])
    np.testing.assert_array_equal(octree.dense(), dense)


@pytest.mark.parametrize("name", ["t02", "t05"])
def test_field_becomes_the_recorded_mesh(goldens: Path, name: str) -> None:
    recorded = np.load(goldens / "mise_sphere_torus.npz")
    box = 1 + float(recorded["padding"])

    def occupancy(points: np.ndarray) -> np.ndarray:
        p = (box * (points / 128 - 0.5)).astype(np.float32).astype(np.float64)
        x, y, z = (p - (0.16, -0.12, -0.05)).T
        ball = 0.22 - np.linalg.norm(p - (-0.18, 0.05, 0.11), axis=1)
        torus = 0.08 - np.sqrt((np.hypot(x, z) - 0.25) ** 2 + y**2)
        return (20 * np.maximum(ball, torus)).astype(np.float32)

    level = float(recorded[f"{name}/threshold"])
    values = evaluate(occupancy, 16, 3, level)
    np.testing.assert_allclose(values, recorded[f"{name}/dense"], atol=1e-5)
    vertices, triangles = closed_surface(recorded[f"{name}/dense"], level)
    # The recorded raw ones still hold the padding, and upstream's own shift by half a step.
    assert_same_mesh(
        vertices, triangles, recorded[f"{name}/raw_vertices"] - 1.5, recorded[f"{name}/raw_faces"]
    )
    in_cube = box * (vertices / (np.array(values.shape) - 1) - 0.5)
    assert_same_mesh(
        in_cube, triangles, recorded[f"{name}/mesh/vertices"], recorded[f"{name}/mesh/faces"]
    )


def test_values_become_the_recorded_mesh_of_a_unit_cube(goldens: Path) -> None:
    recorded = np.load(goldens / "marching_cubes.npz")
    values, share = recorded["unit/value_grid"], float(recorded["unit/threshold_p"])
    level = float(np.log(share) - np.log(1 - share))
    assert (values == level).any()  # which side these are on matters
    vertices, triangles = closed_surface(values, level)
    box = 1 + float(recorded["unit/padding"])
    vertices = box * (vertices / (np.array(values.shape) - 1) - 0.5)
    assert_same_mesh(
        vertices, triangles, recorded["unit/mesh/vertices"], recorded["unit/mesh/faces"]
    )


def test_values_become_the_recorded_mesh_of_crops(goldens: Path) -> None:
    recorded = np.load(goldens / "marching_cubes.npz")
    crops = recorded["slide/query_vol"]
    low, high = crops[:, 0].min(axis=0), crops[:, 1].max(axis=0)
    a_side = recorded["slide/axis_n_crop"].max() * int(recorded["slide/resolution0"])
    vertices, triangles = closed_surface(recorded["slide/value_grid"], LEVEL)
    vertices = vertices * (max(high - low) / a_side) + low
    assert_same_mesh(
        vertices, triangles, recorded["slide/mesh/vertices"], recorded["slide/mesh/faces"]
    )


def test_octree_finds_the_surface_that_all_values_have() -> None:
    values = sphere(19.3, 65)
    asked = []

    def occupancy(points: np.ndarray) -> np.ndarray:
        asked.append(points)
        return values[tuple(points.T)]

    found = evaluate(occupancy, 16, 2, 0.0)
    points = np.concatenate(asked)
    assert len(np.unique(points, axis=0)) == len(points) < found.size / 3
    assert found.shape == values.shape
    assert found.dtype == np.float64
    near = np.abs(values) < 1
    np.testing.assert_array_equal(found[near], values[near])
    np.testing.assert_array_equal(found > 0, values > 0)
    for ours, theirs in zip(closed_surface(found, 0.0), closed_surface(values, 0.0), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_point_between_the_corners_of_a_coarse_cell_divides_it() -> None:
    # Along x, two coarse cells. The first has both signs at its corners and is divided; of the
    # points this gives to the side it shares with the second, one is occupied.
    octree = Mise(2, 1, 0.5)
    points = octree.query()
    assert len(points) == 27
    octree.update(points, (points == 0).all(axis=1).astype(float))
    points = octree.query()
    assert len(points) == 19
    assert points.max() == 2
    octree.update(points, (points == (2, 1, 1)).all(axis=1).astype(float))
    points = octree.query()
    assert points.min(axis=0).tolist() == [3, 0, 0]
    assert points.max(axis=0).tolist() == [4, 2, 2]
    assert len(points) == 27 - 9 - 4  # its side and its corners are known


def test_values_may_come_in_parts_and_missing_ones_count_as_zero() -> None:
    octree = Mise(2, 0, 0.0)
    points = octree.query()
    octree.update(points[:5], np.full(5, 7.0))
    np.testing.assert_array_equal(octree.query(), points[5:])
    assert np.count_nonzero(octree.dense() == 7) == 5
    assert np.count_nonzero(octree.dense() == 0) == 22
    octree.update(points[5:], np.full(22, 7.0))
    assert octree.query().shape == (0, 3)
    assert (octree.dense() == 7).all()


def test_wrong_lattices_and_values_are_refused() -> None:
    for arguments, name in (((0, 1, 0.0), "resolution"), ((2, -1, 0.0), "steps")):
        with pytest.raises(ValueError, match=f"{name}: expected at least"):
            Mise(*arguments)
    with pytest.raises(ValueError, match="threshold: expected a finite"):
        Mise(2, 1, np.nan)
    octree = Mise(2, 1, 0.0)
    points = octree.query()
    with pytest.raises(ValueError, match="values: expected"):
        octree.update(points, np.zeros(3))
    with pytest.raises(ValueError, match="values: expected numbers, got 27 NaN"):
        octree.update(points, np.full(27, np.nan))
    for other in ([[0, 0, 1]], [[0, 0, -2]], [[5, 0, 0]]):
        with pytest.raises(ValueError, match=r"points: expected points of query\(\)"):
            octree.update(np.array(other), np.zeros(1))
    with pytest.raises(ValueError, match="points: expected"):
        octree.update(points * 1.0, np.zeros(27))
    octree.update(points, np.ones(27))
    with pytest.raises(ValueError, match="points: expected points of query"):
        octree.update(points[:1], np.ones(1))


def test_surface_is_closed_and_faces_outwards() -> None:
    radius, middle = 9.3, 12.0
    vertices, triangles = closed_surface(sphere(radius, 25), 0.0)
    mesh = trimesh.Trimesh(vertices, triangles, process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.01)
    outwards = vertices - middle
    np.testing.assert_allclose(np.linalg.norm(outwards, axis=1), radius, atol=0.05)
    assert (np.einsum("ij,ij->i", mesh.triangles_center - middle, mesh.face_normals) > 0).all()
    # what reaches the lattice's end is closed there
    vertices, triangles = closed_surface(np.ones((3, 4, 5)), 0.0)
    mesh = trimesh.Trimesh(vertices, triangles, process=False)
    assert mesh.is_watertight
    np.testing.assert_allclose(mesh.bounds, [[0, 0, 0], [2, 3, 4]], atol=1e-5)


def test_noise_gives_a_closed_surface() -> None:
    values = np.random.default_rng(0).integers(-2, 3, (9, 10, 11)).astype(float)
    vertices, triangles = closed_surface(values, 0.0)
    mesh = trimesh.Trimesh(vertices, triangles, process=False)
    assert mesh.is_winding_consistent
    edges = np.sort(mesh.edges, axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] % 2 == 0).all()
    assert triangles.dtype == np.int32


def test_nothing_has_no_surface_and_no_number_is_refused() -> None:
    vertices, triangles = closed_surface(np.full((3, 3, 3), -1.0), 0.0)
    assert vertices.shape == triangles.shape == (0, 3)
    with pytest.raises(ValueError, match="values: expected finite ones, got 1 others"):
        closed_surface(np.array([[[0.0, np.nan]]]), 0.0)
    with pytest.raises(ValueError, match="values: expected"):
        closed_surface(np.zeros((3, 3)), 0.0)
    with pytest.raises(ValueError, match="level: expected a finite number above"):
        closed_surface(np.zeros((3, 3, 3)), -np.inf)
