"""Metrics of the paper: the numbers of the authors' evaluation, and what they must be anyway."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import trimesh

from convonet_ros.evaluation.metrics import (
    chamfer,
    iou,
    mesh_metrics,
    point_metrics,
    without_walls,
)


def assert_same(found: dict[str, float], recorded: np.ndarray) -> None:
    wanted = json.loads(str(recorded))
    assert found.keys() == wanted.keys()
    assert all(type(value) is float for value in found.values())
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-6, nan_ok=True), name


def test_points_get_the_recorded_numbers(goldens: Path) -> None:
    recorded = np.load(goldens / "metrics.npz")
    points, target = recorded["pred"], recorded["tgt"]
    normals, target_normals = recorded["pred_normals"], recorded["tgt_normals"]
    found = point_metrics(points, target, normals, target_normals)
    assert_same(found, recorded["eval_pointcloud"])
    assert_same(point_metrics(points, target), recorded["eval_pointcloud_no_normals"])
    assert_same(point_metrics(points[:0], target, normals[:0], target_normals), recorded["empty"])
    for name in ("completeness", "accuracy"):
        distance, cosine = recorded[f"{name}_dist"], recorded[f"{name}_ndot"]
        assert found[name] == pytest.approx(distance.mean(), rel=1e-6)
        assert found[f"normals {name}"] == pytest.approx(cosine.mean(), rel=1e-6)


def test_mesh_gets_the_recorded_numbers(goldens: Path) -> None:
    recorded = np.load(goldens / "metrics.npz")
    vertices, triangles = recorded["mesh/vertices"], recorded["mesh/faces"]
    points, occupied = recorded["iou_points"], recorded["occ_tgt"]
    target, target_normals = recorded["tgt"], recorded["tgt_normals"]
    # upstream's sample gives upstream's numbers
    normals = trimesh.Trimesh(vertices, triangles, process=False).face_normals
    same = point_metrics(
        recorded["eval_mesh_sample"].astype(np.float32),
        target,
        normals[recorded["eval_mesh_face_index"]],
        target_normals,
    )
    assert_same(same | {"iou": float(recorded["iou_mesh"])}, recorded["eval_mesh"])
    assert float(recorded["iou_mesh"]) == iou(recorded["contains"], occupied)
    # an own sample of that size gives nearly them; the inside of the mesh is exactly the same
    found = mesh_metrics(vertices, triangles, target, target_normals, points, occupied, 3000)
    assert found["iou"] == float(recorded["iou_mesh"])
    inside = mesh_metrics(
        vertices, triangles, target, target_normals, points, recorded["contains"], 10
    )
    assert inside["iou"] == 1.0
    assert found.keys() == same.keys() | {"iou"}
    for name in same:
        assert found[name] == pytest.approx(same[name], rel=0.03, abs=0.01), name


def test_iou_and_chamfer_get_the_recorded_numbers(goldens: Path) -> None:
    recorded = np.load(goldens / "metrics.npz")
    found = iou(recorded["iou_a"], recorded["iou_b"])
    np.testing.assert_array_equal(found, recorded["iou"])
    assert found.dtype == np.float32
    found = chamfer(recorded["chamfer_pred"][None], recorded["chamfer_tgt"][None])
    np.testing.assert_allclose(found, recorded["chamfer_kdtree"], rtol=1e-6)
    np.testing.assert_allclose(found, recorded["chamfer_naive"], rtol=1e-5)


def cloud(number: int = 500) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (number, 3)).astype(np.float32)


def test_cloud_agrees_with_itself() -> None:
    points = cloud()
    found = point_metrics(points, points[::-1], points, -3 * points[::-1])
    for name, value in found.items():
        perfect = 1.0 if "normals" in name or "f-score" in name else 0.0
        assert value == pytest.approx(perfect, abs=1e-6), name
    np.testing.assert_array_equal(chamfer(points[None], points[None]), [0.0])


def test_moved_cloud_is_as_far_as_it_moved() -> None:
    points = np.stack(np.meshgrid(*[np.arange(5.0)] * 3), axis=-1).reshape(-1, 3) / 5
    found = point_metrics(points + np.array([0.0125, 0, 0]), points)
    assert found["chamfer-L1"] == found["accuracy"] == pytest.approx(0.0125)
    assert found["chamfer-L2"] == found["completeness2"] == pytest.approx(0.0125**2)
    assert math.isnan(found["f-score"])  # no point is right: upstream divides 0 by 0
    assert found["f-score-15"] == found["f-score-20"] == 1.0
    assert math.isnan(found["normals"])
    half = point_metrics(points[:50], points)  # all right, but half is missing: precision 1
    recall = 50 / 125
    assert half["f-score"] == pytest.approx(2 * recall / (1 + recall))
    both = chamfer(points[None, :50], points[None])
    assert both == pytest.approx([half["completeness2"] + half["accuracy2"]], rel=1e-6)


def test_iou_counts_what_either_holds() -> None:
    a = np.array([[0.5, 0.9, 0.0, 0.49], [0, 0, 0, 0], [1, 1, 1, 1]])
    b = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]], bool)
    np.testing.assert_array_equal(iou(a, b), np.array([1 / 3, np.nan, 1], np.float32))
    assert iou(a[0], b[0]) == np.float32(1 / 3)
    np.testing.assert_array_equal(iou(a.reshape(3, 2, 2), b.reshape(3, 2, 2)), iou(a, b))


def test_true_mesh_is_perfect_and_an_empty_one_is_worst() -> None:
    ball = trimesh.creation.icosphere(4, radius=0.4)
    target, face = trimesh.sample.sample_surface(ball, 20_000, seed=1)
    target, normals = target.astype(np.float32), ball.face_normals[face]
    points = cloud(5000)
    occupied = np.linalg.norm(points, axis=1) < 0.4
    arguments = (target, normals, points, occupied)
    found = mesh_metrics(ball.vertices, ball.faces, *arguments, samples=20_000)
    assert found["iou"] > 0.98
    assert found["normals"] > 0.995
    assert found["f-score"] > 0.95
    assert found["chamfer-L1"] < 0.006
    again = mesh_metrics(ball.vertices, ball.faces, *arguments, samples=20_000)
    assert again == found
    other = np.random.default_rng(5)
    assert mesh_metrics(ball.vertices, ball.faces, *arguments, samples=20_000, rng=other) != found
    empty = mesh_metrics(ball.vertices[:0], ball.faces[:0], *arguments)
    assert empty["iou"] == 0.0
    assert empty["normals"] == -1.0
    assert empty["chamfer"] == 6.0
    assert empty["accuracy"] == math.sqrt(3)


def test_walls_outside_the_target_do_not_count() -> None:
    target = np.array([[0, 0, 0], [1, 1, 1]], np.float32)
    points = np.array(
        [
            [0.5, 0.5, 0.5],
            [-0.006, 0.5, 1.006],
            [-0.008, 0.5, 0.5],
            [0.5, 0.5, 1.008],
            [0.5, -0.008, 0.5],
            [0.5, 9.0, 0.5],
        ]
    )
    kept = without_walls(points, target)
    np.testing.assert_array_equal(kept, [True, True, False, False, False, True])
    room = trimesh.creation.box(extents=(0.4, 0.4, 0.4))
    behind = trimesh.creation.box(extents=(0.1, 0.1, 0.1)).apply_translation([0.45, 0, 0])
    both = room + behind
    target, _ = trimesh.sample.sample_surface(room, 5000, seed=0)
    arguments = (target.astype(np.float32), None, cloud(10), np.zeros(10))
    with_walls = mesh_metrics(both.vertices, both.faces, *arguments, samples=5000)
    without = mesh_metrics(both.vertices, both.faces, *arguments, samples=5000, remove_wall=True)
    assert without["accuracy"] < 0.01 < with_walls["accuracy"]
    assert math.isnan(without["normals"])
    only = mesh_metrics(behind.vertices, behind.faces, *arguments, samples=50, remove_wall=True)
    assert only["chamfer"] == 6.0


def test_shapes_that_do_not_fit_are_refused() -> None:
    points = cloud(4)
    for arguments, message in (
        ((points[0], points), r"points: expected \(N, 3\)"),
        ((points, points[:, :2]), r"target: expected \(N, 3\)"),
        ((points, points[:0]), "target: expected at least one"),
        ((points, points, points[:2], points), r"^normals: expected \(4, 3\)"),
        ((points, points, points, points[:2]), r"target_normals: expected \(4, 3\)"),
    ):
        with pytest.raises(ValueError, match=message):
            point_metrics(*arguments)
    with pytest.raises(ValueError, match="b: expected the shape"):
        iou(np.zeros(3), np.zeros(4))
    with pytest.raises(ValueError, match="points1: expected"):
        chamfer(points, points)
    with pytest.raises(ValueError, match="points2: expected 1 clouds, got 2"):
        chamfer(points[None], np.stack([points, points]))
    with pytest.raises(ValueError, match="occupied: expected"):
        mesh_metrics(points, np.array([[0, 1, 2]]), points, None, points, np.zeros(3))
    with pytest.raises(ValueError, match="target: expected at least one"):
        without_walls(points, points[:0])
