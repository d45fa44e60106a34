"""What the network sees of a crop: the content of its box, and batches of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class BoxContent:
    """The measured content of one crop's box of n voxels a side (crop and halo).

    points: (P, 3) float32 in voxels from the box's minimum corner, strictly inside voxels.
    directions: (P, 3) float32 mean unit direction from the point to the sensor, map axes.
    free: (n, n, n) bool, voxels that rays crossed and nothing hit.
    """

    points: Tensor
    directions: Tensor
    free: Tensor


@dataclass(frozen=True, slots=True)
class BoxBatch:
    """B boxes as the encoder takes them.

    cell: (P,) int64, b n^3 + (x n + y) n + z of the voxel that holds the point.
    features: (P, 6) float32, position in the voxel scaled to [-1, 1] and direction to the sensor.
    free: (B, 1, n, n, n) float32, 1 where observed free.
    """

    cell: Tensor
    features: Tensor
    free: Tensor


def batch_boxes(boxes: Sequence[BoxContent]) -> BoxBatch:
    """Stack boxes of equal size; the same box gives the same numbers in any batch."""
    n = boxes[0].free.shape[0]
    cells, features = [], []
    for b, box in enumerate(boxes):
        voxel = box.points.floor()  # P 3
        x, y, z = voxel.long().unbind(1)
        cells.append(b * n**3 + (x * n + y) * n + z)
        features.append(torch.cat([2 * (box.points - voxel) - 1, box.directions], dim=1))
    free = torch.stack([box.free for box in boxes])[:, None].float()  # B 1 n n n
    return BoxBatch(torch.cat(cells), torch.cat(features), free)
