"""Folders in upstream's format: the same items as upstream's loader, and shapes made from seeds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convonet_ros.datasets.furniture import box, cylinder, ellipsoid
from convonet_ros.datasets.generated import (
    ShapeKind,
    occupied,
    sample_surface,
    shape_mesh,
    shape_solids,
    write_shapes,
)
from convonet_ros.datasets.shapes import EmptyCropError, Shapes, read_cloud, read_voxels

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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two objects and a room on disk."""
    path = tmp_path_factory.mktemp("shapes")
    assert len(list(write_shapes(path, "objects", range(1, 3), "train", workers=2))) == 2
    assert len(list(write_shapes(path, "rooms", range(1), "train", workers=1))) == 1
    for kind in BOTH:
        (path / kind / "test.lst").write_text((path / kind / "train.lst").read_text())
    return path


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
def test_point_clouds_and_queries_fit_the_shape(folder: Path, kind: ShapeKind) -> None:
    item = draw(folder, config("pointcloud", kind))
    assert set(item) == {"points", "points.occ", "inputs", "inputs.normals"}
    assert item["points"].shape == (200, 3)
    assert item["inputs"].shape == item["inputs.normals"].shape == (500, 3)
    assert all(array.dtype == np.float32 for array in item.values())
    solids = shape_solids(kind, 0 if kind == "rooms" else 1)
    assert (occupied(solids, item["points"]) == item["points.occ"]).mean() > 0.98  # noise of 1e-4
    out = item["inputs"] + 0.03 * item["inputs.normals"]
    assert occupied(solids, out).mean() < 0.4
    again = draw(folder, config("pointcloud", kind))
    other = draw(folder, config("pointcloud", kind), seed=1)
    np.testing.assert_array_equal(item["inputs"], again["inputs"])
    assert not np.array_equal(item["inputs"], other["inputs"])


def test_validation_gets_all_query_points_and_voxels(folder: Path) -> None:
    item = draw(folder, config("pointcloud"), split="test")
    assert item["points_iou"].shape == (100_000, 3)
    assert item["points_iou.occ"].shape == (100_000,)
    assert item["voxels"].shape == (32, 32, 32)
    rooms = draw(folder, config("pointcloud", "rooms"), split="test")
    assert rooms["points_iou"].shape == (40_000, 3)
    assert "voxels" not in rooms


def test_queries_of_both_kinds(folder: Path) -> None:
    item = draw(folder, config("pointcloud", points_subsample=[30, 20]))
    np.testing.assert_array_equal(item["points.occ"], np.repeat([0, 1], [30, 20]))
    assert 0.0 < item["points.volume"] < 0.5


def test_partial_clouds_lack_one_side(folder: Path) -> None:
    settings = config("partial_pointcloud", pointcloud_n=20_000, pointcloud_noise=0.0)
    whole, _ = read_cloud(folder / "objects" / "000001" / "pointcloud.npz")
    extent = np.ptp(whole.astype(float), axis=0)
    for seed in range(4):
        part = np.ptp(draw(folder, settings, seed=seed)["inputs"].astype(float), axis=0) / extent
        assert (part > 0.68).all()
        assert (part < 0.999).sum() >= 1


def test_crops_are_indexed_in_their_input_volume(folder: Path) -> None:
    item = draw(folder, config("pointcloud_crop", "rooms", pointcloud_n=8000))
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
def test_crops_of_a_test_split_are_the_scene(folder: Path, sliding: bool, reso: int) -> None:
    settings = config("pointcloud_crop", "rooms")
    settings["generation"]["sliding_window"] = sliding
    item = draw(folder, settings, split="test")
    assert item["volume"]["reso"] == reso
    assert not item["inputs.mask"].any()
    assert len(item["points_iou"]) > 39_000  # some noise ends outside of the padding
    if not sliding:
        np.testing.assert_allclose(item["volume"]["input_vol"], [[-0.88] * 3, [0.88] * 3])


