"""What can be trained: the crop network on rooms as a robot sees them, and any published network
on folders of shapes. A task owns the network, the data and the loss; the `Trainer` does the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from convonet_ros.datasets.samples import Sample, read_room, symmetric
from convonet_ros.datasets.shapes import EmptyCropError, Item, Shapes
from convonet_ros.geometry import Lattice
from convonet_ros.model.crops import CropNetwork, CropSpec
from convonet_ros.model.encoder import LocalPoolPointnet, LocalVoxelEncoder
from convonet_ros.model.features import batch_boxes
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.model.zoo import from_upstream

_POOL = 12  # rooms that are mixed at a time
_VALIDATION_SHAPES = 48


class Task(Protocol):
    """A network and how it is trained.

    network: fresh. about: what a checkpoint should say about the data. validation: fixed batches.
    """

    network: CropNetwork | OccupancyNetwork
    about: dict[str, Any]
    validation: list[Any]

    def batches(self, step: int) -> Iterator[Any]:
        """Batches from a step on; batch k is the same whether resumed or not."""

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Mean cross-entropy of a batch, and the (N,) logits and truth of all its queries."""


class RoomCrops:
    """The crop network of the map on samples of `convonet rooms`, see `datasets.samples`."""

    network: CropNetwork | OccupancyNetwork

    def __init__(self, data: str, validation: str, spec: CropSpec, batch: int, seed: int) -> None:
        self.network = CropNetwork(spec)
        self.lattice = Lattice(spec.voxel_m, spec.crop_voxels, spec.halo_voxels)
        self.rooms = sorted(Path(data).glob("room-*.npz"))
        held_out = sorted(Path(validation).glob("room-*.npz"))
        if not self.rooms or not held_out:
            raise ValueError(
                f"training data: expected room-*.npz in {data} and {validation}, "
                f"got {len(self.rooms)} and {len(held_out)}; make them with 'convonet rooms'"
            )
        self.batch, self.seed = batch, seed
        self.about = {"rooms": len(self.rooms)}
        samples = [s for path in held_out for s in read_room(path, self.lattice)]
        self.validation = [samples[k : k + batch] for k in range(0, len(samples), batch)]

    def batches(self, step: int) -> Iterator[list[Sample]]:
        """Rooms are taken in a shuffled order per epoch; `_POOL` rooms are mixed at a time so that
        a batch does not come from one room.
        """
        epoch, skip, ready = 0, step, 0
        while True:
            if epoch and not ready:
                raise ValueError(
                    f"training data: expected at least {self.batch} crops in "
                    f"{_POOL} rooms, got fewer; make more rooms or smaller batches"
                )
            rng = np.random.default_rng([self.seed, epoch])
            order = rng.permutation(len(self.rooms))
            for start in range(0, len(order), _POOL):
                rooms = order[start : start + _POOL]
                pool = [s for r in rooms for s in read_room(self.rooms[r], self.lattice)]
                picked = rng.permutation(len(pool))
                size = self.batch
                for k in range(0, len(pool) - size + 1, size):
                    ready += 1
                    if skip:
                        skip -= 1
                        continue
                    turns = np.random.default_rng([self.seed, epoch, start, k])
                    yield [symmetric(pool[i], turns) for i in picked[k : k + size]]
            epoch += 1

    def loss(self, network: nn.Module, batch: list[Sample]) -> tuple[Tensor, Tensor, Tensor]:
        """See `Task.loss`; in bfloat16."""
        assert isinstance(network, CropNetwork)
        device = next(network.parameters()).device
        boxes = batch_boxes([s.box for s in batch])
        boxes = type(boxes)(*(getattr(boxes, k).to(device) for k in boxes.__slots__))
        with torch.autocast(device.type, torch.bfloat16):
            grid = network.encode(boxes)  # B C n n n
            logits = torch.cat(
                [network.decode(grid[i], s.queries.to(device)) for i, s in enumerate(batch)]
            ).float()
        truth = torch.cat([s.occupied for s in batch]).to(device)
        return binary_cross_entropy_with_logits(logits, truth.float()), logits, truth


