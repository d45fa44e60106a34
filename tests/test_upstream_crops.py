"""Upstream's crop networks on the boxes of the map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ruled import ruled_weights, small
from torch import Tensor

from convonet_ros.config import ModelConfig
from convonet_ros.geometry import Lattice
from convonet_ros.mapping.engine import Engine
from convonet_ros.model import zoo
from convonet_ros.model.crops import UpstreamCrops
from convonet_ros.model.features import (
    Box,
    BoxContent,
)


def crop_config(query: int) -> dict[str, Any]:
    unet3d = {"num_levels": 2, "f_maps": 8, "in_channels": 8, "out_channels": 8}
    return {
        "data": {"unit_size": 0.05, "query_vol_size": query, "input_type": "pointcloud_crop"},
        "model": {
            "encoder": "pointnet_crop_local_pool",
            "decoder": "simple_local_crop",
            "c_dim": 8,
            "local_coord": True,
            "decoder_kwargs": {"hidden_size": 8},
            "encoder_kwargs": {
                "hidden_dim": 8, "plane_type": ["grid"], "unet3d": True, "unet3d_kwargs": unet3d,
            },
        },
    }  # fmt: skip


@torch.no_grad()
def test_map_computes_what_the_network_does_on_its_lattice() -> None:
    network = zoo.from_upstream(crop_config(16))
    weights = ruled_weights(network)
    weights["decoder.fc_out.weight"] *= 0.02  # small logits, for half precision
    zoo.load_weights(network, weights)
    crops = UpstreamCrops(network.eval())
    n, unit, sub = crops.crop_voxels + 2 * crops.halo_voxels, crops.voxel_m, Lattice.SUB
    assert (crops.crop_voxels, n, unit) == (16, 32, 0.05)

    draw = torch.Generator().manual_seed(0)
    voxels = torch.cartesian_prod(torch.arange(n), torch.arange(n), torch.tensor([15, 16]))
    within = 0.1 + 0.8 * torch.rand(len(voxels), 3, generator=draw)
    points = voxels + within  # in voxels
    unseen = torch.zeros(sub * n, sub * n, sub * n, dtype=torch.int8)
    box = BoxContent(points, torch.zeros_like(points), torch.ones(len(points)), unseen)

    # The same box in the world, in metres, on the lattice of the map.
    low = np.array([-37, 12, 5]) * unit
    world = Box(low, low + n * unit, n, unit)

    def metres(places: Tensor) -> Tensor:
        return torch.from_numpy(low + places.double().numpy() * unit)[None]

    features = network.encode(metres(points).float(), world)
    side = crops.crop_voxels * sub
    fine_places = torch.cartesian_prod(*[torch.arange(side)] * 3)
    halo = crops.halo_voxels
    at_fine = network.decode(features, metres((fine_places + 0.5) / sub + halo), world)[0]
    at_voxel = network.decode(features, metres((fine_places // sub) + 0.5 + halo), world)[0]
    middle = float(at_voxel[(fine_places[:, 2] // sub + halo - 15).abs() <= 1].median())
    config = ModelConfig(
        precision="float32", device="cpu", threshold=1 / (1 + np.exp(-middle)), completion_m=0.25
    )
    got = Engine(crops, config).infer([box])[0].float()
    assert got.shape == (side, side, side)
    got = got.flatten()

    known = ~got.isnan()
    reached = (fine_places[:, 2] // sub + halo >= 10) & (fine_places[:, 2] // sub + halo <= 21)
    assert torch.equal(known, reached)  # 5 voxels beyond the sheet
    # A voxel was evaluated finely where its sub-voxels differ.
    parts = got.view(-1, sub, side // sub, sub, side // sub, sub)
    spread_ = parts.amax((1, 3, 5), keepdim=True) - parts.amin((1, 3, 5), keepdim=True)
    fine = (spread_ > 0).expand_as(parts).flatten() & known
    assert fine.sum() > 1000
    assert (known & ~fine).sum() > 1000
    assert got[known].abs().max() < 2
    assert at_fine[fine].std() > 0.01
    torch.testing.assert_close(got[fine], at_fine[fine].float(), rtol=0, atol=1e-3)
    coarse = known & ~fine
    torch.testing.assert_close(got[coarse], at_voxel[coarse].float(), rtol=0, atol=1e-3)


def test_crop_beside_the_middle_of_its_box_is_refused() -> None:
    network = zoo.from_upstream(crop_config(15))
    with pytest.raises(ValueError, match=r"query_vol_size: expected a crop in the middle .*got 15"):
        UpstreamCrops(network)


def test_map_refuses_networks_of_the_unit_cube(tmp_path: Path) -> None:
    path = tmp_path / "cube.pt"
    zoo.save(path, small(["grid"]), {})
    with pytest.raises(ValueError, match=r"cube\.pt: expected a fully convolutional network"):
        zoo.load_crops(path)
    crops, _ = _saved_crops(tmp_path)
    assert (crops.voxel_m, crops.crop_voxels, crops.halo_voxels) == (0.05, 16, 8)


def _saved_crops(folder: Path) -> tuple[Any, dict[str, Any]]:
    path = folder / "crop.pt"
    zoo.save(path, zoo.from_upstream(crop_config(16)), {})
    return zoo.load_crops(path)
