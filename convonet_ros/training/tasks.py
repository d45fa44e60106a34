"""What can be trained: the crop network on rooms as a robot sees them, and any published network
on folders of shapes. A task owns the network, the data and the loss; the `Trainer` does the rest.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Protocol

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
from convonet_ros.mapping.engine import choose_precision
from convonet_ros.model.calibration import FAR
from convonet_ros.model.crops import CropNetwork, CropSpec, UnitBoxes
from convonet_ros.model.encoder import LocalPoolPointnet, LocalVoxelEncoder
from convonet_ros.model.features import BoxBatch, batch_boxes, steps_from
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

    def batch(self, number: int, rank: int = 0, world: int = 1) -> Any:
        """What one of several processes takes of a batch, which depends on its number alone:
        tensors in tuples and dictionaries."""

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Mean cross-entropy of a batch on the network's device, and the (N,) logits and truth of
        all its queries."""

    def steps(self, batch: Any) -> Tensor:
        """(N,) float32 voxels from a batch's queries to what was measured, up to one more than
        `calibration.FAR`."""


class CropBatch(NamedTuple):
    """B samples: what the network takes of their boxes, `BoxBatch` or (B, N, 3) points of each,
    (B, Q, 3) query points in voxels of the box and their (B, Q) bool truth."""

    inputs: tuple[Tensor, ...]
    queries: Tensor
    occupied: Tensor


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
            if network.takes_voxels:
                raise ValueError("model: expected one that takes points, got one that takes voxels")
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
        if not sum(map(len, views)):
            raise ValueError(f"training data: the scenes in {data} hold no samples; make more")
        self.samples = [
            (path, i) for path, v in zip(rooms, views, strict=True) for i in range(len(v))
        ]
        self.views = np.concatenate(views)
        self.batch_size, self.seed, self.easy_steps = batch, seed, easy_steps
        self.about = {"rooms": len(rooms), "samples": len(self.samples)}
        kept = [(path, i) for path in held_out for i in range(len(views_of_samples(path)))]
        if not kept:
            raise ValueError(f"training data: the scenes in {validation} hold no samples")
        self.validation: list[Any] = [
            self._collated([read_sample(path, i, self.lattice) for path, i in kept[k : k + batch]])
            for k in range(0, len(kept), batch)
        ]

    def batch(self, number: int, rank: int = 0, world: int = 1) -> CropBatch:
        """Random samples, of which the curriculum leaves out some, each in a random symmetry."""
        wanted = np.flatnonzero(self.views >= self.fewest_views(number))
        chance = np.random.default_rng([self.seed, number])
        chosen = wanted[chance.integers(0, len(wanted), self.batch_size)]
        samples = []
        for place in range(rank, self.batch_size, world):
            path, i = self.samples[int(chosen[place])]
            chance = np.random.default_rng([self.seed, number, place])
            sample = symmetric(read_sample(path, i, self.lattice), chance)
            samples.append(blind(sample) if chance.random() < _BLIND else sample)
        return self._collated(samples)

    def _collated(self, samples: list[Sample]) -> CropBatch:
        boxes = [sample.box for sample in samples]
        inputs: tuple[Tensor, ...]
        if isinstance(self.network, CropNetwork):
            content = batch_boxes(boxes)
            inputs = content.cell, content.features, content.visibility
        else:
            inputs = (torch.stack([_drawn_points(box.points) for box in boxes]),)
        return CropBatch(
            inputs,
            torch.stack([sample.queries for sample in samples]),
            torch.stack([sample.occupied for sample in samples]),
        )

    def fewest_views(self, step: int) -> int:
        """The views that a crop has at least at a step."""
        if step >= self.easy_steps:
            return 1
        most = min(_EASY_VIEWS, int(self.views.max()))
        return max(1, round(most * (1 - step / self.easy_steps)))

    def loss(self, network: nn.Module, batch: CropBatch) -> tuple[Tensor, Tensor, Tensor]:
        """See `Task.loss`; in bfloat16 where the device computes in it."""
        queries, truth = batch.queries, batch.occupied.flatten()
        device = queries.device
        low = choose_precision("auto", device, torch.bfloat16) == torch.bfloat16
        with torch.autocast(device.type, torch.bfloat16, enabled=low):
            if isinstance(network, CropNetwork):
                grid = network.encode(BoxBatch(*batch.inputs))  # B C n n n
                # The boxes one behind the other along x: no query lies in the first or last voxel.
                first = torch.arange(len(grid), device=device) * grid.shape[-1]
                places = queries + torch.stack([first, first * 0, first * 0], dim=1)[:, None]
                behind = grid.transpose(0, 1).flatten(1, 2)  # C (B n) n n
                logits = network.decode(behind, places.flatten(0, 1)).float()
            else:
                assert isinstance(network, OccupancyNetwork)
                cube = UnitBoxes.cube(self.lattice.box_voxels)
                logits = network(cube(queries), cube(batch.inputs[0])).flatten().float()
        return binary_cross_entropy_with_logits(logits, truth.float()), logits, truth

    def steps(self, batch: CropBatch) -> Tensor:
        """See `Task.steps`."""
        n = self.lattice.box_voxels
        if isinstance(self.network, CropNetwork):
            cell, _, visibility = batch.inputs
            filled = torch.zeros(len(visibility) * n**3, dtype=torch.bool)
            filled[cell] = True
            filled = filled.view(-1, n, n, n)
        else:
            filled = torch.zeros((len(batch.queries), n, n, n), dtype=torch.bool)
            for one, points in zip(filled, batch.inputs[0], strict=True):
                one[tuple(points.long().T)] = True
        box = torch.arange(len(filled))[:, None]
        x, y, z = batch.queries.long().unbind(2)
        return steps_from(filled, FAR)[box, x, y, z].flatten()


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
        self.shapes = Shapes(Path(data), config, "train")
        held_out = Shapes(Path(data), config, "val")
        held_out.split = "train"  # crops as in training: a whole scene need not fit into memory
        if not len(self.shapes) or not len(held_out):
            raise ValueError(
                f"training data {data}: expected models in train.lst and val.lst, got "
                f"{len(self.shapes)} and {len(held_out)}; make them with 'convonet shapes'"
            )
        self.batch_size, self.seed = batch, seed
        self.about = {"shapes": len(self.shapes)}
        count = min(len(held_out), _VALIDATION_SHAPES)
        items = [_drawn(held_out, k, np.random.RandomState(k)) for k in range(count)]
        self.validation: list[Any] = [collate(items[k : k + batch]) for k in range(0, count, batch)]

    def batch(self, number: int, rank: int = 0, world: int = 1) -> Any:
        """Every epoch has all shapes in an order of its own; what is drawn of one is new each time.

        The last batch of an epoch is filled up from the next one.
        """
        items = []
        for place in range(rank, self.batch_size, world):
            epoch, nth = divmod(number * self.batch_size + place, len(self.shapes))
            order = np.random.RandomState([self.seed, epoch, 1]).permutation(len(self.shapes))
            chance = np.random.RandomState([self.seed, number, place, 2])
            items.append(_drawn(self.shapes, int(order[nth]), chance))
        return collate(items)

    def loss(self, network: nn.Module, batch: Any) -> tuple[Tensor, Tensor, Tensor]:
        """See `Task.loss`; the U-Nets compute in bfloat16 where the device does."""
        assert isinstance(network, OccupancyNetwork)
        inputs, queries, truth = batch
        dtype = choose_precision("auto", truth.device, torch.bfloat16)
        for module in network.modules():
            if isinstance(module, LocalPoolPointnet | LocalVoxelEncoder):
                module.unet_dtype = None if dtype == torch.float32 else dtype
        logits = network.decode(network.encode(inputs), queries)
        loss = binary_cross_entropy_with_logits(logits, truth)
        return loss, logits.flatten(), truth.flatten() > 0.5

    def steps(self, batch: Any) -> Tensor:
        """See `Task.steps`; 0, as shapes are calibrated alike everywhere."""
        return torch.zeros(batch[2].numel())


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


def collate(items: list[Item]) -> tuple[Any, Any, Tensor]:
    """Items to what `encode` and `decode` take, and the (B, M) truth, 0 or 1."""

    def stacked(key: str, kind: str | None = None) -> Tensor:
        arrays = [item[key] if kind is None else item[key][kind] for item in items]
        return torch.from_numpy(np.stack(arrays))

    truth = stacked("points.occ")
    if "pointcloud_crop" not in items[0]:
        return stacked("inputs"), stacked("points"), truth
    kinds = list(items[0]["inputs.ind"])
    inputs = {"points": stacked("inputs"), "index": {k: stacked("inputs.ind", k) for k in kinds}}
    normalised = {k: stacked("points.normalized", k) for k in kinds}
    return inputs, {"p": stacked("points"), "p_n": normalised}, truth
