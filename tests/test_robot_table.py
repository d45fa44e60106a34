"""Methods beside each other: the table, the command and the pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from recorded import simulated, write_recording

from convonet_ros.cli import main
from convonet_ros.config import Config
from convonet_ros.datasets.recordings import open_recording
from convonet_ros.datasets.world.rooms import make_room
from convonet_ros.evaluation import methods
from convonet_ros.evaluation.entries import Answer, Entry, Job, MethodError, answer, answers
from convonet_ros.evaluation.held_out import held_out_scores
from convonet_ros.evaluation.methods import evaluate_methods
from convonet_ros.evaluation.reconstruction import FrameList, nothing
from convonet_ros.evaluation.rivals import tsdf
from convonet_ros.evaluation.robot_table import RobotTable
from convonet_ros.evaluation.tables import Column, table_of
from convonet_ros.evaluation.trials import Trial
from convonet_ros.evaluation.true_surface import ClosestPlaces
from convonet_ros.offline.diagrams import reliability_diagram
from convonet_ros.offline.pictures import picture_of_maps

CONFIG = Config()
NONE = np.empty((0, 3))


def test_the_best_is_bold_and_the_unknown_a_dash(tmp_path: Path) -> None:
    columns = [
        Column("a", "a", 1, 10.0, True, "More."),
        Column("b", "b", 2, 1.0, False, "Less."),
        Column("c", "c", 0, 1.0, None, "Any."),
    ]
    rows = {"x": {"a": 0.504, "b": 1.0, "c": 3.0}, "y": {"a": 0.501, "b": 0.5}}
    lines = table_of("t", columns, rows).splitlines()
    assert lines[0] == "| t | a | b | c |"
    assert lines[2] == "| x | **5.0** | 1.00 | 3 |"
    assert lines[3] == "| y | **5.0** | **0.50** | - |"
    row = {"IoU": math.nan, "scenes": 2, "empty": 1.0}
    found = RobotTable({1: {"x": row}}, {}, [], {}, [], {"methods": {"x": "a method"}})
    assert "x: 1 of 2 meshes after 1 views are empty" in found.markdown()
    found.write(tmp_path)
    assert json.loads((tmp_path / "results.json").read_text())["views"]["1"]["x"]["IoU"] is None


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = ["--rooms", "1", "--views", "1", "--methods", "ours", "tsdf"]
    how += ["--set", "model.threshold=0.4"]
    assert main(["evaluate", "-o", str(tmp_path), *how]) == 0
    text = capsys.readouterr().out
    assert (tmp_path / "table.md").read_text() in text
    assert "| 1 view of 1 test scenes | IoU | IoU near | IoU skin |" in text
    assert "| sub-voxels crossed by rays of one scan | " in text
    content = json.loads((tmp_path / "results.json").read_text())
    rows, scenes = content["views"]["1"], content["scenes"]
    assert [(s["method"], s["seed"], s["views"]) for s in scenes] == [
        ("ours", 3_000_000, 1), ("tsdf", 3_000_000, 1),
    ]  # fmt: skip
    assert rows["ours"]["false m2"] == 0
    assert rows["tsdf"]["IoU near"] == scenes[1]["IoU near"] > 0
    assert {"ECE observed", "ECE band"} <= set(rows["ours"])
    assert "ECE band" not in rows["tsdf"]
    # A process that needs no torch does not hold it.
    assert rows["tsdf"]["memory MB"] < rows["ours"]["memory MB"]
    assert content["settings"]["seeds"] == [3_000_000]
    assert "threshold: 0.4" in content["settings"]["config"]
    for name in ("picture.png", "reliability.png"):
        with Image.open(tmp_path / name) as image:
            assert np.asarray(image.convert("L")).std() > 10


def test_the_command_on_a_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_recording(tmp_path / "drive", simulated(3, 6, of=300))
    how = ["--rooms", "0", "--methods", "tsdf", "--recording", str(folder)]
    assert main(["evaluate", "-o", str(tmp_path / "out"), *how]) == 0
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["views"] == {}
    rows = content["recordings"][str(folder)]
    few, many = rows["0::10"]["tsdf"], rows["0::2"]["tsdf"]
    assert 0.2 < few["recall"] < many["recall"] < 1
    assert "| drive, from frames 0::2 | recall |" in capsys.readouterr().out
    found = tsdf(open_recording(folder, "0::2"), CONFIG)
    again = held_out_scores(found.vertices, found.triangles, open_recording(folder, "1::2"))
    assert again["recall"] == pytest.approx(many["recall"], abs=1e-3)
    assert [p.name for p in (tmp_path / "out").glob("*.png")] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--methods", "magic"], "--methods: expected some of ours, no-rule"),
        (["--methods", "tsdf", "tsdf"], "methods: expected some with different names"),
        (["--weights", "tsdf=x.pt"], "methods: expected some with different names"),
        (["--weights", "new=/nowhere.pt"], "no such file"),
        (["--recording", "/nowhere"], "recording /nowhere: no such folder"),
        (["--rooms", "0"], "expected scenes or recordings, got none"),
        (["--set", "model.weights=x.pt"], "model.weights: expected none, give checkpoints as"),
    ],
)
def test_what_cannot_be_evaluated_is_told_at_once(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", "-o", str(tmp_path), *arguments]) == 1
    assert sentence in capsys.readouterr().err


def test_a_method_that_fails_costs_its_own_row_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trial = Trial(5, 1, CONFIG, make_room(5, furnished=False))
    broken = replace(trial.recording.frames[0], depth=np.zeros(7, np.float32))
    with pytest.raises(MethodError, match=r"^tsdf failed \(odd, 1 frames\): \w+Error: [^\n]+$"):
        next(answers(Entry("tsdf"), [Job(FrameList("odd", [broken]), CONFIG, NONE)]))

    def some(entry: Entry, jobs: list[Job]) -> Iterator[Answer]:
        for number, job in enumerate(jobs):
            if entry.name == "ray-cast" and number == 1:
                raise MethodError("ray-cast failed (of itself)")
            yield answer(lambda *_: nothing(), job)

    monkeypatch.setattr(methods, "answers", some)
    how = ["--rooms", "1", "--views", "1", "2", "--methods", "tsdf", "ray-cast", "poisson"]
    assert main(["evaluate", "-o", str(tmp_path), *how]) == 1
    said = capsys.readouterr()
    assert "convonet evaluate: ray-cast failed (of itself)\n" in said.err
    assert "| poisson |" in said.out
    content = json.loads((tmp_path / "results.json").read_text())
    assert set(content["views"]["2"]) == set(content["views"]["1"]) == {"tsdf", "poisson"}
    assert content["failures"] == ["ray-cast failed (of itself)"]


def test_a_checkpoint_needs_a_name_of_its_own() -> None:
    for entry in (Entry("ours", "x.pt"), Entry("new")):
        with pytest.raises(ValueError, match=f"method {entry.name}: expected a name of ours"):
            evaluate_methods([entry], [1], [1], [], CONFIG)


# ---- pictures ------------------------------------------------------------------------------------


def test_picture_of_maps(tmp_path: Path) -> None:
    square = np.array([[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0.0]])
    triangles = np.array([[0, 1, 2], [0, 2, 3]])
    box = np.array([[0, 0, -1], [1, 1, 1.0]])
    views = [("points", square / 3, triangles[:0]), ("none", NONE, triangles[:0])]
    views += [("far", square + 5, triangles), ("truth", square, triangles)]
    path = tmp_path / "maps.png"
    picture_of_maps(path, views, box, columns=3)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))[60:]
    shown = [[part[70:] for part in np.split(row, 3, axis=1)] for row in np.split(pixels[:-60], 2)]
    (points, none, far), (true, *rest) = [[(p < 250).mean() for p in row] for row in shown]
    assert points > 0
    assert true > 0.1
    assert none == far == 0
    assert rest == [0, 0]
    with pytest.raises(ValueError, match="expected a truth within the box"):
        picture_of_maps(path, views[:3], box)


def test_reliability_diagram(tmp_path: Path) -> None:
    said = np.random.default_rng(0).random(1000).astype(np.float32)
    path = tmp_path / "reliability.png"
    reliability_diagram(path, {"one": (said, said > 0.5), "none": (said[:0], said[:0] > 0)})
    with Image.open(path) as image:
        assert image.size[0] > 600
    with pytest.raises(ValueError, match="expected something said"):
        reliability_diagram(path, {})


def test_triangles_without_area_are_no_surface() -> None:
    # As at the poles of a sphere: one place without a normal once made all places "hidden".
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 2], [0, 0, 3]], np.float32)
    mesh = ClosestPlaces(vertices, np.array([[0, 1, 2], [3, 3, 4]]))
    distance, place, normal = mesh.of(np.array([[0.1, 0.1, 2.0]]))
    np.testing.assert_allclose(distance, 2.0)
    np.testing.assert_allclose(place, [[0.1, 0.1, 0.0]], atol=1e-6)
    np.testing.assert_allclose(np.abs(normal), [[0.0, 0.0, 1.0]])
