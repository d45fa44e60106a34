"""Every knob has a sentence, and every wrong one an answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from convonet_ros.config import Config, knobs, load, to_yaml, with_values


def test_every_knob_says_what_it_is_and_its_default_is_legal() -> None:
    for name, (value, metadata) in knobs(Config()).items():
        assert metadata["sentence"].endswith("."), name
        assert with_values(Config(), {name: value}) == Config()


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = with_values(
        Config(), {"map.frame_id": "map: x", "scan.max_range_m": 7, "node.use_pointcloud": False}
    )
    path = tmp_path / "a.yaml"
    path.write_text(to_yaml(config))
    assert load(path) == config


def test_later_files_win_and_hold_only_differences(tmp_path: Path) -> None:
    for name, text in (
        ("a", "/**: {ros__parameters: {scan: {max_range_m: 9.0}, use_sim_time: true}}"),
        ("b", "/**: {ros__parameters: {scan.max_range_m: 3.0, map.hit_weight: 3}}"),
        ("empty", ""),
    ):
        (tmp_path / name).write_text(text)
    config = load(tmp_path / "a", tmp_path / "b", tmp_path / "empty")
    assert (config.scan.max_range_m, config.map.hit_weight) == (3.0, 3)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("map.frame", "odom", "unknown parameter 'map.frame'; did you mean 'map.frame_id'?"),
        ("scan.max_range_m", "far", "expected a float, got 'far'"),
        ("scan.max_range_m", -1.0, "expected 0.1 to 200.0 m, got -1.0"),
        ("scan.max_range_m", float("nan"), "expected 0.1 to 200.0 m, got nan"),
        ("node.cameras", True, "expected a int, got True"),
        ("model.precision", "int8", "expected one of auto, float32, bfloat16"),
        ("scan.min_range_m", 50.0, "expected below scan.max_range_m"),
        ("grid.min_z_m", 2.0, "expected below grid.max_z_m"),
    ],
)
def test_wrong_values_are_named(name: str, value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said.replace("?", r"\?")):
        with_values(Config(), {name: value})


@pytest.mark.parametrize("text", [": {", "- 1", "a: 1", "/**: {ros__parameters: [1]}"])
def test_files_that_are_no_parameter_files(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match="parameter file"):
        load(path)
    with pytest.raises(ValueError, match="parameter file"):
        load(tmp_path / "missing.yaml")
