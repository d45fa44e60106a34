"""Networks and scenes give what upstream's code gave, recorded in the shared goldens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruled import described, ruled_weights
from scipy.spatial import cKDTree
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from convonet_ros.mapping.meshing import closed_surface
from convonet_ros.model import zoo
from convonet_ros.model.encoder import voxel_centres
from convonet_ros.model.features import (
    AXES,
    cell_index,
    cells_of_box,
    unit_coordinates,
)
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.offline import tiles
from convonet_ros.offline.mise import Mise
from convonet_ros.training.tasks import collate

Golden = dict[str, np.ndarray]
SHARE = 1e-4  # of the largest magnitude
CONFIGURATIONS = (
    "pointcloud/demo_syn_room", "pointcloud/room_1plane", "pointcloud/room_3plane",
    "pointcloud/room_combine", "pointcloud/room_grid32", "pointcloud/room_grid64",
    "pointcloud/room_pointconv", "pointcloud/shapenet_1plane", "pointcloud/shapenet_3plane",
    "pointcloud/shapenet_3plane_partial", "pointcloud/shapenet_grid32",
    "pointcloud/shapenet_pointconv", "pointcloud_crop/demo_matterport",
    "pointcloud_crop/room_grid64", "voxel/shapenet_1plane", "voxel/shapenet_3plane",
    "voxel/shapenet_grid32", "onet/pointcloud", "onet/voxels",
)  # fmt: skip
NETWORKS = (
    "onet_pc_resnet_cbn", "pc_room_combine", "pc_shapenet_1plane", "pc_shapenet_grid32",
    "pc_x_no_unet", "pc_x_pointconv_tiny", "real_pc_room_3plane", "real_pc_room_grid32",
    "real_vox_shapenet_grid32", "vox_shapenet_3plane",
)  # fmt: skip
TINY_POINTCONV = {
    "abstractions": (
        (64, 0.2, 16, (8, 8, 16)), (16, 0.4, 8, (16, 16, 32)), (None, 0, 0, (32, 64, 128)),
    ),
    "propagations": ((32, 32), (32, 16), (16, 16)),
}  # fmt: skip


# ---- what is recorded ---------------------------------------------------------------------------


def recording(folder: Path, name: str) -> Golden:
    path = folder / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"no recording at {path}")
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def keys_of(folder: Path) -> dict[str, Any]:
    path = folder / "keys.json"
    if not path.is_file():
        pytest.skip(f"no recording at {path}")
    return json.loads(path.read_text())


def network_of(golden: Golden) -> OccupancyNetwork:
    """The recorded network with the recorded weights, in evaluation mode."""
    config = json.loads(str(golden["config"]))
    model = config.get("model", config)
    if "fps_start" in golden:
        model["encoder_kwargs"] = TINY_POINTCONV
    stored = {k[3:]: torch.from_numpy(v) for k, v in golden.items() if k.startswith("sd/")}
    network = zoo.from_upstream(config)
    zoo.load_weights(network, stored or ruled_weights(network))
    return network.eval()


def assert_close(got: Tensor | np.ndarray, wanted: np.ndarray, what: str) -> None:
    """The same shape, and values within `SHARE` of the largest wanted one."""
    array = got.detach().numpy() if isinstance(got, Tensor) else got
    assert array.shape == wanted.shape, what
    np.testing.assert_allclose(
        array, wanted, rtol=0, atol=SHARE * np.abs(wanted).max(), err_msg=what
    )


def assert_statistics(got: Tensor, wanted: np.ndarray, what: str) -> None:
    """Mean, standard deviation, least and largest, within `SHARE` of the largest magnitude."""
    values = got.double()
    found = [float(v) for v in (values.mean(), values.std(correction=0), *values.aminmax())]
    atol = SHARE * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=atol, err_msg=what)


def encoded(network: OccupancyNetwork, golden: Golden) -> dict[str, Tensor]:
    inputs = torch.from_numpy(golden["inputs"])
    if "fps_start" in golden:
        first = torch.from_numpy(golden["fps_start"])
        points, features = network.encoder(inputs, (first[0], first[1]))
        return {"points": points, "point_features": features}
    return network.encode(inputs)


@contextmanager
def recorded_calls(module: nn.Module | None) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """The inputs and the outputs of a module's calls."""
    ins: list[Tensor] = []
    outs: list[Tensor] = []
    if module is None:
        yield ins, outs
        return

    def keep(_: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        ins.append(given[0].detach().clone())
        outs.append(result.detach().clone())

    handle = module.register_forward_hook(keep)
    try:
        yield ins, outs
    finally:
        handle.remove()


def test_every_recording_is_tested(goldens: Path) -> None:
    sources = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    names = [path.stem for path in goldens.glob("*.npz")]
    assert names
    forgotten = [name for name in names if not re.search(rf"\b{re.escape(name)}\b", sources)]
    assert not forgotten
    assert "keys.json" in sources


# ---- keys, shapes and initialisation ------------------------------------------------------------


def configuration(name: str, recorded: dict[str, Any]) -> dict[str, Any]:
    model = {k: recorded[k] for k in ("encoder", "decoder", "c_dim", "encoder_kwargs")}
    model["decoder_kwargs"] = recorded["decoder_kwargs"]
    if not name.startswith("pointcloud_crop/"):
        return {"model": model}
    model["local_coord"] = True
    return {"model": model, "data": {"unit_size": 0.02, "query_vol_size": 25}}


def table_name(name: str) -> str:
    special = {
        "pointcloud_crop/room_grid64": "crop_room_grid64",
        "onet/pointcloud": "onet_shapenet",
        "onet/voxels": "onet_voxel_shapenet",
    }
    folder, stem = name.split("/")
    return special.get(name, f"voxel_{stem}" if folder == "voxel" else stem)


def test_all_configurations_are_listed(goldens: Path) -> None:
    assert sorted(keys_of(goldens)) == sorted(CONFIGURATIONS)
    ours = {table_name(name) for name in CONFIGURATIONS}
    # onet_room is onet_shapenet on other data; the demos are not in the table.
    assert set(zoo.VARIANTS) - ours == {"onet_room"}
    assert ours - set(zoo.VARIANTS) == {"demo_syn_room", "demo_matterport"}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_keys_and_initialisation_are_those_of_upstream(goldens: Path, name: str) -> None:
    recorded = keys_of(goldens)[name]
    torch.manual_seed(0)
    network = zoo.from_upstream(configuration(name, recorded))
    assert described(network) == recorded["state_dict"]
    for key, part in (("", network), ("_encoder", network.encoder), ("_decoder", network.decoder)):
        assert sum(p.numel() for p in part.parameters()) == recorded[f"n_params{key}"]
    weights = dict(network.named_parameters())
    compared = 0
    for key, wanted in recorded["init_seed0"].items():
        value = network.state_dict()[key].double()
        got = [float(value.sum()), float(value.abs().sum())]
        np.testing.assert_allclose(got[0], wanted[0], rtol=0, atol=1e-3, err_msg=key)
        np.testing.assert_allclose(got[1], wanted[1], rtol=1e-5, atol=1e-3, err_msg=key)
        compared += key in weights
    assert compared == len(weights)


@pytest.mark.parametrize("name", [n for n in CONFIGURATIONS if "/demo_" not in n])
def test_table_has_upstreams_networks(goldens: Path, name: str) -> None:
    assert described(zoo.build(table_name(name))) == keys_of(goldens)[name]["state_dict"]


# ---- networks -----------------------------------------------------------------------------------


def spread(name: str, ours: list[Tensor], kinds: list[str]) -> dict[str, Tensor]:
    assert len(ours) == len(kinds), name
    return dict(zip(kinds, ours, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_network_gives_upstreams_numbers(goldens: Path, name: str) -> None:
    golden = recording(goldens, name)
    network = network_of(golden)
    encoder: Any = network.encoder
    with (
        recorded_calls(getattr(encoder, "unet", None)) as planes,
        recorded_calls(getattr(encoder, "unet3d", None)) as grids,
        recorded_calls(getattr(encoder, "fc_c", None)) as points,
    ):
        features = encoded(network, golden)
    assert_close(
        network.decode(features, torch.from_numpy(golden["queries"])), golden["logits"], "logits"
    )

    before: dict[str, Tensor] = {}
    if any(key.startswith("pre/") for key in golden):
        flat = [kind for kind in features if kind != "grid"]
        before = spread(name, planes[0], flat)
        before |= spread(name, grids[0], ["grid"] if "grid" in features else [])
    compared = {"inputs", "queries", "logits"}
    for key, wanted in golden.items():
        what, _, kind = key.partition("/")
        if what == "fea":
            assert_close(features[kind], wanted, key)
        elif what == "pre":
            assert_close(before[kind], wanted, key)
        elif what.startswith("fea_sub"):
            step = int(what.removeprefix("fea_sub"))
            strided = slice(None, None, step)
            every = (slice(None), slice(None), *[strided] * len(AXES[kind]))
            assert_close(features[kind][every], wanted, key)
        elif what == "fea_stat":
            assert_statistics(features[kind], wanted, key)
        elif key == "point_features":
            assert_close(points[1][0].reshape(wanted.shape), wanted, key)
        elif key == "c":
            assert_close(features["c"], wanted, key)
        elif what in ("index", "pn", "qn"):
            given = torch.from_numpy(golden["queries" if what == "qn" else "inputs"])
            if network.takes_voxels and what != "qn":
                given = voxel_centres(given).expand(len(given), -1, -1)
            place = unit_coordinates(given, kind, network.padding)
            if what == "index":
                cells = cell_index(place, network.sides[kind])[:, None]
                np.testing.assert_array_equal(cells.numpy(), wanted, err_msg=key)
            else:
                np.testing.assert_allclose(place.numpy(), wanted, rtol=0, atol=1e-7, err_msg=key)
        else:
            continue
        compared.add(key)
    elsewhere = {
        "config", "versions", "occ", "loss", "grad_norm_sum_first", "weight_rule", "note",
        "fps_start", "logits_train_mode",
    }  # fmt: skip
    assert {key for key in golden if not key.startswith("sd/")} - compared <= elsewhere


@torch.no_grad()
def test_batch_statistics_in_training_are_upstreams(goldens: Path) -> None:
    golden = recording(goldens, "onet_pc_resnet_cbn")
    network = network_of(golden).train()
    logits = network(torch.from_numpy(golden["queries"]), torch.from_numpy(golden["inputs"]))
    assert_close(logits, golden["logits_train_mode"], "logits_train_mode")
    assert np.abs(golden["logits_train_mode"] - golden["logits"]).max() > 0.01


def assert_gradients(network: nn.Module, wanted: dict[str, list[float]]) -> None:
    """Norm and first element of every gradient, within 1e-3 of the norm, and its sum, within 1e-3
    of its magnitudes' sum: processors round differently."""
    gradients = {
        key: torch.zeros_like(value) if value.grad is None else value.grad
        for key, value in network.named_parameters()
    }
    assert set(wanted) == set(gradients)
    for key, (norm, total, first) in wanted.items():
        grad = gradients[key].double().flatten()
        atol = 1e-3 * norm
        assert float(grad.norm()) == pytest.approx(norm, rel=0, abs=atol), key
        assert float(grad[0]) == pytest.approx(first, rel=0, abs=atol), key
        magnitudes = float(grad.abs().sum())
        assert float(grad.sum()) == pytest.approx(total, rel=0, abs=1e-3 * magnitudes), key


@pytest.mark.parametrize("name", [n for n in NETWORKS if n.startswith(("pc_", "vox_"))])
def test_loss_and_gradients_are_upstreams(goldens: Path, name: str) -> None:
    golden = recording(goldens, name)
    network = network_of(golden)  # recorded in evaluation mode
    logits = network.decode(encoded(network, golden), torch.from_numpy(golden["queries"]))
    truth = torch.from_numpy(golden["occ"])
    loss = binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(-1).mean()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(golden["loss"]), rel=1e-4)
    assert_gradients(network, json.loads(str(golden["grad_norm_sum_first"])))


@pytest.mark.parametrize("name", ["data_pointcloud_train", "data_crop_train"])
def test_training_items_give_upstreams_loss_and_gradients(goldens: Path, name: str) -> None:
    golden = recording(goldens, name)
    item: dict[str, Any] = {}
    for key, value in golden.items():
        where, *keys = key.split("/")
        if where == "item" and len(keys) == 1:
            item[keys[0]] = value
        elif where == "item":
            item.setdefault(keys[0], {})[keys[1]] = value
    network = network_of(golden)
    inputs, queries, truth = collate([item])
    logits = network.decode(network.encode(inputs), queries)
    loss = binary_cross_entropy_with_logits(logits, truth, reduction="none").sum(-1).mean()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(golden["train_loss_det_weight"]), rel=1e-4)
    assert_gradients(network, json.loads(str(golden["grad_norm_sum_first"])))


# ---- scenes -------------------------------------------------------------------------------------


def assert_mesh(
    grid: np.ndarray, level: float, a_side: float, golden: Golden, vertex_atol: float
) -> None:
    """The recorded vertices, one to one, and as many faces."""
    boxes = golden["query_vol"]
    low, high = boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)
    vertices, triangles = closed_surface(grid, level)
    vertices = vertices * (max(high - low) / a_side) + low
    wanted = golden["mesh/vertices"]
    assert vertices.shape == wanted.shape
    assert triangles.shape == golden["mesh/faces"].shape
    distance, place = cKDTree(wanted).query(vertices)
    assert distance.max() < vertex_atol
    assert len(np.unique(place)) == len(np.unique(wanted, axis=0))


