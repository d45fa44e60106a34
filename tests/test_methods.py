"""Methods beside each other: the truth scores as the truth, and a wrong surface as a wrong one."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from convonet_ros.config import Config
from convonet_ros.datasets.recordings import Frame, open_recording
from convonet_ros.datasets.sensing.camera import DepthCamera
from convonet_ros.datasets.sensing.drives import drive_camera
from convonet_ros.datasets.sensing.poses import look_at
from convonet_ros.datasets.world.rooms import make_room
from convonet_ros.evaluation.entries import Answer, Job, answer
from convonet_ros.evaluation.evidence import added, counts_of
from convonet_ros.evaluation.held_out import held_out_scores
from convonet_ros.evaluation.mapped import Mapped, ray_cast
from convonet_ros.evaluation.reconstruction import FrameList, ValueLattice, nothing, thinned
from convonet_ros.evaluation.rivals import poisson, tsdf
from convonet_ros.evaluation.scene_scores import Regions, calibration, false_area, regions, scores
from convonet_ros.evaluation.trials import Trial, Truth
from convonet_ros.mapping.meshing import Mesh
from convonet_ros.mapping.occupancy import SUPPORT
from convonet_ros.offline.files import write_mesh
from convonet_ros.sensors import points_from_depth

CONFIG = Config()
POINTS = 20_000
NONE = np.empty((0, 3))
CORNERS = 2 * np.array(list(np.ndindex(2, 2, 2))) - 1


@pytest.fixture(scope="module")
def trial() -> Trial:
    """Two views of a room without furniture, whose mesh is all surface."""
    return Trial(5, 2, CONFIG, make_room(5, furnished=False))


@pytest.fixture(scope="module")
def truth(trial: Trial) -> Truth:
    return trial.truth(2, POINTS)


def perfect(trial: Trial, truth: Truth, shift: np.ndarray | None = None) -> Answer:
    """The true room, or the room moved by (3,) metres along its own axes."""
    move = np.zeros(3) if shift is None else trial.room.T_map_room[:3, :3] @ shift
    vertices, triangles = trial.room.mesh()
    occupied = trial.room.occupied(truth.queries - move)
    return Answer((vertices + move).astype(np.float32), triangles, occupied, occupied * 1.0)


# ---- scores --------------------------------------------------------------------------------------


def test_the_truth_is_perfect(trial: Trial, truth: Truth) -> None:
    said = perfect(trial, truth)
    found = scores(said, truth, trial.surface)
    assert found["IoU"] == found["IoU near"] == found["IoU skin"] == found["known"] == 1
    assert found["F at 2.5 cm"] == found["F at 5 cm"] == found["unseen found"] == 1
    assert found["Chamfer-L1"] < 1e-4
    assert found["normals"] > 0.999
    errors = calibration([regions(said, truth)])
    assert errors == dict.fromkeys(("ECE observed", "ECE near", "ECE completed", "ECE band"), 0.0)


def test_the_calibration_error_says_how_other_scenes_would_differ() -> None:
    rng = np.random.default_rng(0)

    def scene(wrong: float) -> Regions:
        """The band of a scene whose answers are too high by so much."""
        true = rng.random(20_000)
        return {"band": (np.clip(true + wrong, 0, 1), rng.random(20_000) < true)}

    alike = calibration([scene(0.05) for _ in range(8)])
    assert alike["ECE band"] == pytest.approx(0.049, abs=0.002)  # no probability exceeds 1
    assert alike["ECE spread"] < 0.002
    different = calibration([scene(wrong) for wrong in (0.1, -0.1) * 4])
    assert different["ECE band"] < 0.02
    assert different["ECE spread"] > 0.01


def test_a_moved_room_is_wrong(trial: Trial, truth: Truth) -> None:
    found = scores(perfect(trial, truth, np.full(3, 0.1)), truth, trial.surface)
    assert found["accuracy"] == pytest.approx(0.1, abs=0.02)
    assert found["F at 5 cm"] < 0.15
    assert found["unseen found"] < 0.15
    assert found["normals"] > 0.88  # but for the edges of the room nothing has turned
    assert 0.1 < found["IoU near"] < 0.9
    little = scores(perfect(trial, truth, np.full(3, 0.03)), truth, trial.surface)
    assert little["F at 2.5 cm"] < 0.15
    assert little["F at 5 cm"] == 1


def test_rays_are_counted_against_the_truth(trial: Trial, truth: Truth) -> None:
    counts = counts_of(truth.evidence, trial.room, CONFIG.map)
    chance = {kind: solid / cells for kind, (cells, solid) in counts.items() if cells}
    crossed = sum(cells for kind, (cells, _) in counts.items() if "crossed" in kind)
    assert crossed == min(20_000, np.count_nonzero(truth.evidence.values < 0))
    assert chance["sub-voxels crossed by rays of one scan"] < 0.05
    assert chance[f"voxels hit by one scan, {SUPPORT} hits around or more"] > 0.3
    twice = added([counts, counts])
    assert all(twice[kind] == (2 * n, 2 * solid) for kind, (n, solid) in counts.items())


def test_nothing_scores_nothing(trial: Trial, truth: Truth) -> None:
    job = Job(trial.recording, CONFIG, truth.queries)
    found = scores(answer(lambda *_: nothing(), job), truth, trial.surface)
    for name in ("IoU", "IoU near", "F at 2.5 cm", "F at 5 cm", "unseen found", "false m2"):
        assert found[name] == 0
    for name in ("Chamfer-L1", "accuracy", "normals", "known"):
        assert math.isnan(found[name])


def test_false_surface_is_measured() -> None:
    """A sheet through free voxels counts but for the half step beside what is not free."""
    values = np.zeros((20, 20, 20), np.int8)
    values[:, :, 4:8] = -3  # free from z = 0.2 to 0.4
    evidence = ValueLattice(values, np.full(3, 0.025), 0.05)
    rng = np.random.default_rng(0)
    for z, expected in ((0.19, 0.0), (0.212, 0.0), (0.214, 1.0), (0.386, 1.0), (0.388, 0.0)):
        sheet = np.column_stack([rng.uniform(0.1, 0.9, (1000, 2)), np.full(1000, z)])
        assert false_area(sheet, 2.0, evidence) == 2.0 * expected


def test_truth_of_a_trial(trial: Trial, truth: Truth) -> None:
    room = trial.room
    for sign, occupied in ((1, False), (-1, True)):
        beside = room.occupied(truth.surface + sign * 0.002 * truth.normals)
        assert (beside == occupied).all()
    np.testing.assert_array_equal(room.occupied(truth.around), truth.around_occupied)
    np.testing.assert_array_equal(room.occupied(truth.near), truth.near_occupied)
    distance = np.linalg.norm(truth.near[:50, None] - truth.seen, axis=2).min(axis=1)
    np.testing.assert_allclose(distance, truth.near_distance[:50])
    assert truth.near_distance.max() <= 0.3
    to_room, _ = trial.surface.nearest(truth.seen, truth.surface, truth.normals)
    assert np.quantile(to_room, 0.999) < 1e-4  # exact and free of noise, but for the very edges
    assert to_room.max() < 0.05
    again = Trial(5, 1, CONFIG, make_room(5, furnished=False)).recording.frames[0]
    np.testing.assert_array_equal(again.depth, trial.recording.frames[0].depth)


# ---- methods -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def furnished() -> tuple[Trial, Truth, Job]:
    found = Trial(5, 1, CONFIG, make_room(5))
    true = found.truth(1, POINTS)
    return found, true, Job(found.recording, CONFIG, true.queries)


def test_rays_bind_ours_with_the_rule_and_only_then(furnished: tuple[Trial, Truth, Job]) -> None:
    trial, truth, job = furnished
    ruled, unruled = (answer(Mapped(ruled=rule), job) for rule in (True, False))
    assert scores(ruled, truth, trial.surface)["false m2"] == 0
    assert scores(unruled, truth, trial.surface)["false m2"] > 0
    free = truth.evidence.nearest(truth.queries, 0) < 0
    inside = [truth.evidence.nearest(truth.queries + 0.0126 * s, 0) < 0 for s in CORNERS]
    assert np.all(inside, axis=0).sum() > 500
    assert not ruled.occupied[np.all(inside, axis=0)].any()
    assert ruled.probability is not None
    assert ruled.probability[free].max() <= 0.021
    known = np.isfinite(ruled.probability)
    assert not ruled.occupied[~known].any()
    assert (ruled.occupied == (ruled.probability >= job.config.model.threshold))[
        known & ~free
    ].mean() > 0.999


@pytest.mark.parametrize("method", [tsdf, poisson, ray_cast])
def test_rivals_find_what_was_seen(method: object, furnished: tuple[Trial, Truth, Job]) -> None:
    trial, truth, job = furnished
    said = answer(method, job)  # type: ignore[arg-type]
    found = scores(said, truth, trial.surface)
    assert found["accuracy"] < 0.06
    assert found["F at 5 cm"] > 0.3
    assert found["IoU near"] > 0.05
    right = truth.near_occupied[said.occupied[len(truth.around) :]].mean()
    assert right > (0.35 if method is ray_cast else 0.8)  # whose voxels stand half in front
    assert said.seconds > 0
    assert said.memory_mb > 50
    corners = said.vertices[said.triangles].astype(float)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    eye = trial.recording.frames[0].T_map_camera[:3, 3]
    towards = (normal * (eye - corners.mean(axis=1))).sum(axis=1)
    area = np.linalg.norm(normal, axis=1)
    if method is not ray_cast:  # whose hit voxels have a back
        assert area[towards > 0].sum() > 0.8 * area.sum()


def test_methods_get_the_very_same_pixels() -> None:
    rng = np.random.default_rng(0)
    k = drive_camera(64)
    depth = rng.uniform(0, 3, (k.height, k.width)).astype(np.float32) * (rng.random((48, 64)) > 0.2)
    frame = Frame(depth, k, np.eye(4), 1)
    for most in (100_000, 1000, 300):
        small = thinned(frame, most)
        np.testing.assert_allclose(
            points_from_depth(small.depth, small.intrinsics),
            points_from_depth(depth, k, most),
            atol=1e-6,
        )
    blind = FrameList("blind", [replace(frame, depth=np.zeros_like(depth))])
    for method in (tsdf, poisson):
        found = method(blind, CONFIG)
        assert len(found.triangles) == 0
        assert not found.occupied(np.zeros((3, 3))).any()


def test_a_lattice_is_interpolated_where_it_is_known() -> None:
    x, y, z = np.meshgrid(*[np.arange(6.0)] * 3, indexing="ij")
    lattice = ValueLattice(x + 2 * y - z, np.array([1.0, 0.0, -1.0]), 0.5)
    points = np.random.default_rng(0).uniform(0, 2.5, (50, 3)) + lattice.first_m
    a, b, c = (2 * (points - lattice.first_m)).T
    np.testing.assert_allclose(lattice.at(points), a + 2 * b - c, atol=1e-5)
    lattice.values[3, 3, 3] = np.nan
    near = lattice.first_m + np.array([[1.4, 1.4, 1.4], [1.7, 1.7, 1.8], [2.6, 0, 0], [9, 9, 9]])
    np.testing.assert_array_equal(np.isnan(lattice.at(near)), [True, False, False, True][:4])
    assert lattice.at(near)[1] == lattice.values[3, 3, 4]


# ---- recordings ----------------------------------------------------------------------------------


def test_depth_against_itself() -> None:
    room = make_room(5, furnished=False)
    k = drive_camera(64)
    middle = room.T_map_room[:3, 3] + [0, 0, 1.2]
    ahead = [np.array([np.cos(a), np.sin(a), -0.2]) for a in (0.0, 2.0)]
    poses = [look_at(middle, middle + direction) for direction in ahead]
    camera = DepthCamera(room, k)
    frames = [Frame(camera.render(T), k, T, 1) for T in poses]
    vertices, triangles = room.mesh()

    def of(change_m: float) -> dict[str, float]:
        moved = [replace(f, depth=f.depth + np.float32(change_m)) for f in frames]
        return held_out_scores(vertices, triangles, moved)

    assert of(0.0)["recall"] == 1
    assert of(0.0)["false obstacle"] == of(0.0)["missing"] == 0
    assert of(0.2)["false obstacle"] == of(-0.2)["missing"] == 1
    assert of(0.07)["recall"] + of(0.07)["false obstacle"] < 0.02
    assert of(0.2)["median error"] == pytest.approx(0.2, abs=0.02)
    assert held_out_scores(vertices, triangles[:0], frames)["missing"] == 1
    assert math.isnan(held_out_scores(vertices, triangles, [])["recall"])


def test_scores_are_those_of_the_shared_tool(redwood: Path, tmp_path: Path) -> None:
    tool = redwood.parents[1] / "tools" / "heldout_depth.py"
    if not tool.is_file():
        pytest.skip(f"no tool at {tool}")
    found = tsdf(open_recording(redwood, "0::20"), CONFIG)
    mesh = Mesh(found.vertices, found.triangles, np.zeros(len(found.vertices), bool))
    write_mesh(tmp_path / "mesh.ply", mesh)
    command = [sys.executable, tool, tmp_path / "mesh.ply", redwood, "--frames", "1::20"]
    theirs = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    frames = list(open_recording(redwood, "1::20"))
    # The tool's rays pass half a pixel beside those by which points are made.
    k = frames[0].intrinsics
    beside = [replace(f, intrinsics=replace(k, cx=k.cx - 0.5, cy=k.cy - 0.5)) for f in frames]
    for seen, tolerance in ((frames, 3e-3), (beside, 1e-4)):
        ours = held_out_scores(found.vertices, found.triangles, seen)
        assert 0.3 < ours["recall"] < 0.95
        for name in ("recall", "false obstacle", "missing"):
            key = {"recall": "recall_5cm"}.get(name, name.replace(" ", "_"))
            assert ours[name] == pytest.approx(theirs[key], abs=tolerance)
    assert 1000 * ours["median error"] == pytest.approx(theirs["median_error_mm"], abs=0.1)


# ---- the table -----------------------------------------------------------------------------------
