"""Folders in upstream's format: the same items as upstream's loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convonet_ros.datasets.generated import ShapeKind, shape_solids
from convonet_ros.datasets.shapes import EmptyCropError, Shapes, read_cloud, read_voxels
from convonet_ros.datasets.world.solids import occupied

BOTH: tuple[ShapeKind, ...] = ("objects", "rooms")
CROP_MODEL = {"encoder_kwargs": {"plane_type": ["grid", "xz"], "unet3d_kwargs": {"num_levels": 3}}}


def config(input_type: str, kind: ShapeKind = "objects", **data: Any) -> dict[str, Any]:
    """A configuration as upstream merges it."""
    files: dict[str, Any] = {"multi_files": None}
    if kind == "rooms":
        files = {
            "multi_files": 2,
            "points_file": "points_iou",
            "points_iou_file": "points_iou",
            "pointcloud_file": "pointcloud",
            "voxels_file": None,
        }
    crop = {"unit_size": 0.02, "query_vol_size": 12, "padding": 0.1}
    sizes = {"pointcloud_n": 500, "pointcloud_noise": 0.005, "points_subsample": 200}
    section = {"classes": [kind], "input_type": input_type, **files, **sizes, **crop, **data}
    return {"data": section, "model": CROP_MODEL, "generation": {"sliding_window": False}}


def draw(folder: Path, settings: dict[str, Any], split: str = "train", seed: int = 0) -> Any:
    shapes = Shapes(folder, settings, split)
    return shapes.item(0, np.random.RandomState(seed), split)


# ---- the same as upstream -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["data_pointcloud_train", "data_crop_train"])
def test_items_are_those_of_upstream(goldens: Path, tmp_path: Path, name: str) -> None:
    path = goldens / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"no recording at {path}")
    with np.load(path, allow_pickle=False) as file:
        golden = {key: file[key] for key in file.files if not key.startswith("sd/")}
    settings = json.loads(str(golden["config"]))
    category = settings["data"]["classes"][0]
    for stem in {key.split("/")[1] for key in golden if key.startswith("raw/")}:
        target = tmp_path / category / "model" / stem[:-3] / f"{stem}.npz"
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f"raw/{stem}/"
        arrays = {k[len(prefix) :]: v for k, v in golden.items() if k.startswith(prefix)}
        np.savez(target, **arrays)
    (tmp_path / category / "train.lst").write_text("model\n")

    rng = np.random.RandomState(int(golden["np_random_seed"]))
    mode = str(golden["mode"])
    item = Shapes(tmp_path, settings, "train").item(0, rng, mode)

    compared = set()
    for key, expected in golden.items():
        where, *keys = key.split("/")
        if where not in ("item", "vol"):
            continue
        got = item if where == "item" else item["volume"]
        for part in keys:
            got = got[part]
        compared.add(keys[0])
        got = np.asarray(got)
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype, key
        if expected.dtype.kind == "f":
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-7, err_msg=key)
        else:
            np.testing.assert_array_equal(got, expected, err_msg=key)
    assert set(item) - {"volume"} <= compared


# ---- the input types ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
def test_point_clouds_and_queries_fit_the_shape(shapes_folder: Path, kind: ShapeKind) -> None:
    item = draw(shapes_folder, config("pointcloud", kind))
    assert set(item) == {"points", "points.occ", "inputs", "inputs.normals"}
    assert item["points"].shape == (200, 3)
    assert item["inputs"].shape == item["inputs.normals"].shape == (500, 3)
    assert all(array.dtype == np.float32 for array in item.values())
    solids = shape_solids(kind, 0 if kind == "rooms" else 1)
    assert (occupied(solids, item["points"]) == item["points.occ"]).mean() > 0.98  # noise of 1e-4
    out = item["inputs"] + 0.03 * item["inputs.normals"]
    assert occupied(solids, out).mean() < 0.4
    again = draw(shapes_folder, config("pointcloud", kind))
    other = draw(shapes_folder, config("pointcloud", kind), seed=1)
    np.testing.assert_array_equal(item["inputs"], again["inputs"])
    assert not np.array_equal(item["inputs"], other["inputs"])


def test_validation_gets_all_query_points_and_voxels(shapes_folder: Path) -> None:
    item = draw(shapes_folder, config("pointcloud"), split="test")
    assert item["points_iou"].shape == (100_000, 3)
    assert item["points_iou.occ"].shape == (100_000,)
    assert item["voxels"].shape == (32, 32, 32)
    rooms = draw(shapes_folder, config("pointcloud", "rooms"), split="test")
    assert rooms["points_iou"].shape == (40_000, 3)
    assert "voxels" not in rooms


def test_queries_of_both_kinds(shapes_folder: Path) -> None:
    item = draw(shapes_folder, config("pointcloud", points_subsample=[30, 20]))
    np.testing.assert_array_equal(item["points.occ"], np.repeat([0, 1], [30, 20]))
    assert 0.0 < item["points.volume"] < 0.5


def test_partial_clouds_lack_one_side(shapes_folder: Path) -> None:
    settings = config("partial_pointcloud", pointcloud_n=20_000, pointcloud_noise=0.0)
    whole, _ = read_cloud(shapes_folder / "objects" / "000001" / "pointcloud.npz")
    extent = np.ptp(whole.astype(float), axis=0)
    for seed in range(4):
        part = (
            np.ptp(draw(shapes_folder, settings, seed=seed)["inputs"].astype(float), axis=0)
            / extent
        )
        assert (part > 0.68).all()
        assert (part < 0.999).sum() >= 1


def test_crops_are_indexed_in_their_input_volume(shapes_folder: Path) -> None:
    item = draw(shapes_folder, config("pointcloud_crop", "rooms", pointcloud_n=8000))
    volume = item["volume"]
    (low, high), reso = volume["input_vol"], volume["reso"]
    assert reso == 44  # 12 + 2 ** (3 + 2) - 1, then a multiple of 4
    np.testing.assert_allclose(high - low, 44 * 0.02, atol=1e-6)
    np.testing.assert_allclose(volume["query_vol"].mean(axis=0), (low + high) / 2, atol=1e-6)
    assert item["pointcloud_crop"] is True

    outside, inputs = item["inputs.mask"], item["inputs"]
    assert 0 < outside.sum() < len(outside)
    assert not inputs[outside].any()
    assert ((inputs >= low) & (inputs <= high))[~outside].all()
    cell = np.floor((inputs - low) / (high - low) * np.float32(reso)).astype(int)
    expected = np.where(outside, reso**3, cell @ [1, reso, reso**2])
    np.testing.assert_array_equal(item["inputs.ind"]["grid"], expected[None])
    expected = np.where(outside, reso**2, cell[:, [0, 2]] @ [1, reso])
    np.testing.assert_array_equal(item["inputs.ind"]["xz"], expected[None])

    relative = (item["points"] - low) / (high - low)
    np.testing.assert_allclose(item["points.normalized"]["grid"], relative, atol=1e-6)
    np.testing.assert_allclose(item["points.normalized"]["xz"], relative[:, [0, 2]], atol=1e-6)
    assert (np.abs(relative - 0.5) <= 6 / 44 + 1e-6).all()


@pytest.mark.parametrize(("sliding", "reso"), [(False, 88), (True, 1)])
def test_crops_of_a_test_split_are_the_scene(shapes_folder: Path, sliding: bool, reso: int) -> None:
    settings = config("pointcloud_crop", "rooms")
    settings["generation"]["sliding_window"] = sliding
    item = draw(shapes_folder, settings, split="test")
    assert item["volume"]["reso"] == reso
    assert not item["inputs.mask"].any()
    assert len(item["points_iou"]) > 39_000  # some noise ends outside of the padding
    if not sliding:
        np.testing.assert_allclose(item["volume"]["input_vol"], [[-0.88] * 3, [0.88] * 3])


def test_voxels_are_inputs_with_x_first(shapes_folder: Path) -> None:
    item = draw(shapes_folder, config("voxels"), split="test")
    np.testing.assert_array_equal(item["inputs"], item["voxels"])
    assert item["inputs"].dtype == np.float32
    assert set(np.unique(item["inputs"])) == {0.0, 1.0}
    solids = shape_solids("objects", 1)
    axis = (np.arange(32) + 0.5) / 32 - 0.5
    centres = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    solid = occupied(solids, centres).reshape(32, 32, 32)
    assert item["inputs"][solid].all()
    far = np.zeros_like(solid)  # no voxel is filled that has no neighbour in the shape
    points, _ = read_cloud(shapes_folder / "objects" / "000001" / "pointcloud.npz")
    near = np.clip(np.floor((points.astype(float) + 0.5) * 32), 0, 31).astype(int)
    for step in np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 3):
        far[tuple(np.clip(near + step, 0, 31).T)] = True
    assert not item["inputs"][~solid & ~far].any()


def test_binvox_is_stored_x_z_y_with_the_cube_in_its_header(shapes_folder: Path) -> None:
    path = shapes_folder / "objects" / "000002" / "model.binvox"
    header, raw = path.read_bytes().split(b"data\n", 1)
    lines = dict(line.split(b" ", 1) for line in header.splitlines())
    assert lines[b"dim"].split() == [b"32"] * 3
    np.testing.assert_allclose([float(x) for x in lines[b"translate"].split()], -0.5)
    assert float(lines[b"scale"]) == pytest.approx(1.0)
    runs = np.frombuffer(raw, np.uint8)
    flat = np.repeat(runs[::2], runs[1::2])
    np.testing.assert_array_equal(
        read_voxels(path), flat.reshape(32, 32, 32).transpose(0, 2, 1).astype(np.float32)
    )


def test_a_scan_alone_in_a_category_without_a_name(tmp_path: Path) -> None:
    (tmp_path / "flat").mkdir()
    points = np.random.default_rng(0).uniform(-3, 3, (1000, 3)).astype(np.float32)
    np.savez(tmp_path / "flat" / "pointcloud.npz", points=points, normals=0 * points)
    (tmp_path / "test.lst").write_text("flat")
    none = {"points_file": None, "points_iou_file": None, "voxels_file": None}
    settings = config("pointcloud_crop", classes=[""], pointcloud_noise=0.0, **none)
    settings["generation"]["sliding_window"] = True
    shapes = Shapes(tmp_path, settings, "test")
    assert shapes.models == [("", "flat")]
    item = shapes.item(0, np.random.RandomState(0), "test")
    assert {tuple(point) for point in item["inputs"]} <= {tuple(point) for point in points}
    assert "points" not in item


def test_all_categories_and_their_metadata(shapes_folder: Path, tmp_path: Path) -> None:
    settings = config("pointcloud", classes=None)
    shapes = Shapes(shapes_folder, settings, "train")
    assert shapes.models == [("objects", "000001"), ("objects", "000002"), ("rooms", "000000")]
    assert len(shapes) == 3
    assert shapes.metadata["rooms"] == {"id": "rooms", "name": "n/a", "idx": 1}
    (tmp_path / "02691156").mkdir()
    (tmp_path / "02691156" / "train.lst").write_text("a\r\nb\n\n")
    (tmp_path / "metadata.yaml").write_text('"02691156": {id: "02691156", name: "airplane"}\n')
    shapes = Shapes(tmp_path, settings, "train")
    assert shapes.models == [("02691156", "a"), ("02691156", "b")]
    assert shapes.metadata["02691156"]["name"] == "airplane"


# ---- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "split", "message"),
    [
        (config("img"), "train", "input_type"),
        (config("pointcloud"), "val", "val.lst"),
        (config("pointcloud"), "../objects/train", "split"),
        (config("pointcloud", classes=["sofas"]), "train", "sofas"),
        (config("pointcloud", classes=["../objects"]), "train", "classes"),
        (config("pointcloud", classes="objects"), "train", "list of categories"),
        (config("pointcloud", points_file="/etc/points.npz"), "train", "points_file"),
        (config("pointcloud", multi_files=0), "train", "multi_files"),
        (config("pointcloud_crop", unit_size=None), "train", "unit_size"),
        ({"data": {"input_type": "pointcloud_crop", "classes": []}}, "train", "plane_type"),
    ],
)
def test_what_cannot_be_used_is_named(
    shapes_folder: Path, settings: dict[str, Any], split: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Shapes(shapes_folder, settings, split)


@pytest.mark.parametrize("line", ["../x", "/etc", "a/../../b", "..\\x"])
def test_lists_cannot_lead_out_of_the_folder(tmp_path: Path, line: str) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "train.lst").write_text(f"good\n{line}\n")
    with pytest.raises(ValueError, match="inside of the data set"):
        Shapes(tmp_path, config("pointcloud", classes=["c"]), "train")


def damaged_files() -> dict[str, Any]:
    three = np.zeros((10, 3), np.float32)
    return {
        "missing": None,
        "not an archive": b"hello",
        "cut off": b"PK\x03\x04" + bytes(100),
        "no normals": {"points": three},
        "pickled": {"points": np.array([{}], dtype=object), "normals": three},
        "flat": {"points": three[:, :2], "normals": three[:, :2]},
        "empty": {"points": three[:0], "normals": three[:0]},
        "not finite": {"points": three * np.nan, "normals": three},
        "other normals": {"points": three, "normals": three[:5]},
    }


@pytest.mark.parametrize("case", damaged_files())
def test_a_damaged_cloud_is_named(tmp_path: Path, case: str) -> None:
    (tmp_path / "c" / "m").mkdir(parents=True)
    (tmp_path / "c" / "train.lst").write_text("m\n")
    path = tmp_path / "c" / "m" / "pointcloud.npz"
    content = damaged_files()[case]
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.savez(path, **content)
    with pytest.raises(ValueError, match=r"m/pointcloud\.npz: expected"):
        draw(tmp_path, config("pointcloud", classes=["c"], points_file=None))


@pytest.mark.parametrize("content", [b"", b"hello", b"#binvox 1\ndim 4 4 4\n", None])
def test_damaged_voxels_are_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.binvox"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.binvox: expected"):
        read_voxels(path)


def test_wrong_occupancies_and_crops_without_queries_are_named(tmp_path: Path) -> None:
    (tmp_path / "c" / "m").mkdir(parents=True)
    (tmp_path / "c" / "train.lst").write_text("m\n")
    points = np.full((10, 3), 0.1, np.float32)
    np.savez(tmp_path / "c" / "m" / "pointcloud.npz", points=points, normals=points)
    queries = tmp_path / "c" / "m" / "points.npz"
    np.savez(queries, points=points + 5, occupancies=np.ones(10, bool))
    with pytest.raises(ValueError, match=r"m/points\.npz: .*points_unpackbits"):
        draw(tmp_path, config("pointcloud", classes=["c"]))
    plain = {"classes": ["c"], "points_unpackbits": False}
    assert draw(tmp_path, config("pointcloud", **plain))["points.occ"].all()
    with pytest.raises(EmptyCropError, match="draw again"):
        draw(tmp_path, config("pointcloud_crop", **plain))
