"""The volumes of random crops, as networks of any scene are trained, and places in them.

Numbers are those of upstream's loader (src/conv_onet/config.py, src/common.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from convonet_ros.datasets.archives import read_cloud

_WHOLE_SCENE = 100_000  # metres: the volume of a scene that a sliding window will cover
_LARGEST_RESO = 10_000  # a resolution beyond is not meant for a network: 1 stands for it


class CropVolumes:
    """How crops are drawn: sizes in voxels and metres, from a configuration."""

    def __init__(self, config: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        encoder = (config.get("model") or {}).get("encoder_kwargs") or {}
        sliding = (config.get("generation") or {}).get("sliding_window", False)
        try:
            planes = encoder["plane_type"]
            field = 2 ** (int(encoder["unet3d_kwargs"]["num_levels"]) + 2)
            if "unet" in encoder:
                self.depth = int(encoder["unet_kwargs"]["depth"])
            else:
                self.depth = int(encoder["unet3d_kwargs"]["num_levels"])
            self.unit = float(data["unit_size"])
            self.query_size = data["query_vol_size"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "config: expected data.unit_size, data.query_vol_size and model.encoder_kwargs "
                "with plane_type and unet3d_kwargs.num_levels (and unet_kwargs.depth with unet), "
                f"which pointcloud_crop needs, got none for {error}"
            ) from error
        if self.unit <= 0 or self.query_size <= 0:
            raise ValueError(
                "data.unit_size, data.query_vol_size: expected positive numbers, "
                f"got {self.unit} and {self.query_size}"
            )
        self.planes = [planes] if isinstance(planes, str) else list(planes)
        self.reso = _for_unet(self.query_size + field - 1, self.depth)
        whole = _WHOLE_SCENE if sliding else 1 + data["padding"]
        total = _for_unet(int(whole / self.unit + field - 1), self.depth)
        self.total = self._around(np.zeros(3, np.float32), total * self.unit, whole)
        self.total["reso"] = 1 if total > _LARGEST_RESO else total

    def draw(self, cloud: Path, split: str, rng: np.random.RandomState) -> dict[str, Any]:
        """The volumes of a crop around a random place of the cloud, or those of the scene."""
        if split != "train":
            return dict(self.total)
        points, _ = read_cloud(cloud)
        centre = np.array([rng.uniform(axis.min(), axis.max()) for axis in points.T])
        sizes = self.reso * self.unit, self.query_size * self.unit
        return {**self._around(centre.astype(np.float32), *sizes), "reso": self.reso}

    def _around(self, centre: np.ndarray, inputs_m: float, queries_m: float) -> dict[str, Any]:
        return {
            "input_vol": np.stack([centre - inputs_m / 2, centre + inputs_m / 2]),
            "query_vol": np.stack([centre - queries_m / 2, centre + queries_m / 2]),
            "plane_type": self.planes,
        }


def _for_unet(reso: int, depth: int) -> int:
    """The resolution, made larger until a U-Net of that depth can halve it down."""
    base = 2 ** (depth - 1)
    return -(-reso // base) * base


def within(points: np.ndarray, volume: np.ndarray) -> np.ndarray:
    """(N, 3) -> (N,) bool: between the low and the high corner, both included."""
    return np.all((points >= volume[0]) & (points <= volume[1]), axis=1)


def normalized(points: np.ndarray, volume: np.ndarray, name: str) -> np.ndarray:
    """(N, 3) -> (N, 2) for a plane, (N, 3) for the grid: coordinates of which the volume is 0-1."""
    axes = {"xz": [0, 2], "xy": [0, 1], "yz": [1, 2]}.get(name, [0, 1, 2])
    relative: np.ndarray = (points - volume[0]) / (volume[1] - volume[0])
    return relative[:, axes].astype(points.dtype)


def cells(relative: np.ndarray, reso: int, outside: np.ndarray) -> np.ndarray:
    """(N, 2 or 3) -> (1, N) int64: cells, the first coordinate fastest; reso ** dim outside."""
    beyond = reso ** relative.shape[1]
    steps = reso ** np.arange(relative.shape[1])
    found = np.minimum(np.floor(relative * reso).astype(np.int64) @ steps, beyond)
    found[outside] = beyond
    return found[None]
