"""A recording through the mapper into files, as a whole and in parts."""

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from recorded import simulated, write_network, write_recording

from convonet_ros.config import Config, load, with_values
from convonet_ros.datasets.recordings import open_recording
from convonet_ros.geometry import Lattice, transform
from convonet_ros.mapping.occupancy import UNKNOWN
from convonet_ros.offline import pipeline
from convonet_ros.offline.files import merged, read_grid
from convonet_ros.offline.pipeline import OfflineMap, map_recording, window_for, write_map
from convonet_ros.sensors import in_range, points_from_depth


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recording(tmp_path_factory.mktemp("recording"), simulated(3, 6))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    weights = write_network(tmp_path_factory.mktemp("weights") / "network.pt")
    return with_values(Config(), {"model.weights": str(weights)})


@pytest.fixture(scope="module")
def whole(folder: Path, config: Config) -> OfflineMap:
    return map_recording(open_recording(folder), config)


def test_the_window_holds_all_that_is_seen(folder: Path, whole: OfflineMap) -> None:
    assert whole.report["window"]["parts"] == 1
    assert whole.report["frames"] == {"chosen": 6, "mapped": 6, "skipped": {}}
    low = whole.volume.origin_m
    high = low + np.array(whole.volume.classes.shape) * whole.volume.resolution_m
    for frame in open_recording(folder):
        points = in_range(points_from_depth(frame.depth, frame.intrinsics), 0.3, 4.0)
        seen = transform(frame.T_map_camera, points)
        assert (seen > low).all()
        assert (seen < high).all()
        index = np.floor((seen - low) / whole.volume.resolution_m).astype(int)
        known = whole.volume.classes[tuple(index.T)] != UNKNOWN
        assert known.mean() > 0.999
    np.testing.assert_allclose(
        whole.path, [frame.T_map_camera[:3, 3] for frame in open_recording(folder)], atol=1e-8
    )


def test_all_crops_are_closed_up(whole: OfflineMap) -> None:
    mesh = merged(whole.meshes.values())
    assert whole.report["mesh"]["triangles"] == len(mesh.triangles) > 10_000
    apart = sum(len(part.vertices) for part in whole.meshes.values())
    assert len(mesh.vertices) < apart - 500  # neighbours share the vertices of their border
    crop_m = Lattice().crop_m
    for crop, part in whole.meshes.items():
        low = np.array(crop) * crop_m
        assert (part.vertices >= low - 1e-6).all()
        assert (part.vertices <= low + crop_m + 0.05).all()


def test_files(whole: OfflineMap, tmp_path: Path) -> None:
    out = tmp_path / "some" / "where"
    write_map(out, whole)
    assert sorted(path.name for path in out.iterdir()) == [
        "config.yaml", "mesh.ply", "occupancy.png", "occupancy.yaml", "picture.png", "report.json",
    ]  # fmt: skip
    mesh = trimesh.load(out / "mesh.ply", process=False)
    assert len(mesh.faces) == whole.report["mesh"]["triangles"]
    cells, origin, resolution = read_grid(out / "occupancy.yaml")
    np.testing.assert_array_equal(cells, whole.grid.ternary)
    np.testing.assert_allclose(origin, whole.grid.origin_m)
    assert resolution == whole.grid.resolution_m
    assert set(np.unique(cells)) == {0, 100, -1}
    assert load(out / "config.yaml") == whole.config
    assert json.loads((out / "report.json").read_text()) == whole.report
    with Image.open(out / "picture.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10  # something is on it


def test_progress_reaches_its_ends(folder: Path, config: Config) -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    map_recording(
        open_recording(folder, ":2"),
        config,
        lambda what, done, total: seen.setdefault(what, []).append((done, total)),
    )
    assert list(seen) == ["frames", "scans", "crops"]
    for steps in seen.values():
        done, totals = zip(*steps, strict=True)
        assert sorted(done) == list(done)
        assert len(set(totals)) == 1
        assert done[-1] == totals[0]


def test_what_is_too_large_is_mapped_in_parts(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two rooms' worth of views 26 m apart, in a window that holds one of them."""
    near = simulated(3, 4)
    far = [type(f)(f.depth, f.intrinsics, f.T_map_camera.copy(), f.stamp_ns) for f in near]
    for frame in far:
        frame.T_map_camera[0, 3] += 16 * Lattice().crop_m
    folder = write_recording(tmp_path / "recording", [*near, *far])
    monkeypatch.setattr(pipeline, "_MAX_BYTES", 4e8)
    both = map_recording(open_recording(folder), config)
    assert both.report["window"]["parts"] > 1
    assert both.report["frames"]["mapped"] == len(both.path) == 8
    crops = np.array(sorted(both.meshes))
    left, right = crops[crops[:, 0] < 8], crops[crops[:, 0] >= 8]
    assert len(left) > 5
    # the same views, moved by whole crops, make the same crops and the same cells
    np.testing.assert_array_equal(left + np.array([16, 0, 0]), right)
    apart = 16 * Lattice().crop_voxels
    cells = both.grid.ternary
    first, second = cells[:, : cells.shape[1] - apart], cells[:, apart:]
    assert (first == 100).sum() > 100
    assert (first == second).mean() > 0.999


def test_window_for() -> None:
    lattice, config = Lattice(), Config()
    box = np.array([[-3.0, 0.1, -0.2], [3.0, 2.0, 2.5]])
    sized, middle = window_for(box, config, lattice)
    assert middle is not None
    side = np.array([sized.map.window_xy_crops] * 2 + [sized.map.window_z_crops]) * lattice.crop_m
    assert (middle - side / 2 <= box[0]).all()
    assert (middle + side / 2 >= box[1]).all()
    assert sized.map.window_xy_crops == 4
    assert sized.map.window_z_crops == 3
    # too large to be held
    sized, middle = window_for(box * [[100], [100]], config, lattice)
    assert middle is None
    cells = (sized.map.window_xy_crops * 32 + 16) ** 2 * (sized.map.window_z_crops * 32 + 16)
    assert 1e9 < cells * 75 < 3e9


def test_a_recording_without_frames_is_refused(
    folder: Path, config: Config, tmp_path: Path
) -> None:
    copy = tmp_path / "broken"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    for pose in copy.glob("*.pose.txt"):
        pose.write_text("nan " * 16)
    with pytest.raises(ValueError, match="no frame can be read"):
        map_recording(open_recording(copy), config)


def test_missing_weights_stop_before_any_work(folder: Path) -> None:
    config = with_values(Config(), {"model.weights": "/nowhere/crop.pt"})
    with pytest.raises(ValueError, match=r"weights /nowhere/crop\.pt: no such file"):
        map_recording(open_recording(folder), config)
