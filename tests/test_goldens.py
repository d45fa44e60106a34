"""Networks give what upstream's code gave, recorded in the shared goldens."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import (
    Golden,
    assert_close,
    assert_statistics,
    network_of,
    recorded_calls,
    recording,
)
from ruled import described
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from convonet_ros.model import zoo
from convonet_ros.model.encoder import voxel_centres
from convonet_ros.model.features import (
    AXES,
    cell_index,
    unit_coordinates,
)
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.training.tasks import collate

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


# ---- what is recorded ---------------------------------------------------------------------------


def keys_of(folder: Path) -> dict[str, Any]:
    path = folder / "keys.json"
    if not path.is_file():
        pytest.skip(f"no recording at {path}")
    return json.loads(path.read_text())


def encoded(network: OccupancyNetwork, golden: Golden) -> dict[str, Tensor]:
    inputs = torch.from_numpy(golden["inputs"])
    if "fps_start" in golden:
        first = torch.from_numpy(golden["fps_start"])
        points, features = network.encoder(inputs, (first[0], first[1]))
        return {"points": points, "point_features": features}
    return network.encode(inputs)


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
