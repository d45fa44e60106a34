"""Small published networks with weights by a rule, as upstream's code was given them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convonet_ros.model import zoo
from convonet_ros.model.network import OccupancyNetwork


def ruled_weights(network: nn.Module) -> dict[str, Tensor]:
    """Weights by the rule of the goldens' README."""
    weights = {}
    for key, old in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.zeros_like(old)
            continue
        rs = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
        x = rs.standard_normal(size=tuple(old.shape))
        if x.ndim >= 2:
            x = x * np.sqrt((0.8 if x.ndim == 2 else 2.0) / np.prod(x.shape[1:]))
        elif key.endswith("running_var"):
            x = 1 + 0.1 * np.abs(x)
        elif key.endswith("weight"):
            x = 1 + 0.1 * x
        else:
            x = 0.1 * x
        weights[key] = torch.from_numpy(x.astype(np.float32))
    return weights


def described(network: nn.Module) -> list[list[Any]]:
    return [
        [key, list(value.shape), str(value.dtype).removeprefix("torch.")]
        for key, value in network.state_dict().items()
    ]


def config_of(kinds: list[str], **model: Any) -> dict[str, Any]:
    """A small network of the unit cube."""
    return {
        "data": {"padding": 0.1},
        "model": {
            "encoder": "pointnet_local_pool",
            "decoder": "simple_local",
            "c_dim": 8,
            "decoder_kwargs": {"hidden_size": 8},
            "encoder_kwargs": {
                "hidden_dim": 8,
                "plane_type": kinds,
                "plane_resolution": 16,
                "grid_resolution": 8,
                "unet": True,
                "unet_kwargs": {"depth": 3, "start_filts": 4, "merge_mode": "concat"},
                "unet3d": True,
                "unet3d_kwargs": {
                    "num_levels": 2, "f_maps": 8, "in_channels": 8, "out_channels": 8,
                },
            },
            **model,
        },
    }  # fmt: skip


def small(kinds: Sequence[str] = ("xz", "xy", "yz", "grid")) -> OccupancyNetwork:
    network = zoo.from_upstream(config_of(list(kinds)))
    zoo.load_weights(network, ruled_weights(network))
    return network.eval()
