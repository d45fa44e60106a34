"""The command line: fast to start, one sentence for an error, results where they were asked for."""

import json
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
import yaml
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


# ---- the published networks --------------------------------------------------------------------


def tiny(name: str = "shapenet_3plane") -> dict[str, Any]:
    config = zoo.variant(name)
    kwargs = config["model"]["encoder_kwargs"]
    if "plane_resolution" in kwargs:
        kwargs |= {"plane_resolution": 16}
        kwargs["unet_kwargs"] |= {"depth": 2, "start_filts": 8}
    if "unet3d_kwargs" in kwargs:
        kwargs["unet3d_kwargs"] |= {"num_levels": 2, "f_maps": 8}
        config["data"] |= {"unit_size": 0.05, "query_vol_size": 16}
    return config


def upstream_file(path: Path, config: dict[str, Any], size: float = 0.4) -> Path:
    """An upstream checkpoint, as its trainer writes it: solid where |x| + |y| + |z| < size."""
    torch.manual_seed(0)
    network = zoo.from_upstream(config)
    decoder = network.decoder
    with torch.no_grad():
        for layer in (decoder.fc_p, decoder.fc_out, *decoder.fc_c):
            layer.weight.zero_()
            layer.bias.zero_()
        for block in decoder.blocks:
            block.fc_1.bias.zero_()
        decoder.fc_p.weight[:6] = torch.cat([torch.eye(3), -torch.eye(3)])
        decoder.fc_out.weight[:, :6] = -20
        decoder.fc_out.bias += 20 * size
    best = np.float64(0.5)
    state = {"model": network.state_dict(), "optimizer": {"state": {}}, "loss_val_best": best}
    torch.save(state, path)
    return path


def cloud(path: Path) -> Path:
    points = np.random.default_rng(0).normal(size=(2000, 3))
    points = points / np.linalg.norm(points, axis=1, keepdims=True) * 0.8 + [5, -3, 2]
    trimesh.PointCloud(points).export(path)
    return path


def test_convert_and_reconstruct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    yaml_file = tmp_path / "net.yaml"
    yaml_file.write_text(yaml.safe_dump(tiny()))
    upstream = upstream_file(tmp_path / "any.pt", tiny())
    ours, mesh = tmp_path / "ours.pt", tmp_path / "mesh.ply"
    assert main(["convert", str(upstream), "--config", str(yaml_file), "-o", str(ours)]) == 0
    _network, about = zoo.load(ours)
    assert about["loss_val_best"] == 0.5
    source = cloud(tmp_path / "cloud.ply")
    how = ["--resolution", "16", "--steps", "2", "--threshold", "0.5"]
    for weights in (
        ["--weights", str(ours)],
        ["--weights", str(upstream), "--model", str(yaml_file)],
    ):
        assert main(["reconstruct", str(source), "-o", str(mesh), *weights, *how]) == 0
        assert "triangles" in capsys.readouterr().out
        found = trimesh.load(mesh)
        assert found.is_watertight
        # the cloud is 1.6 wide, and so is the unit cube
        assert np.allclose(found.bounds.mean(0), [5, -3, 2], atol=0.02)
        assert np.allclose(np.ptp(found.bounds, axis=0), 2 * 0.4 * 1.6, atol=0.02)


def test_convert_the_map_s_own_network(tmp_path: Path) -> None:
    out = tmp_path / "nearest.pt"
    how = ["-o", str(out), "--set", "interpolation=nearest"]
    assert main(["convert", str(zoo.SHIPPED), *how]) == 0
    (before, _), (after, about) = zoo.load(), zoo.load(out)
    assert isinstance(before, CropNetwork)
    assert isinstance(after, CropNetwork)
    assert after.spec == replace(before.spec, interpolation="nearest")
    assert "val_iou" in about
    assert all(torch.equal(v, after.state_dict()[k]) for k, v in before.state_dict().items())
    assert main(["convert", str(zoo.SHIPPED), "-o", str(out), "--set", "maps=8"]) == 1


