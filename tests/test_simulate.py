"""Simulated walks as recordings, and what `convonet reconstruct` makes of a recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recorded import simulated, write_network, write_recording
from scipy.spatial import cKDTree

from convonet_ros.cli import main
from convonet_ros.config import Config, with_values
from convonet_ros.datasets.recordings import open_recording
from convonet_ros.datasets.sensing.drives import (
    drive_camera,
    drive_frames,
    walk_camera,
    walk_frames,
    write_frames,
)
from convonet_ros.datasets.world.buildings import make_building
from convonet_ros.datasets.world.rooms import Room, make_room
from convonet_ros.geometry import Lattice
from convonet_ros.mapping.volume import Volume
from convonet_ros.offline import pipeline
from convonet_ros.offline.files import merged
from convonet_ros.offline.pictures import picture_of_storeys
from convonet_ros.offline.pipeline import map_recording, mesh_of_recording, parts_for


@pytest.fixture(scope="module")
def building() -> Room:
    return make_building(3, storeys=2)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    weights = write_network(tmp_path_factory.mktemp("weights") / "network.pt")
    return with_values(Config(), {"model.weights": str(weights)})


def test_a_recording_is_read_back_as_it_was_seen(tmp_path: Path) -> None:
    room, camera = make_room(3), drive_camera(64)
    frames = list(drive_frames(room, 4, camera))
    images = list(write_frames(tmp_path / "recording", frames))
    assert [image.name for image in images] == [f"frame-00000{k}.depth.png" for k in range(4)]
    recording = open_recording(tmp_path / "recording")
    assert recording.intrinsics == camera
    assert len(recording) == 4
    for wanted, found in zip(frames, recording, strict=True):
        np.testing.assert_array_equal(found.depth, wanted.depth)
        np.testing.assert_allclose(found.T_map_camera, wanted.T_map_camera, atol=1e-9)
    assert not recording.skipped
    # the same room gives the very same files; a folder with frames is left alone
    list(write_frames(tmp_path / "again", drive_frames(room, 4, camera)))
    for path in (tmp_path / "recording").iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
    with pytest.raises(ValueError, match="expected a folder without frames"):
        next(write_frames(tmp_path / "again", frames))


def test_a_walk_sees_both_storeys_and_looks_around_at_dead_ends(building: Room) -> None:
    camera = walk_camera(32)
    assert (camera.width, camera.height) == (32, 18)
    poses = [frame.T_map_camera for frame in walk_frames(building, 200, camera)]
    assert len(poses) == 200
    eyes = building.to_room(np.stack(poses)[:, :3, 3])
    upper = building.route[:, 2].max()
    assert (eyes[:, 2] < upper).sum() > 40
    assert (eyes[:, 2] > upper + 1).sum() > 40
    still = np.linalg.norm(np.diff(eyes, axis=0), axis=1) < 1e-9
    assert still.sum() >= 6
    assert still.sum() % 6 == 0
    # with few frames there is no time for it
    assert len(list(walk_frames(building, 5, camera))) == 5


def test_storeys_are_drawn_side_by_side(building: Room, tmp_path: Path) -> None:
    picture_of_storeys(tmp_path / "two.png", building)
    picture_of_storeys(tmp_path / "one.png", make_room(3))
    sizes = []
    for name in ("two.png", "one.png"):
        with Image.open(tmp_path / name) as picture:
            pixels = np.asarray(picture.convert("L"))
            sizes.append(picture.size)
        for half in np.array_split(pixels, 2, axis=1):
            assert half.std() > 10  # something is on it
    assert sizes[0] == (2 * sizes[1][0], sizes[1][1])


def test_simulate_and_reconstruct(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "walk", tmp_path / "mesh.ply"
    command = ["simulate", "-o", str(folder), "--kind", "room", "--seed", "3", "--frames", "3"]
    assert main(command) == 0
    assert "3 frames of a room of" in capsys.readouterr().out
    assert (folder / "truth.png").stat().st_size > 10_000
    assert main(command) == 1
    assert "expected a folder without frames" in capsys.readouterr().err

    weights = str(write_network(tmp_path / "network.pt"))
    (folder / "frame-000001.depth.png").write_bytes(b"broken")
    assert main(["reconstruct", str(folder), "-o", str(out), "--weights", weights]) == 0
    captured = capsys.readouterr()
    assert "2 frames in " in captured.out
    assert "m2, of which" in captured.out
    assert "skipped frame-000001.depth.png" in captured.err
    # the very mesh that `convonet map` makes, colours included
    setting = ["--set", f"model.weights={weights}"]
    assert main(["map", str(folder), "-o", str(tmp_path / "map"), *setting]) == 0
    assert out.read_bytes() == (tmp_path / "map" / "mesh.ply").read_bytes()
    shown = tmp_path / "shown"
    assert main([*command[:2], str(shown), *command[3:], "--mesh", str(out)]) == 0
    assert [path.name for path in shown.iterdir()] == ["comparison.png"]
    with Image.open(shown / "comparison.png") as above, Image.open(folder / "truth.png") as truth:
        assert above.size == (truth.width, 2 * truth.height)


def test_a_building_is_simulated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = ["--size", "9", "8", "4.6"]
    assert main(["simulate", "-o", str(tmp_path), "--frames", "2", "--seed", "1", *size]) == 0
    assert "2 frames of a building of" in capsys.readouterr().out
    assert len(open_recording(tmp_path)) == 2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--kind", "room", "--size", "9", "8", "5"], "--size: is for buildings"),
        (["--size", "1", "1", "1"], "size: expected room for 2 storeys"),
    ],
)
def test_what_cannot_be_simulated_is_told(
    arguments: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", "-o", str(tmp_path / "out"), *arguments]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [["0", "1", "1"], ["x", "1", "1"], ["1", "1"], ["-1", "1", "1"]])
def test_sizes_are_metres(size: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main(["simulate", "-o", str(tmp_path), "--size", *size])
    assert exit_info.value.code == 2


def test_a_mesh_needs_less_than_a_map_and_is_the_same(config: Config, tmp_path: Path) -> None:
    recording = open_recording(write_recording(tmp_path, simulated(3, 2)))
    mesh, report = mesh_of_recording(recording, config)
    whole = map_recording(recording, config)
    np.testing.assert_array_equal(mesh.vertices, merged(whole.meshes.values()).vertices)
    assert report["mesh"] == whole.report["mesh"]
    assert set(whole.report) - set(report) == {"grid"}


def test_parts_make_the_whole(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every crop has the mesh and every cell the class that it has when all is mapped at once."""
    recording = open_recording(write_recording(tmp_path, simulated(3, 4)))
    whole = map_recording(recording, config)
    monkeypatch.setattr(pipeline, "_MAX_BYTES", 1.2e8)
    seen: list[tuple[str, int, int]] = []
    parts = map_recording(recording, config, lambda *step: seen.append(step))
    assert parts.report["window"]["parts"] >= 4
    assert parts.meshes.keys() == whole.meshes.keys()
    for crop, mesh in whole.meshes.items():
        # rounding to the places of a window differs
        count = len(parts.meshes[crop].triangles)
        assert count == pytest.approx(len(mesh.triangles), rel=0.02, abs=20), crop
        lost = cKDTree(parts.meshes[crop].vertices).query(mesh.vertices)[0] > 0.02
        assert lost.mean() < 0.01, crop
    np.testing.assert_allclose(parts.path, whole.path)
    first = np.rint((whole.grid.origin_m - parts.grid.origin_m) / 0.05).astype(int)[::-1]
    rows, columns = whole.grid.ternary.shape
    assert (first >= 0).all()
    cells = parts.grid.ternary[first[0] : first[0] + rows, first[1] : first[1] + columns]
    known = whole.grid.ternary != -1
    known = known[: len(cells), : cells.shape[1]]
    assert (cells == whole.grid.ternary[: len(cells), : cells.shape[1]])[known].mean() > 0.999
    for what in ("scans", "crops"):
        steps = [(done, total) for name, done, total in seen if name == what]
        assert steps[-1][0] == steps[-1][1]
        assert sorted(done for done, _ in steps) == [done for done, _ in steps]


