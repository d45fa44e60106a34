"""What the map says of every cell: a probability, a class, and their projection to 2D."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d

from convonet_ros.geometry import Lattice

UNKNOWN, OBSERVED_FREE, OBSERVED_OCCUPIED, PREDICTED_FREE, PREDICTED_OCCUPIED = range(5)

# How often such cells hold something solid, counted on simulated scenes by `convonet evaluate`
# (docs/training.md): those that rays crossed, and hit ones before their crop was inferred.
P_OBSERVED_FREE = 0.01
_P_HIT = 0.6
# So many hit cells among a cell and its 26 neighbours make a surface and no stray pixel: as many
# as make it likelier occupied than the default threshold.
SUPPORT = 5


@dataclass(frozen=True, slots=True)
class OccupancyGrid2D:
    """A height band seen from above; rows are y, columns x (as nav_msgs/OccupancyGrid).

    ternary: (Y, X) int8, 0 free, 100 occupied, -1 unknown; probability: (Y, X) int8 percent, -1
    unknown; origin_m: (2,) minimum corner in the map frame.
    """

    origin_m: np.ndarray
    resolution_m: float
    ternary: np.ndarray
    probability: np.ndarray
    stamp_ns: int


@dataclass(frozen=True, slots=True)
class OccupancyVolume:
    """The window as cells: probability (X, Y, Z) float32, NaN unknown; classes (X, Y, Z) uint8.

    origin_m: (3,) minimum corner in the map frame.
    """

    origin_m: np.ndarray
    resolution_m: float
    probability: np.ndarray
    classes: np.ndarray
    stamp_ns: int

    def project(self, min_z_m: float, max_z_m: float) -> OccupancyGrid2D:
        """The cells whose centre lies in the height band, seen from above.

        A column is occupied where one of its cells is, else free where one of them is known to be
        free, else unknown. Its probability is the highest of its cells.
        """
        z = self.origin_m[2] + (np.arange(self.classes.shape[2]) + 0.5) * self.resolution_m
        band = (z >= min_z_m) & (z <= max_z_m)
        classes, probability = self.classes[:, :, band], self.probability[:, :, band]
        occupied = ((classes == OBSERVED_OCCUPIED) | (classes == PREDICTED_OCCUPIED)).any(axis=2)
        known = (classes != UNKNOWN).any(axis=2)
        ternary = np.where(occupied, 100, np.where(known, 0, -1)).astype(np.int8)
        highest = np.nan_to_num(probability, nan=-1.0).max(axis=2, initial=-1.0)
        percent = np.where(known, np.round(highest * 100), -1).astype(np.int8)
        return OccupancyGrid2D(
            self.origin_m[:2].copy(), self.resolution_m, ternary.T, percent.T, self.stamp_ns
        )


def evidence_of_voxels(evidence: Tensor) -> Tensor:
    """(SUB X, SUB Y, SUB Z) int8 evidence of sub-voxels to (X, Y, Z) of voxels.

    A voxel is hit as often as its most hit part, else crossed as often as its most crossed one.
    """
    highest = lowest = evidence
    for axis in range(3):
        # much faster than amax and amin
        highest = reduce(torch.maximum, highest.unflatten(axis, (-1, Lattice.SUB)).unbind(axis + 1))
        lowest = reduce(torch.minimum, lowest.unflatten(axis, (-1, Lattice.SUB)).unbind(axis + 1))
    return torch.where(highest > 0, highest, lowest)


def classify(
    evidence: Tensor, logits: Tensor, threshold: float, confirmed: int
) -> tuple[Tensor, Tensor]:
    """Probability (NaN unknown) and class of (X, Y, Z) cells from evidence and predicted logits.

    logits: the highest in the cell, where parts that rays crossed are free by rule. So a cell that
    rays crossed and nothing hit is observed free, but for parts that they missed and that are
    predicted occupied. A cell hit by several scans (evidence `confirmed` or more) is observed
    occupied. A cell hit less often is so if the network agrees or if its neighbours were hit too,
    as on any surface, be it one that just moved in; else the hit counts as noise, which is mostly
    single pixels. threshold is in logits.
    """
    predicted = torch.sigmoid(logits)
    known = ~logits.isnan()
    occupied = logits >= threshold
    free, hit = (evidence < 0) & ~occupied, evidence > 0
    hits_around = 27 * avg_pool3d(hit[None, None].float(), 3, 1, 1)[0, 0]  # itself included
    supported = hits_around > SUPPORT - 0.5
    solid = hit & (occupied | ~known | (evidence >= confirmed) | supported)
    limit = torch.sigmoid(torch.as_tensor(threshold)).item()
    measured = torch.where(known, predicted.clamp(min=limit), _P_HIT)
    probability = torch.where(solid, measured, predicted)
    seen_free = torch.where(known, predicted.clamp(max=P_OBSERVED_FREE), P_OBSERVED_FREE)
    probability = torch.where(free, seen_free, probability)
    classes = torch.where(occupied, PREDICTED_OCCUPIED, PREDICTED_FREE)
    classes = torch.where(known, classes, UNKNOWN)
    classes = torch.where(solid, OBSERVED_OCCUPIED, classes)
    classes = torch.where(free, OBSERVED_FREE, classes)
    return probability, classes.to(torch.uint8)
