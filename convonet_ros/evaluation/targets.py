"""What networks are compared on: the models of a folder's split, and the same input for all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convonet_ros.datasets.generated import ShapeKind, shape_mesh
from convonet_ros.datasets.shapes import Shapes, read_cloud
from convonet_ros.model.network import OccupancyNetwork

Networks = Mapping[str, tuple[OccupancyNetwork, dict[str, Any]]]  # by name, as `zoo.load` gives

_LAYOUTS: tuple[dict[str, Any], ...] = (  # upstream's ShapeNet and its rooms
    {"pointcloud_file": "pointcloud.npz", "points_iou_file": "points.npz", "multi_files": None},
    {"pointcloud_file": "pointcloud", "points_iou_file": "points_iou", "multi_files": 1},
)
_SAME_BOX = 0.01  # of the cube: the truth of a seed is not the target if their boxes differ more


class Targets:
    """The models of a split: their truth, and the input that each network gets.

    names: (category, model). data: per network the data section that its input follows. Raises
    ValueError for a folder, a split and networks that cannot be used.
    """

    def __init__(self, networks: Networks, folder: Path, split: str, seed: int) -> None:
        if not networks:
            raise ValueError("networks: expected at least one, got none")
        for name, (network, _) in networks.items():
            if not isinstance(network, OccupancyNetwork):
                raise ValueError(
                    f"network {name}: expected one of the published family, "
                    f"got a {type(network).__name__}; see 'convonet models'"
                )
        if seed < 0:
            raise ValueError(f"seed: expected a number from 0, got {seed}")
        self.seed = seed
        truth: dict[str, Any] = {"points_file": None, "voxels_file": None, "input_type": None}
        truth["classes"] = _categories(folder, split)
        self._truth = Shapes(folder, {"data": truth}, split)
        self.names = self._truth.models
        if not self.names:
            raise ValueError(f"{folder}: expected models in the lists {split}.lst, got none")
        own = [network.config.get("data") or {} for network, _ in networks.values()]
        files = _files(self._truth.model_folder(0), own)
        truth["points_unpackbits"] = own[0].get("points_unpackbits", True)
        several = files["multi_files"]
        self._clouds = [
            _numbered(files["pointcloud_file"], several, k) for k in range(several or 1)
        ]
        truth["points_iou_file"] = _numbered(files["points_iou_file"], several)
        truth["multi_files"] = None  # the first one is named
        self._truth = Shapes(folder, {"data": truth}, split)
        self._inputs: dict[str, Shapes] = {}
        self._devices: dict[str, torch.device] = {}
        self.data: dict[str, dict[str, Any]] = {}
        for (name, (network, _)), section in zip(networks.items(), own, strict=True):
            data = {**section, **files, "classes": truth["classes"]}
            kind = data.get("input_type", "voxels" if network.takes_voxels else "pointcloud")
            # A crop network is given the whole scene: what would be cut out is the same.
            data["input_type"] = "pointcloud" if kind == "pointcloud_crop" else kind
            # No draws but those of the input: the same for all networks.
            data["points_file"] = data["points_iou_file"] = None
            if kind != "voxels":
                data["voxels_file"] = None
            self.data[name] = data
            self._inputs[name] = Shapes(folder, {"data": data}, split)
            self._devices[name] = next(network.parameters()).device

    def __len__(self) -> int:
        return len(self.names)

    def truth(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Points and normals (M, 3) of the surface; query points (Q, 3), occupied or not (Q,)."""
        folder = self._truth.model_folder(index)
        parts = [read_cloud(folder / name) for name in self._clouds]
        cloud, normals = (
            np.concatenate(part).astype(np.float32) for part in zip(*parts, strict=True)
        )
        item = self._truth.item(index, np.random.RandomState([self.seed, index]), "test")
        return cloud, normals, item["points_iou"], item["points_iou.occ"]

    def seed_of(self, index: int, cloud: np.ndarray) -> tuple[ShapeKind, int] | None:
        """Of a model of `datasets.generated`; None if the cloud (N, 3) is not that shape's."""
        kind, model = self.names[index]
        if kind not in ("objects", "rooms") or not (model.isascii() and model.isdigit()):
            return None
        found: tuple[ShapeKind, int] = kind, int(model)  # type: ignore[assignment]
        vertices, _ = shape_mesh(*found)
        boxes = [np.stack([points.min(axis=0), points.max(axis=0)]) for points in (vertices, cloud)]
        return found if np.abs(boxes[0] - boxes[1]).max() < _SAME_BOX else None

    def inputs(self, index: int, name: str) -> torch.Tensor:
        """(1, N, 3) points or (1, n, n, n) voxels for a network, on its device."""
        rng = np.random.RandomState([self.seed, index, 1])
        inputs = self._inputs[name].item(index, rng, "test")["inputs"]
        return torch.from_numpy(inputs)[None].to(self._devices[name])


def _categories(folder: Path, split: str) -> list[str]:
    """The categories that have a list of the split."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected a data set's folder, got none")
    if not split or set(split) & set("/\\\0"):
        raise ValueError(f"split: expected the name of a list, got {split!r}")
    found = sorted(path.parent.name for path in folder.glob("*/*.lst") if path.stem == split)
    if not found:
        there = sorted({path.stem for path in folder.glob("*/*.lst")})
        raise ValueError(
            f"{folder}: expected categories with {split}.lst, got none; "
            f"the lists there are of {', '.join(there) or 'nothing'}"
        )
    return found


def _files(model: Path, own: list[dict[str, Any]]) -> dict[str, Any]:
    """The names of a model's files: those of a configuration, where they are there, else as
    upstream's data sets have them; data.multi_files as many as there are.
    """
    for data in (*own, *_LAYOUTS):
        cloud, queries = data.get("pointcloud_file"), data.get("points_iou_file")
        if not isinstance(cloud, str) or not isinstance(queries, str):
            continue
        several = data.get("multi_files")
        if all((model / _numbered(name, several)).is_file() for name in (cloud, queries)):
            count = len(list((model / cloud).glob(f"{cloud}_[0-9][0-9].npz"))) if several else None
            return {"pointcloud_file": cloud, "points_iou_file": queries, "multi_files": count}
    raise ValueError(
        f"{model}: expected pointcloud.npz and points.npz, or pointcloud/pointcloud_00.npz and "
        "points_iou/points_iou_00.npz, got neither"
    )


def _numbered(name: str, several: int | None, number: int = 0) -> str:
    return f"{name}/{name}_{number:02d}.npz" if several else name