def test_parts_share_a_layer_and_hold_the_box(monkeypatch: pytest.MonkeyPatch) -> None:
    lattice = Lattice()
    for box in ([[-60, -8, -3], [63.0, 41, 14]], [[-3, -3, 0.1], [300, 3, 2]]):
        sized, middles = parts_for(np.array(box, float), Config(), lattice)
        window = np.array([sized.map.window_xy_crops] * 2 + [sized.map.window_z_crops])
        held: set[tuple[int, int, int]] = set()
        for middle in middles:
            first = np.rint(middle / lattice.crop_m - window / 2).astype(int)
            volume = Volume(lattice, sized.map, sized.scan, torch.device("meta"))
            volume.hold(middle)
            np.testing.assert_array_equal(volume.min_crop, first)
            held |= {tuple((first + k).tolist()) for k in np.ndindex(*window)}
        low, high = np.floor(np.array(box) / lattice.crop_m).astype(int)
        assert {tuple((low + k).tolist()) for k in np.ndindex(*(high - low + 1))} <= held
        # the last part that has a crop has its next ones too, if there are any
        top = np.max(list(held), axis=0)
        firsts = np.array([np.rint(m / lattice.crop_m - window / 2).astype(int) for m in middles])
        for crop in held:
            owners = firsts[((crop >= firsts) & (crop < firsts + window)).all(axis=1)]
            inside = np.array(crop) < owners[-1] + window - 1
            assert (inside | (np.array(crop) == top)).all()