class ShapeFolder:
    """A network of upstream's family on a folder of shapes in upstream's format.

    config: as of `zoo.from_upstream`; its section `data` says what an item is. The folder's splits
    "train" and "val" are used.
    """

    network: CropNetwork | OccupancyNetwork

    def __init__(self, data: str, config: dict[str, Any], batch: int, seed: int) -> None:
        config = _within_reach(config, Path(data))
        self.network = from_upstream(config)
        for module in self.network.modules():
            if isinstance(module, LocalPoolPointnet | LocalVoxelEncoder):
                module.unet_dtype = torch.bfloat16
        self.shapes = Shapes(Path(data), config, "train")
        held_out = Shapes(Path(data), config, "val")
        held_out.split = "train"  # crops as in training: a whole scene need not fit into memory
        if not len(self.shapes) or not len(held_out):
            raise ValueError(
                f"training data {data}: expected models in train.lst and val.lst, got "
                f"{len(self.shapes)} and {len(held_out)}; make them with 'convonet shapes'"
            )
        self.batch, self.seed = batch, seed
        self.about = {"shapes": len(self.shapes)}
        count = min(len(held_out), _VALIDATION_SHAPES)
        items = [_drawn(held_out, k, np.random.RandomState(k)) for k in range(count)]
        self.validation = [items[k : k + batch] for k in range(0, count, batch)]

    def batches(self, step: int) -> Iterator[list[Item]]:
        """Every epoch has all shapes in an order of its own; what is drawn of one is new each time.

        The last batch of an epoch is filled up from the next one.
        """
        count = len(self.shapes)
        while True:
            first = step * self.batch
            rng = np.random.RandomState([self.seed, step])
            places = range(first, first + self.batch)
            orders = {
                epoch: np.random.RandomState([self.seed, epoch, 1]).permutation(count)
                for epoch in {place // count for place in places}
            }
            chosen = [int(orders[place // count][place % count]) for place in places]
            yield [_drawn(self.shapes, index, rng) for index in chosen]
            step += 1

    def loss(self, network: nn.Module, batch: list[Item]) -> tuple[Tensor, Tensor, Tensor]:
        """See `Task.loss`; the U-Nets compute in bfloat16."""
        assert isinstance(network, OccupancyNetwork)
        device = next(network.parameters()).device
        inputs, queries, truth = collate(batch, device)
        logits = network.decode(network.encode(inputs), queries)
        loss = binary_cross_entropy_with_logits(logits, truth)
        return loss, logits.flatten(), truth.flatten() > 0.5


def _within_reach(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The configuration with data.multi_files not above what the folder's models have."""
    section = dict(config.get("data", {}))
    if section.get("multi_files"):
        name = section.get("pointcloud_file", "pointcloud")
        models = (path.parent for path in folder.glob(f"*/*/{name}/{name}_00.npz"))
        first = next(models, None)
        if first is not None:
            found = len(list(first.glob(f"{name}_*.npz")))
            section["multi_files"] = min(section["multi_files"], found)
    return {**config, "data": section}


def _drawn(shapes: Shapes, index: int, rng: np.random.RandomState) -> Item:
    """An item; a crop that holds no query points is drawn again."""
    for _ in range(100):
        try:
            return shapes.item(index, rng, "train")
        except EmptyCropError:
            continue
    raise ValueError(f"training data: {shapes.model_folder(index)}: 100 crops hold no query points")


def collate(items: list[Item], device: torch.device) -> tuple[Any, Any, Tensor]:
    """Items to what `encode` and `decode` take, and the (B, M) truth, 0 or 1."""

    def stacked(key: str, kind: str | None = None) -> Tensor:
        arrays = [item[key] if kind is None else item[key][kind] for item in items]
        return torch.from_numpy(np.stack(arrays)).to(device)

    truth = stacked("points.occ")
    if "pointcloud_crop" not in items[0]:
        return stacked("inputs"), stacked("points"), truth
    kinds = list(items[0]["inputs.ind"])
    inputs = {"points": stacked("inputs"), "index": {k: stacked("inputs.ind", k) for k in kinds}}
    normalised = {k: stacked("points.normalized", k) for k in kinds}
    return inputs, {"p": stacked("points"), "p_n": normalised}, truth