def test_voxels_are_inputs_with_x_first(folder: Path) -> None:
    item = draw(folder, config("voxels"), split="test")
    np.testing.assert_array_equal(item["inputs"], item["voxels"])
    assert item["inputs"].dtype == np.float32
    assert set(np.unique(item["inputs"])) == {0.0, 1.0}
    solids = shape_solids("objects", 1)
    axis = (np.arange(32) + 0.5) / 32 - 0.5
    centres = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    solid = occupied(solids, centres).reshape(32, 32, 32)
    assert item["inputs"][solid].all()
    far = np.zeros_like(solid)  # no voxel is filled that has no neighbour in the shape
    points, _ = read_cloud(folder / "objects" / "000001" / "pointcloud.npz")
    near = np.clip(np.floor((points.astype(float) + 0.5) * 32), 0, 31).astype(int)
    for step in np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 3):
        far[tuple(np.clip(near + step, 0, 31).T)] = True
    assert not item["inputs"][~solid & ~far].any()


def test_binvox_is_stored_x_z_y_with_the_cube_in_its_header(folder: Path) -> None:
    path = folder / "objects" / "000002" / "model.binvox"
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


def test_all_categories_and_their_metadata(folder: Path, tmp_path: Path) -> None:
    settings = config("pointcloud", classes=None)
    shapes = Shapes(folder, settings, "train")
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
    folder: Path, settings: dict[str, Any], split: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Shapes(folder, settings, split)


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


# ---- shapes from seeds --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BOTH)
def test_shapes_fill_the_unit_cube(kind: ShapeKind) -> None:
    for seed in range(12 if kind == "objects" else 3):
        vertices, triangles = shape_mesh(kind, seed)
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        assert triangles.max() == len(vertices) - 1
        # A round solid's mesh lies up to 0.0006 within it.
        assert (high - low).max() == pytest.approx(1.0, abs=2e-3)
        assert (np.abs(vertices) <= 0.5 + 1e-9).all()
        if kind == "objects":
            np.testing.assert_allclose(low + high, 0.0, atol=2e-3)
        else:
            np.testing.assert_allclose([*(low + high)[[0, 2]], low[1] + 0.5], 0.0, atol=1e-9)


@pytest.mark.parametrize(("kind", "seed"), [*(("objects", s) for s in range(10)), ("rooms", 1)])
def test_normals_point_from_the_inside_to_the_outside(kind: ShapeKind, seed: int) -> None:
    solids = shape_solids(kind, seed)
    points, normals = sample_surface(solids, 5000, np.random.default_rng(0))
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0)
    assert occupied(solids, points - 2e-6 * normals).all()
    assert not occupied(solids, points + 1e-6 * normals).any()
    assert occupied(solids, points - 1e-4 * normals).mean() > 0.995
    assert occupied(solids, points + 1e-4 * normals).mean() < 0.02


@pytest.mark.parametrize(("kind", "seed"), [*(("objects", s) for s in range(6)), ("rooms", 0)])
def test_surface_points_cover_a_closed_surface(kind: ShapeKind, seed: int) -> None:
    """Divergence theorem: x n_x, y n_y and z n_z have the same mean, the normals the mean 0."""
    solids = shape_solids(kind, seed)
    points, normals = sample_surface(solids, 200_000, np.random.default_rng(1))
    flux = (points * normals).mean(axis=0)
    np.testing.assert_allclose(flux, flux.mean(), rtol=0.05, atol=0.002)
    np.testing.assert_allclose(normals.mean(axis=0), 0.0, atol=0.01)