def assert_tiling(network: OccupancyNetwork, golden: Golden) -> tiles.Tiling:
    points = torch.from_numpy(golden["points"])
    unit, query = float(golden["unit_size"]), int(golden["query_vol_size"])
    tiling = tiles.tiling(network, points, unit, query)
    assert tiling.counts.tolist() == golden["axis_n_crop"].tolist()
    assert len(tiling) == int(golden["n_crop"])
    assert tiling.layout.side == int(golden["reso"])
    assert tiling.crop_m == pytest.approx(float(golden["query_crop_size"]), rel=1e-15)
    assert tiling.layout.side * unit == pytest.approx(float(golden["input_crop_size"]), rel=1e-15)
    inside = []
    for index, (asked, seen) in enumerate(
        zip(golden["query_vol"], golden["input_vol"], strict=True)
    ):
        low, box = tiling.corner(index), tiling.box(index)
        np.testing.assert_allclose([low, low + tiling.crop_m], asked, rtol=0, atol=1e-12)
        np.testing.assert_allclose([box.low, box.high], seen, rtol=0, atol=1e-12)
        nowhere = box.side**3
        low32, high32 = (torch.from_numpy(side).float() for side in (box.low, box.high))
        near = points[((points >= low32) & (points < high32)).all(dim=1)]
        inside.append(len(near))
        assert (cells_of_box(near[None], box, "grid") < nowhere).all()
    assert inside == golden["n_points_in_input_vol"].tolist()
    assert np.flatnonzero(np.array(inside) == 0).tolist() == golden["empty_crops"].tolist()
    return tiling


