"""The published networks: ways of computing the same, checkpoints and configurations."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ruled import config_of, described, ruled_weights, small
from torch import Tensor

from convonet_ros.model import slabs, zoo
from convonet_ros.model.decoder import sample
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.model.unet import UNet3D

SHARE = 1e-4  # of the largest magnitude


def points_of(*shape: int, seed: int = 0, reach: float = 0.6) -> Tensor:
    draws = torch.rand(*shape, 3, generator=torch.Generator().manual_seed(seed))
    return (2 * draws - 1) * reach


def assert_same(got: Tensor, wanted: Tensor, share: float = SHARE) -> None:
    assert wanted.abs().max() > 0.01
    torch.testing.assert_close(got, wanted, rtol=0, atol=share * float(wanted.abs().max()))


def test_network_can_be_exported() -> None:
    network = small()
    queries, inputs = points_of(2, 50), points_of(2, 90, seed=1)
    exported = torch.export.export(network, (queries, inputs)).module()
    other = points_of(2, 50, seed=2), points_of(2, 90, seed=3)
    for given in ((queries, inputs), other):
        with torch.no_grad():
            assert_same(exported(*given), network(*given), 1e-5)


@pytest.mark.parametrize("content", ["random", "zero"])
@pytest.mark.parametrize(("side", "batch"), [(48, 1), (64, 1), (16, 2)])
@torch.no_grad()
def test_slabs_give_what_the_layers_give(
    monkeypatch: pytest.MonkeyPatch, side: int, batch: int, content: str
) -> None:
    torch.manual_seed(0)
    net = UNet3D(8, 8, f_maps=8, num_levels=3).eval()
    net.load_state_dict(ruled_weights(net))
    x = torch.zeros(batch, 8, side, side, side)
    if content == "random":
        x = torch.randn(x.shape) * (torch.rand(batch, 1, side, side, side) < 0.1)
    assert slabs.fits(net, x) == (side >= 48)
    monkeypatch.setattr(slabs, "_MIN_VOXELS", 0)
    before = x.clone()
    assert slabs.fits(net, x)
    got = net(x)
    torch.testing.assert_close(x, before, rtol=0, atol=0)  # not written over
    assert_same(got, net._forward(x))


@torch.no_grad()
def test_slabs_of_every_thickness_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    net = UNet3D(8, 8, f_maps=8, num_levels=3).eval()
    net.load_state_dict(ruled_weights(net))
    x = torch.randn(2, 8, 16, 20, 24, generator=torch.Generator().manual_seed(0))
    wanted = net._forward(x)
    for size in (1, 30_000, 1 << 30):
        monkeypatch.setattr(slabs, "_SLAB_BYTES", size)
        assert_same(slabs.infer(net, x), wanted)


@torch.no_grad()
def test_batch_is_encoded_as_its_members() -> None:
    network = small()
    inputs, queries = points_of(3, 120), points_of(3, 40, seed=1)
    together = network.encode(inputs)
    logits = network.decode(together, queries)
    for k in range(3):
        alone = network.encode(inputs[k : k + 1])
        assert set(alone) == set(together) == {"grid", "xz", "xy", "yz"}
        for kind, features in alone.items():
            assert_same(together[kind][k : k + 1], features, 1e-5)
        assert_same(logits[k : k + 1], network.decode(alone, queries[k : k + 1]), 1e-5)


@pytest.mark.parametrize("side", [(5, 5, 5), (2, 3, 7), (1, 4, 4)])
def test_fast_interpolation_is_that_of_torch(side: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(2, 6, *side, generator=draw)
    places = torch.rand(2, 300, 3, generator=draw) * 1.6 - 0.3  # some outside
    places[:, :8] = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 3)
    assert ((places < 0) | (places > 1)).any(dim=2).sum() > 100
    slow = sample(features.requires_grad_(), places)
    assert slow.requires_grad
    with torch.no_grad():
        fast = sample(features, places)
    assert fast.shape == (2, 300, 6)
    assert_same(fast, slow.detach(), 1e-5)


# ---- checkpoints and configurations -------------------------------------------------------------


@pytest.mark.parametrize("new_format", [True, False])
def test_upstreams_checkpoints_load(tmp_path: Path, new_format: bool) -> None:
    network = small(["grid"])
    optimiser = torch.optim.Adam(network.parameters())
    network(points_of(1, 10), points_of(1, 30)).sum().backward()
    optimiser.step()
    path = tmp_path / "model.pt"
    torch.save(
        {
            "model": network.state_dict(), "optimizer": optimiser.state_dict(),
            "epoch_it": 3, "it": 70, "loss_val_best": np.float64(0.25),
        },
        path, _use_new_zipfile_serialization=new_format,
    )  # fmt: skip
    loaded, about = zoo.load(path, config_of(["grid"]))
    assert isinstance(loaded, OccupancyNetwork)
    assert not loaded.training
    assert about["epoch_it"] == 3
    assert about["it"] == 70
    assert float(about["loss_val_best"]) == 0.25
    assert "optimizer" not in about
    for key, value in network.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[key], value, rtol=0, atol=0)


def test_our_checkpoints_come_back(tmp_path: Path) -> None:
    network, path = small(), tmp_path / "ours.pt"
    zoo.save(path, network, {"steps": 7, "seed": [1, 2]})
    loaded, about = zoo.load(path)
    assert isinstance(loaded, OccupancyNetwork)
    assert about == {"steps": 7, "seed": [1, 2]}
    assert loaded.config == network.config
    assert described(loaded) == described(network)
    given = points_of(1, 30), points_of(1, 60, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(loaded(*given), network(*given), rtol=0, atol=0)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ours.pt"]


def test_mismatch_lists_the_keys() -> None:
    network = small(["grid"])
    weights = dict(network.state_dict())
    before = {key: value.clone() for key, value in weights.items()}
    del weights["decoder.fc_out.bias"]
    weights["decoder.extra"] = torch.zeros(1)
    weights["encoder.fc_c.weight"] = torch.zeros(3, 8)
    with pytest.raises(ValueError, match="expected those of this network") as caught:
        zoo.from_upstream(config_of(["grid"]), weights)
    said = str(caught.value)
    assert "missing decoder.fc_out.bias" in said
    assert "unexpected decoder.extra" in said
    assert "encoder.fc_c.weight (8, 8) but got (3, 8)" in said
    weights["encoder.fc_c.bias"] = torch.ones(8)
    with pytest.raises(ValueError, match="missing"):
        zoo.load_weights(network, weights)
    for key, value in network.state_dict().items():  # none was loaded
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def written(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_configurations_inherit(tmp_path: Path) -> None:
    written(tmp_path, "configs/default.yaml", "method: conv_onet\ndata: {dim: 3, padding: 0.1}\n")
    written(
        tmp_path, "configs/b.yaml",
        "inherit_from: configs/default.yaml\ndata: {classes: [x, y], padding: 0.2}\ntest: {a: 1}\n",
    )  # fmt: skip
    path = written(
        tmp_path, "configs/pointcloud/a.yaml",
        "inherit_from: configs/b.yaml\ndata: {classes: [z]}\ntest: null\nmodel: {c_dim: 8}\n",
    )  # fmt: skip
    assert zoo.read_config(path) == {
        "method": "conv_onet",
        "data": {"dim": 3, "padding": 0.2, "classes": ["z"]},
        "test": None,
        "model": {"c_dim": 8},
    }


@pytest.mark.parametrize("parent", ["../b.yaml", "configs/../b.yaml", "ABSOLUTE", "configs/c.yaml"])
def test_configurations_inherit_from_below_only(tmp_path: Path, parent: str) -> None:
    there = written(tmp_path, "b.yaml", "method: conv_onet\n")
    parent = str(there) if parent == "ABSOLUTE" else parent
    path = written(tmp_path, "configs/a.yaml", f"inherit_from: {parent}\n")
    with pytest.raises(ValueError, match=r"a\.yaml: inherits from .*under none of the folders"):
        zoo.read_config(path)


def test_configurations_that_inherit_from_themselves_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "configs/a.yaml", "inherit_from: configs/b.yaml\n")
    written(tmp_path, "configs/b.yaml", "inherit_from: configs/a.yaml\n")
    with pytest.raises(ValueError, match="inherits from itself"):
        zoo.read_config(path)


# ---- the map ------------------------------------------------------------------------------------