def test_surface_points_are_uniform_by_area() -> None:
    """The flux of (x, y, z) through a surface is three times the volume it encloses."""
    step = [box((-0.5, -0.2, -0.2), (0.1, 0.2, 0.2)), box((-0.1, -0.2, -0.1), (0.5, 0.2, 0.1))]
    egg = [ellipsoid((0, 0, 0), (0.5, 0.2, 0.1), 0.7)]
    p = 1.6075  # Thomsen's approximation of an ellipsoid's area
    pairs = [(0.5 * 0.2) ** p, (0.5 * 0.1) ** p, (0.2 * 0.1) ** p]
    egg_area = 4 * np.pi * (sum(pairs) / 3) ** (1 / p)
    pole = [cylinder(0, 0, -0.5, 0.5, 0.1)]
    for solids, volume, area in (
        (step, 0.128, 1.76),  # two faces coincide, others end inside of the other box
        (egg, 4 / 3 * np.pi * 0.01, egg_area),
        (pole, 0.01 * np.pi, 0.22 * np.pi),
    ):
        points, normals = sample_surface(solids, 100_000, np.random.default_rng(2))
        flux = np.einsum("ij,ij->i", points, normals).mean()
        assert flux == pytest.approx(3 * volume / area, rel=0.015)
    points, _ = sample_surface(step, 100_000, np.random.default_rng(2))
    side = np.abs(points[:, 1]) > 0.2 - 1e-9
    assert side.mean() == pytest.approx(0.64 / 1.76, rel=0.02)
    both = side & (np.abs(points[:, 0]) < 0.1) & (np.abs(points[:, 2]) < 0.1)
    assert both.mean() == pytest.approx(0.08 / 1.76, rel=0.05)


def test_rooms_stand_free_on_a_floor() -> None:
    solids = shape_solids("rooms", 0)
    low = -np.array([0.5, 0.5, 0.5])
    beyond = np.random.default_rng(0).uniform(-0.55, 0.55, (20_000, 3))
    beyond = beyond[(np.abs(beyond) > 0.5).any(axis=1)]
    assert not occupied(solids, beyond).any()
    floor = np.stack([np.linspace(-0.4, 0.4, 50), np.full(50, low[1] + 0.01), np.zeros(50)], axis=1)
    assert occupied(solids, floor).all()
    assert not any(solid.name.startswith("ceiling_lamp") for solid in solids)


def test_same_seed_same_files_and_lists_grow_in_order(folder: Path, tmp_path: Path) -> None:
    written = list(write_shapes(tmp_path, "objects", range(2, 3), "train", workers=1))
    assert [path.name for path in written] == ["000002"]
    for name in ("pointcloud.npz", "points.npz", "model.binvox"):
        one, two = written[0] / name, folder / "objects" / "000002" / name
        if name.endswith("npz"):
            with np.load(one) as a, np.load(two) as b:
                assert a.files == b.files
                for key in a.files:
                    np.testing.assert_array_equal(a[key], b[key])
        else:
            assert one.read_bytes() == two.read_bytes()
    time = (written[0] / "points.npz").stat().st_mtime_ns
    written = list(write_shapes(tmp_path, "objects", range(1, 3), "train", workers=1))
    assert sorted(path.name for path in written) == ["000001", "000002"]
    assert (tmp_path / "objects" / "train.lst").read_text() == "000002\n000001\n"
    assert (tmp_path / "objects" / "000002" / "points.npz").stat().st_mtime_ns == time
    assert not list(tmp_path.rglob("*.partial"))


def test_stored_queries_have_their_exact_occupancy(folder: Path) -> None:
    with np.load(folder / "rooms" / "000000" / "points_iou" / "points_iou_01.npz") as arrays:
        points, packed = arrays["points"], arrays["occupancies"]
    assert points.dtype == np.float16
    inside = np.zeros(len(points), bool)
    for solid in shape_solids("rooms", 0):
        inside |= solid.contains(points.astype(np.float64))
    np.testing.assert_array_equal(np.unpackbits(packed, count=len(points)).astype(bool), inside)


@pytest.mark.parametrize(
    ("kind", "split", "workers"), [("cars", "train", 1), ("objects", "../x", 1), ("rooms", "x", 0)]
)
def test_wrong_requests_are_refused(tmp_path: Path, kind: Any, split: str, workers: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        next(write_shapes(tmp_path, kind, range(1), split, workers))
