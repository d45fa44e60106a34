"""The command line: networks are converted, listed, and asked for surfaces."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
import yaml
from recorded import simulated, write_recording

from convonet_ros.cli import main
from convonet_ros.model import zoo
from convonet_ros.model.crops import CropNetwork


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
