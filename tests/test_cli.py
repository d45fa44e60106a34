"""The command line: fast to start, one sentence for an error, results where they were asked for."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from recorded import simulated, write_network, write_recording

from convonet_ros.cli import main
from convonet_ros.config import Config, load, to_yaml, with_values
from convonet_ros.model import zoo
from convonet_ros.model.crops import CropNetwork, CropSpec


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "convonet_ros.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_is_fast() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0
    for command in ("map", "reconstruct", "simulate", "rooms", "train", "config"):
        assert f"\n    {command}" in result.stdout
    # processor time: what a machine with nothing else to do needs
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_heavy_libraries_wait_for_their_command() -> None:
    code = (
        "import sys; from convonet_ros.cli import main; main(['config']); "
        "sys.exit(','.join({'torch', 'open3d', 'pyvista', 'scipy', 'rclpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stderr.strip() == ""


def test_config_prints_what_load_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config"]) == 0
    assert capsys.readouterr().out == to_yaml(Config())
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("/**:\n  ros__parameters:\n    scan: {max_range_m: 6.0}\n")
    settings = ["--set", "model.device=cpu", "--set", "map.hit_weight=3", "--set", "grid.min_z_m=0"]
    assert main(["config", "--config", str(overlay), *settings]) == 0
    (tmp_path / "all.yaml").write_text(capsys.readouterr().out)
    values = {
        "scan.max_range_m": 6.0, "model.device": "cpu", "map.hit_weight": 3, "grid.min_z_m": 0.0,
    }  # fmt: skip
    assert load(tmp_path / "all.yaml") == with_values(Config(), values)


TRAIN = ("train", "--data", "/nowhere", "--validation", "/nowhere")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["map", "/nowhere"], "recording /nowhere: no such folder"),
        (["map", "/nowhere", "--config", "/nowhere.yaml"], "parameter file /nowhere.yaml"),
        (["map", "/nowhere", "--set", "scan.max_rang=1"], "did you mean 'scan.max_range_m'?"),
        (["map", "/nowhere", "--set", "scan.max_range_m=x"], "scan.max_range_m: expected a float"),
        (["map", "/nowhere", "--set", "nonsense"], "--set: expected NAME=VALUE"),
        (["map", "/nowhere", "--frames", "2"], "recording /nowhere"),
        (TRAIN, "expected room-*.npz"),
        (["train"], "--data, --validation"),
        (["train", "--model", "room_4plane"], "room_3plane"),
        ([*TRAIN, "--set", "direction=false"], "--set direction: expected one of voxel_m"),
        ([*TRAIN, "--set", "directions=0"], "--set directions: expected bool, got 0"),
        (["evaluate", "/nowhere", "--weights", "x"], "expected NAME=FILE"),
    ],
)
def test_errors_are_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert error.startswith(f"convonet {arguments[0]}: ")
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["fly"],
        ["map"],
        ["rooms", "-o", "x", "--rooms", "0"],
        ["rooms", "-o", "x", "--seed", "-1"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    assert exit_info.value.code == 2
    assert "usage: convonet" in capsys.readouterr().err


def test_an_unwritable_place_is_found_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main(["map", str(tmp_path), "-o", str(tmp_path / "file" / "out")]) == 1
    assert "cannot be written to" in capsys.readouterr().err


def test_map(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_recording(tmp_path / "recording", simulated(3, 4, width=96))
    (folder / "frame-000001.depth.png").write_bytes(b"broken")
    weights = write_network(tmp_path / "network.pt")
    out = tmp_path / "out"
    command = ["map", str(folder), "-o", str(out), "--frames", ":3"]
    assert main([*command, "--set", f"model.weights={weights}"]) == 0
    captured = capsys.readouterr()
    assert "2 frames" in captured.out
    assert "skipped frame-000001.depth.png" in captured.err
    report = json.loads((out / "report.json").read_text())
    assert report["frames"]["mapped"] == 2
    assert (out / "mesh.ply").stat().st_size > 10_000


def test_rooms_and_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    assert main(["rooms", "-o", str(data), "--rooms", "1", "--seed", "5", "--workers", "1"]) == 0
    assert [path.name for path in data.glob("*.npz")] == ["room-000005.npz"]
    assert (data / "room.png").stat().st_size > 10_000
    out = tmp_path / "run"
    command = ["train", "--data", str(data), "--validation", str(data), "-o", str(out)]
    blinded = ["--set", "directions=false", "--set", "maps=8"]
    assert main([*command, "--steps", "1", "--batch", "1", *blinded]) == 0
    assert "validation IoU" in capsys.readouterr().out
    network, about = zoo.load(out / "best.pt")
    assert isinstance(network, CropNetwork)
    assert network.spec == CropSpec(directions=False, maps=8)
    assert "--set directions=false" in about["command"]
    assert {"last.pt", "log.csv", "curves.png"} <= {path.name for path in out.iterdir()}
    anew = ["calibrate", str(out / "best.pt"), "--validation", str(data), "-o"]
    assert main([*anew, str(tmp_path / "anew.pt")]) == 0
    calibrated, said = zoo.load(tmp_path / "anew.pt")
    assert said == about | {"calibrated_on": {"rooms": 1, "samples": about["samples"]}}
    for name, weight in network.state_dict().items():
        assert torch.equal(weight, calibrated.state_dict()[name])