def assert_features(outputs: list[Tensor], golden: Golden) -> None:
    wanted = [golden[f"crop{k}/fea_stat/grid"] for k in range(int(golden["n_crop"]))]
    assert len(outputs) == len(wanted)
    for index, (got, statistics) in enumerate(zip(outputs, wanted, strict=True)):
        assert_statistics(got, statistics, f"crop {index}")


def test_crops_are_upstreams(goldens: Path) -> None:
    golden = recording(goldens, "crop_l3_sincos")
    network = network_of(golden)
    encoder: Any = network.encoder
    tiling = assert_tiling(network, golden)
    shape = (16, 16, 16)
    lattice = np.indices(shape).reshape(3, -1).T * (tiling.crop_m / 16)
    for index in (0, 8):
        queries = tiling.corner(index) + lattice
        np.testing.assert_allclose(queries, golden[f"crop{index}/queries"], rtol=0, atol=1e-12)
        place = tiling.box(index).normalised(torch.from_numpy(queries)[None], "grid")[0]
        np.testing.assert_allclose(place.numpy(), golden[f"crop{index}/qn/grid"], rtol=0, atol=1e-7)
    scene = (golden["points"], float(golden["unit_size"]), int(golden["query_vol_size"]))
    with recorded_calls(encoder.unet3d) as calls:
        logits = tiles.upstream_crops(network, *scene, 16)
    assert_features(calls[1], golden)
    assert logits.dtype == np.float32
    assert_close(logits, golden["logits"], "logits")

    grid, _ = tiles.value_grid(network, *scene, 16, 0)
    assert_close(grid, golden["value_grid"], "value_grid")
    for index in range(len(tiling)):
        block = tuple(slice(16 * k, 16 * (k + 1)) for k in np.unravel_index(index, tiling.counts))
        np.testing.assert_allclose(grid[block], logits[index], rtol=0, atol=1e-4)
    level = threshold_of(golden)
    assert_mesh(golden["value_grid"], level, tiling.counts.max() * 16, golden, 1e-9)
    # From our own values: within a hundredth of a lattice step, for rounding moves the surface.
    assert_mesh(grid, level, tiling.counts.max() * 16, golden, 0.01 * tiling.crop_m / 16)


