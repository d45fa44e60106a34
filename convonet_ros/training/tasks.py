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

from convonet_ros.datasets.samples import (
    Sample,
    blind,
    read_sample,
    symmetric,
    views_of_samples,
)
from convonet_ros.datasets.shapes import EmptyCropError, Item, Shapes
from convonet_ros.geometry import Lattice
from convonet_ros.model.crops import CropNetwork, CropSpec, UnitBoxes
from convonet_ros.model.encoder import LocalPoolPointnet, LocalVoxelEncoder
from convonet_ros.model.features import batch_boxes
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.model.zoo import from_upstream

_BLIND = 0.06  # share of samples that are clouds without sensors
_EASY_VIEWS = 10  # the curriculum begins with crops of so many
EASY_SHARE = 0.2  # of all steps, the curriculum of a training from scratch
_POINTS = 8192  # of a box, for networks of the unit cube
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

    def share(self, batch: Any, rank: int, world: int) -> Any:
        """What one of several processes takes of a batch, a batch itself."""


class RoomCrops:
    """A network of the map on samples of `convonet rooms`, see `datasets.samples`.

    network: the crop network, or one of the unit cube, whose cube is then the box of a crop.
    easy_steps: of the curriculum: it begins with crops that many views saw and takes up those of
    fewer views one after another (Bengio et al., 2009).
    """

    network: CropNetwork | OccupancyNetwork

    def __init__(
        self, data: str, validation: str, network: CropNetwork | OccupancyNetwork, batch: int,
        seed: int, easy_steps: int,
    ) -> None:  # fmt: skip
        """Raises ValueError for folders without samples and networks that the map cannot use."""
        if isinstance(network, OccupancyNetwork):
            spec = CropSpec()
            network.config["map"] = {
                "voxel_m": spec.voxel_m, "crop_voxels": spec.crop_voxels,
                "halo_voxels": spec.halo_voxels,
            }  # fmt: skip
            self.lattice = Lattice(**network.config["map"])
        else:
            spec = network.spec
            self.lattice = Lattice(spec.voxel_m, spec.crop_voxels, spec.halo_voxels)
        self.network = network
        rooms = sorted(Path(data).glob("room-*.npz"))
        held_out = sorted(Path(validation).glob("room-*.npz"))
        if not rooms or not held_out:
            raise ValueError(
                f"training data: expected room-*.npz in {data} and {validation}, "
                f"got {len(rooms)} and {len(held_out)}; make them with 'convonet rooms'"
            )
        views = [views_of_samples(path) for path in rooms]
        self.samples = [
            (path, i) for path, v in zip(rooms, views, strict=True) for i in range(len(v))
        ]
        self.views = np.concatenate(views)
        self.batch, self.seed, self.easy_steps = batch, seed, easy_steps
        self.about = {"rooms": len(rooms), "samples": len(self.samples)}
        found = [
            read_sample(path, i, self.lattice)
            for path in held_out
            for i in range(len(views_of_samples(path)))
        ]
        self.validation = [found[k : k + batch] for k in range(0, len(found), batch)]

    def batches(self, step: int) -> Iterator[list[Sample]]:
        """Samples in a shuffled order per epoch, of which the curriculum leaves out some.

        A batch depends on the seed and its number alone.
        """
        while True:
            rng = np.random.default_rng([self.seed, step])
            wanted = np.flatnonzero(self.views >= self.fewest_views(step))
            chosen = wanted[rng.integers(0, len(wanted), self.batch)]
            picked = [self.samples[i] for i in chosen.tolist()]
            batch = [symmetric(read_sample(path, i, self.lattice), rng) for path, i in picked]
            yield [blind(s) if rng.random() < _BLIND else s for s in batch]
            step += 1

    def fewest_views(self, step: int) -> int:
        """The views that a crop has at least at a step."""
        most = min(_EASY_VIEWS, int(self.views.max()))
        return max(1, round(most * (1 - step / max(1, self.easy_steps))))

    def share(self, batch: list[Sample], rank: int, world: int) -> list[Sample]:
        """What one of several processes takes of a batch."""
        return batch[rank::world]

    def loss(self, network: nn.Module, batch: list[Sample]) -> tuple[Tensor, Tensor, Tensor]:
        """See `Task.loss`; in bfloat16."""
        device = next(network.parameters()).device
        boxes = [sample.box for sample in batch]
        queries = torch.stack([sample.queries for sample in batch]).to(device)  # B Q 3
        truth = torch.stack([sample.occupied for sample in batch]).to(device).flatten()
        with torch.autocast(device.type, torch.bfloat16):
            if isinstance(network, CropNetwork):
                content = batch_boxes(boxes)
                content = type(content)(
                    *(getattr(content, k).to(device) for k in content.__slots__)
                )
                grid = network.encode(content)  # B C n n n
                parts = [network.decode(grid[i], own) for i, own in enumerate(queries)]
                logits = torch.cat(parts).float()
            else:
                assert isinstance(network, OccupancyNetwork)
                points = torch.stack([_drawn_points(box.points) for box in boxes]).to(device)
                cube = UnitBoxes.cube(self.lattice.box_voxels)
                logits = network(cube(queries), cube(points)).flatten().float()
        return binary_cross_entropy_with_logits(logits, truth.float()), logits, truth


def _drawn_points(points: Tensor) -> Tensor:
    """(P, 3) points to (`_POINTS`, 3) of them, evenly and the same each time."""
    return points[torch.linspace(0, len(points) - 1, _POINTS).round().long()]


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

    def share(self, batch: list[Item], rank: int, world: int) -> list[Item]:
        """What one of several processes takes of a batch."""
        return batch[rank::world]

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
