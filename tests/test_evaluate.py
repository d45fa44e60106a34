"""Networks beside each other: a perfect one and an empty one on generated rooms."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from convonet_ros.datasets.generated import shape_solids, write_shapes
from convonet_ros.datasets.shapes import read_cloud
from convonet_ros.datasets.world.solids import occupied
from convonet_ros.evaluation.shapes import (
    Evaluation,
    evaluate_folder,
    picture_of_networks,
)
from convonet_ros.evaluation.targets import Targets
from convonet_ros.model import zoo
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.offline.pictures import picture_of_methods

ROOMS = range(2)
LOGIT = 4.0
# Points of the cube [-1, 1]^3, every coordinate evenly spread.
AROUND = np.stack([np.random.default_rng(k).permutation(9) / 4 - 1 for k in range(3)], axis=1)


class Oracle(OccupancyNetwork):
    """Knows the rooms: finds the one of its input by its box, and answers with its occupancy.

    The answer is the share that is occupied of a cube of half side `blur` around a point, so that
    the surface can be found between the points of a lattice.
    """

    def __init__(self, blur: float = 0.0045, **data: Any) -> None:
        config = zoo.variant("room_3plane")
        config["data"] |= data
        super().__init__(nn.Linear(1, 1), nn.Identity(), config, {}, None)
        self.blur = blur
        self.rooms = [shape_solids("rooms", seed) for seed in ROOMS]
        self.seen: list[np.ndarray] = []

    def encode(self, inputs: Any, box: Any = None) -> dict[str, Tensor]:
        points = inputs[0].numpy()
        self.seen.append(points)
        near = [np.mean([occupied(room, points - 0.01 * s) for s in AROUND]) for room in self.rooms]
        return {"room": torch.tensor(int(np.argmax(near)))}

    def decode(self, features: Any, queries: Any, box: Any = None) -> Tensor:
        solids = self.rooms[int(features["room"])]
        points = queries[0].numpy().astype(np.float64)
        share = np.mean([occupied(solids, points + self.blur * step) for step in AROUND], axis=0)
        return torch.from_numpy((2 * share - 1) * LOGIT).float()[None]


class Nothing(Oracle):
    """Sees free space everywhere."""

    def encode(self, inputs: Any, box: Any = None) -> dict[str, Tensor]:
        self.seen.append(inputs[0].numpy())
        return {}

    def decode(self, features: Any, queries: Any, box: Any = None) -> Tensor:
        return torch.full(queries.shape[:2], -LOGIT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rooms")
    assert len(list(write_shapes(path, "rooms", ROOMS, "test", workers=1, files=2))) == 2
    return path


@pytest.fixture(scope="module")
def networks() -> dict[str, tuple[OccupancyNetwork, dict[str, Any]]]:
    return {"oracle": (Oracle(), {"step": 7, "score": math.nan}), "nothing": (Nothing(), {})}


@pytest.fixture(scope="module")
def evaluation(folder: Path, networks: Any) -> Evaluation:
    calls: list[tuple[int, int]] = []
    found = evaluate_folder(networks, folder, threshold=0.5, progress=lambda *at: calls.append(at))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    return found


def test_the_truth_scores_high(evaluation: Evaluation) -> None:
    row = evaluation.rows["oracle"]
    assert row["IoU"] > 0.95
    assert row["occupancy IoU"] > 0.95
    assert row["F-score"] > 0.9
    assert row["F-score"] <= row["F-score at 1.5 %"] <= row["F-score at 2 %"]
    assert row["Chamfer-L1"] < 0.006
    assert row["Chamfer-L1"] == pytest.approx((row["accuracy"] + row["completeness"]) / 2)
    assert row["normal consistency"] > 0.9
    assert (row["models"], row["empty"], row["parameters"]) == (2, 0, 2)
    assert row["seconds"] > 0
    assert evaluation.categories["rooms"] == evaluation.rows


def test_nothing_gets_the_penalties_of_upstream(evaluation: Evaluation) -> None:
    row = evaluation.rows["nothing"]
    assert row["empty"] == row["models"] == 2
    assert row["IoU"] == row["occupancy IoU"] == 0
    assert row["normal consistency"] == -1
    assert row["accuracy"] == row["completeness"] == pytest.approx(math.sqrt(3))
    assert math.isnan(row["Chamfer-L1"])
    assert math.isnan(row["F-score"])
    text = evaluation.markdown()
    assert "| nothing | 0.000 | - | -1.000 | - |" in text
    assert "nothing: 2 of 2 meshes are empty" in text


def test_the_best_is_bold(evaluation: Evaluation) -> None:
    lines = evaluation.markdown().splitlines()
    assert lines[0] == "|  | IoU | Chamfer-L1 | Normal C. | F-Score |"
    oracle = next(line for line in lines if line.startswith("| oracle"))
    assert oracle.count("**") == 8
    some = {"IoU": 0.5, "Chamfer-L1": 0.1, "normal consistency": 0.9, "F-score": 0.5}
    rows = {
        "a": {**some, "models": 1, "empty": 0},
        "b": {**some, "Chamfer-L1": 0.2, "IoU": 0.50001, "models": 1, "empty": 0},
    }
    lines = Evaluation(rows, {}, [], {"split": "test"}).markdown().splitlines()
    assert lines[2] == "| a | **0.500** | **0.1000** | **0.900** | **0.500** |"
    assert lines[3] == "| b | **0.500** | 0.2000 | **0.900** | **0.500** |"


def test_results_are_written(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.write(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["results.json", "table.md"]
    assert (tmp_path / "out" / "table.md").read_text() == evaluation.markdown()
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    settings = content["settings"]
    assert (settings["split"], settings["resolution"], settings["seed"]) == ("test", 32, 0)
    assert settings["networks"]["oracle"]["about"] == {"step": 7, "score": None}
    assert settings["networks"]["oracle"]["data"]["pointcloud_n"] == 10000
    assert evaluation.rows["oracle"]["F-score"] < settings["perfect F-score"] < 1
    assert len(content["models"]) == 4


def test_networks_get_the_same_input_and_the_same_again(folder: Path) -> None:
    def run() -> tuple[Evaluation, dict[str, Any]]:
        fresh = {
            "a": (Nothing(), {}),
            "b": (Nothing(points_subsample=7), {}),
            "few": (Nothing(pointcloud_n=300, pointcloud_noise=0.0), {}),
        }
        found = evaluate_folder(fresh, folder, limit=1, resolution=4, steps=1)  # type: ignore[arg-type]
        return found, fresh

    (first, fresh), (second, others) = run(), run()
    assert first.markdown() == second.markdown()
    assert first.rows["a"]["models"] == 1
    seen = {name: network.seen[0] for name, (network, _) in fresh.items()}
    assert seen["a"].shape == (10000, 3)
    np.testing.assert_array_equal(seen["a"], seen["b"])
    np.testing.assert_array_equal(seen["a"], others["a"][0].seen[0])
    assert seen["few"].shape == (300, 3)
    cloud = folder / "rooms" / "000000" / "pointcloud"
    stored = np.concatenate([read_cloud(path)[0] for path in sorted(cloud.iterdir())])
    assert {tuple(p) for p in seen["few"]} <= {tuple(p) for p in stored.astype(np.float32)}


def test_a_network_of_objects_on_a_folder_of_rooms_and_its_own_threshold(folder: Path) -> None:
    torch.manual_seed(0)
    config = zoo.variant("shapenet_1plane")
    config["data"]["pointcloud_n"] = 500
    config["test"] = {"threshold": 0.999999, "remove_wall": True}
    fresh = zoo.from_upstream(config)
    found = evaluate_folder(
        {"fresh": (fresh, {})}, folder, limit=1, resolution=4, steps=1, threshold=None, samples=100
    )
    assert found.settings["networks"]["fresh"]["threshold"] == 0.999999
    assert found.settings["networks"]["fresh"]["remove_wall"] is True
    assert found.settings["networks"]["fresh"]["data"]["multi_files"] == 2
    assert found.rows["fresh"]["empty"] == 1
    assert found.rows["fresh"]["parameters"] > 1e5
    assert fresh.training  # as it was


def test_the_target_is_all_files_and_a_perfect_score_needs_a_seed(
    folder: Path, tmp_path: Path
) -> None:
    nothing: Any = {"nothing": (Nothing(), {})}
    points = Targets(nothing, folder, "test", 0).truth(0)[0]
    paths = sorted((folder / "rooms" / "000000" / "pointcloud").iterdir())
    stored = np.concatenate([read_cloud(path)[0] for path in paths])
    assert len(points) == 80_000
    np.testing.assert_array_equal(points, stored.astype(np.float32))
    # another's files under the name of a seed, and a category that no seed is of
    for category, model in (("rooms", "000001"), ("flats", "000000")):
        (tmp_path / category).mkdir()
        (tmp_path / category / model).symlink_to(folder / "rooms" / "000000")
        (tmp_path / category / "test.lst").write_text(model)
    targets = Targets(nothing, tmp_path, "test", 0)
    assert [targets.seed_of(index, points) for index in range(2)] == [None, None]
    found = evaluate_folder(nothing, tmp_path, limit=1, resolution=4, steps=1, samples=100)
    assert found.settings["perfect F-score"] is None


def test_what_cannot_be_evaluated_is_told(folder: Path, networks: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a data set's folder, got none"):
        evaluate_folder(networks, tmp_path / "none")
    with pytest.raises(ValueError, match=r"expected categories with val.lst, got none; .* test"):
        evaluate_folder(networks, folder, "val")
    with pytest.raises(ValueError, match="split: expected the name of a list"):
        evaluate_folder(networks, folder, "../test")
    with pytest.raises(ValueError, match="limit: expected at least 1, got 0"):
        evaluate_folder(networks, folder, limit=0)
    with pytest.raises(ValueError, match="networks: expected at least one"):
        evaluate_folder({}, folder)
    with pytest.raises(ValueError, match="network map: expected one of the published family"):
        evaluate_folder({"map": (nn.Linear(1, 1), {})}, folder)  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="seed: expected a number from 0"):
        evaluate_folder(networks, folder, seed=-1)
    (tmp_path / "things" / "a").mkdir(parents=True)
    (tmp_path / "things" / "test.lst").write_text("a\n")
    with pytest.raises(ValueError, match=r"a: expected pointcloud.npz and points.npz, or"):
        evaluate_folder(networks, tmp_path)
    (tmp_path / "things" / "test.lst").write_text("")
    with pytest.raises(ValueError, match=r"expected models in the lists test.lst, got none"):
        evaluate_folder(networks, tmp_path)


def test_the_picture_shows_every_column(folder: Path, networks: Any, tmp_path: Path) -> None:
    path = tmp_path / "methods.png"
    picture_of_networks(path, networks, folder, models=[1], resolution=16, steps=1, threshold=0.5)
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("L"))
    points, oracle, nothing, truth = np.split(pixels[60:], 4, axis=1)  # without the titles
    for column in (points, oracle, truth):
        assert (column < 250).mean() > 0.05
    assert (nothing == 255).all()
    assert np.mean((oracle < 250) == (truth < 250)) > 0.97  # the same thing from the same place


def test_a_picture_needs_a_truth(tmp_path: Path) -> None:
    none, corner = np.empty((0, 3)), np.eye(3)
    with pytest.raises(ValueError, match="expected rows of one length"):
        picture_of_methods(tmp_path / "a.png", [("a", corner, none)], [])
    with pytest.raises(ValueError, match="expected the truth in the last place"):
        picture_of_methods(tmp_path / "a.png", [("a", corner, none), ("truth", none, none)])