def test_reconstruct_a_scene_by_sliding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = tmp_path / "crop.pt"
    config = tmp_path / "crop.yaml"
    config.write_text(yaml.safe_dump(tiny("crop_room_grid64")))
    # positions are those in the voxel, 0 to 1
    upstream = upstream_file(tmp_path / "up.pt", tiny("crop_room_grid64"), size=1.2)
    settings = ["--set", "data.query_vol_size=8"]
    assert (
        main(["convert", str(upstream), "--config", str(config), "-o", str(ours), *settings]) == 0
    )
    assert zoo.load_crops(ours)[0].crop_voxels == 8
    mesh = tmp_path / "scene.obj"
    source = cloud(tmp_path / "cloud.ply")
    how = ["--sliding", "--unit", "0.1", "--resolution", "24", "--threshold", "0.5"]
    command = ["reconstruct", str(source), "-o", str(mesh), "--weights", str(ours), *how]
    assert main(command) == 0
    found = trimesh.load(mesh)
    assert len(found.faces) > 100
    assert np.all(found.bounds[0] > np.array([5, -3, 2]) - 0.95)
    assert np.all(found.bounds[1] < np.array([5, -3, 2]) + 1.65)  # whole crops of 0.8
    assert main([*command, "--points", "100"]) == 1
    assert "--points: only counts without --sliding" in capsys.readouterr().err
    command.remove("--sliding")
    assert main(command) == 1
    assert "--unit: only counts with --sliding" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["reconstruct", "/nowhere.ply", "--weights", "/nowhere.pt"], "no such file"),
        (["convert", "/nowhere.pt"], "no such file"),
    ],
)
def test_wrong_files_are_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "-o", str(tmp_path / "out.ply")]) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.strip().splitlines()) == 1


def test_a_cloud_in_metres_needs_no_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    normals = np.random.default_rng(0).normal(size=(20_000, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    np.savez(tmp_path / "ball.npz", points=0.4 * normals + [0.8, 7.2, 0.8], normals=normals)
    for name, weights in (("a.ply", []), ("b.ply", ["--weights", str(zoo.SHIPPED)])):
        out = tmp_path / name
        command = ["reconstruct", str(tmp_path / "ball.npz"), "-o", str(out), *weights]
        assert main([*command, "--up", "z"]) == 0
        assert "20000 points with normals in" in capsys.readouterr().out
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()
    found = trimesh.load(tmp_path / "a.ply")
    assert found.is_watertight
    assert np.allclose(found.bounds, [[0.4, 6.8, 0.4], [1.2, 7.6, 1.2]], atol=0.03)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--points", "100"], "--points: is for networks of 'convonet models' (--weights)"),
        (["--resolution", "32"], "--resolution: is for networks"),
        (["--steps", "1"], "--steps: is for networks"),
        (["--refine", "30"], "--refine: is for networks"),
        (["--seed", "1"], "--seed: is for networks"),
        (["--unit", "0.1"], "--unit: is for networks"),
        (["--query", "8"], "--query: is for networks"),
        (["--normals"], "--normals: is for networks"),
        (["--standing"], "--standing: is for networks"),
        (["--sliding"], "--sliding: is for networks"),
        (["--up", "y"], "has z up"),
        (["--threshold", "2"], "model.threshold: expected 0.01 to 0.99"),
        (["--model", "room_3plane"], "--model: says what --weights are"),
        ([], "expected metres, and a longest side of 0.5 to 10000, got 0.1"),
    ],
)
def test_what_the_map_network_cannot_do_is_told(
    options: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "small.xyz").write_text("0 0 0\n0.1 0 0\n")
    recording = write_recording(tmp_path / "recording", simulated(3, 1, width=64))
    for source in (tmp_path / "small.xyz", recording):
        if source == recording and not options:
            continue
        command = ["reconstruct", str(source), "-o", str(tmp_path / "out.ply"), *options]
        assert main(command) == 1
        error = capsys.readouterr().err
        assert sentence in error
        assert len(error.strip().splitlines()) == 1


def test_voxels_need_a_network_of_voxels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.binvox").write_bytes(
        b"#binvox 1\ndim 2 2 2\ntranslate 0 0 0\nscale 1\ndata\n\1\x08"
    )
    command = ["reconstruct", str(tmp_path / "a.binvox"), "-o", str(tmp_path / "out.ply")]
    assert main(command) == 1
    assert "give --weights of a network of voxels" in capsys.readouterr().err


def test_models_lists_them_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [*zoo.VARIANTS]


def test_shapes_train_evaluate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run, table = (str(tmp_path / name) for name in ("data", "run", "table"))
    counts = ["--train", "2", "--val", "1", "--test", "1", "--workers", "1"]
    assert main(["shapes", "-o", data, "--kind", "objects", *counts]) == 0
    sizes = ["--set", "model.encoder_kwargs.plane_resolution=16", "--set", "data.pointcloud_n=300"]
    sizes += ["--set", "model.encoder_kwargs.unet_kwargs={depth: 2, start_filts: 8}"]
    command = ["train", "--model", "shapenet_3plane", "--data", data, "-o", run, *sizes]
    assert main([*command, "--steps", "2", "--batch", "1"]) == 0
    assert "validation IoU" in capsys.readouterr().out
    command = ["evaluate", data, "--weights", f"planes={run}/best.pt", "-o", table]
    assert main([*command, "--resolution", "8", "--steps", "1"]) == 0
    assert "| planes |" in capsys.readouterr().out
    assert {"table.md", "results.json", "picture.png"} <= {p.name for p in Path(table).iterdir()}