def threshold_of(golden: Golden) -> float:
    share = json.loads(str(golden["config"]))["test"]["threshold"]
    return float(np.log(share) - np.log(1 - share))


def test_refined_crops_are_upstreams(goldens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = recording(goldens, "crop_l3_mise")
    network = network_of(golden)
    encoder: Any = network.encoder
    tiling = assert_tiling(network, golden)
    generation = json.loads(str(golden["config"]))["generation"]
    resolution, steps = generation["resolution_0"], generation["upsampling_steps"]
    side = resolution * 2**steps
    level = threshold_of(golden)

    rounds: list[tuple[int, int]] = []
    started: list[Mise] = []
    query: Callable[[Mise], np.ndarray] = Mise.query

    def counted(octree: Mise) -> np.ndarray:
        if not any(octree is other for other in started):
            started.append(octree)
        points = query(octree)
        if len(points):
            rounds.append((len(started) - 1, len(points)))
        return points

    monkeypatch.setattr(Mise, "query", counted)
    scene = (golden["points"], float(golden["unit_size"]), int(golden["query_vol_size"]))
    with recorded_calls(encoder.unet3d) as calls:
        grid, _ = tiles.value_grid(network, *scene, resolution, steps, level)
    assert_features(calls[1], golden)
    assert rounds == [tuple(row) for row in golden["mise_rounds"].tolist()]
    assert_close(grid, golden["value_grid"], "value_grid")
    assert_mesh(golden["value_grid"], level, tiling.counts.max() * side, golden, 1e-9)
    # From our own values: within a hundredth of a lattice step, for rounding moves the surface.
    assert_mesh(grid, level, tiling.counts.max() * side, golden, 0.01 * tiling.crop_m / side)


# ---- ways of computing the same -----------------------------------------------------------------
