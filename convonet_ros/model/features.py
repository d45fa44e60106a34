"""What the networks see: normalised coordinates, cells and local positions, and content of boxes.

Two conventions of coordinates exist (Peng et al., ECCV 2020, sections 3.1 and 3.4). Objects and
synthetic rooms are normalised to the unit cube, `unit_coordinates`. Crops of a scene of any size
are normalised by their box, `box_coordinates`. Both give coordinates in [0, 1] per kind of feature
(`AXES`: the three planes and the grid), and all that follows is the same for both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from convonet_ros.geometry import Lattice

# The axes that a kind of feature keeps; the first one is the last axis of its feature tensor.
AXES = {"grid": (0, 1, 2), "xz": (0, 2), "xy": (0, 1), "yz": (1, 2)}
_FREQUENCIES = 10  # of the sine and cosine encoding
SIN_COS_SIZE = 2 * 3 * _FREQUENCIES


def unit_coordinates(points: Tensor, kind: str, padding: float) -> Tensor:
    """(..., 3) points of the unit cube [-0.5, 0.5]^3 to (..., 2 or 3) coordinates in [0, 1).

    `padding` is the margin around the cube in shares of its side; points beyond it are clamped.
    Planes and grid keep slightly different margins, as the published weights were trained with.
    """
    margin = 10e-4 if kind == "grid" else 10e-6
    u = points[..., AXES[kind]] / (1 + padding + margin) + 0.5
    return torch.where(u >= 1, 1 - margin, torch.where(u < 0, 0.0, u)).to(points.dtype)


@dataclass(frozen=True, slots=True)
class Box:
    """The box of a crop (or of a whole scene) in the points' frame.

    low, high: (3,), or (B, 3) for a batch of boxes of one size, NumPy, in the points' unit; `side`
    voxels of side `unit` lie along each axis. Their precision counts: sine and cosine encodings
    amplify what float32 loses.
    """

    low: np.ndarray
    high: np.ndarray
    side: int
    unit: float

    def normalised(self, points: Tensor, kind: str) -> Tensor:
        """(B, N, 3) points to (B, N, 2 or 3) coordinates, 0 to 1 in the box and not clamped."""
        low, size = _per_batch(self.low, points), _per_batch(self.high - self.low, points)
        return ((points - low) / size)[..., AXES[kind]]

    def holds(self, points: Tensor) -> Tensor:
        """(B, N, 3) points to (B, N) bool: in the box, its faces included."""
        low, high = _per_batch(self.low, points), _per_batch(self.high, points)
        return ((points >= low) & (points <= high)).all(dim=-1)


def _per_batch(corner: np.ndarray, like: Tensor) -> Tensor:
    """(3,) or (B, 3) to (1 or B, 1, 3) in the type and on the device of `like`."""
    return torch.as_tensor(corner).to(like).view(-1, 1, 3)


def cell_index(coordinates: Tensor, side: int) -> Tensor:
    """(..., d) coordinates to (...,) int64 cells, i = x + side (y + side z).

    Coordinates beyond the box may give a cell of somewhere else; whoever has such points says
    which, see `cells_of_box`.
    """
    place = (coordinates * side).long()
    index = place[..., -1]
    for axis in reversed(range(place.shape[-1] - 1)):
        index = place[..., axis] + side * index
    return index


def cells_of_box(points: Tensor, box: Box, kind: str) -> Tensor:
    """(B, N, 3) points to (B, N) cells; points outside of the box get the cell after the last."""
    nowhere = box.side ** len(AXES[kind])
    index = cell_index(box.normalised(points, kind), box.side)
    return torch.where(box.holds(points), index.clamp(max=nowhere), nowhere)


def local_position(points: Tensor, unit: float, encoding: str) -> Tensor:
    """(..., 3) points to their position in their voxel of side `unit`, which makes a network
    equivariant to shifts by whole voxels (section 3.4).

    linear: (..., 3) in [0, 1). sin_cos: (..., 60), sines and cosines of ten octaves (Mildenhall
    et al., 2020).
    """
    local = torch.remainder(points, unit) / unit
    if encoding == "linear":
        return local
    local = 2.0 * local - 1.0
    waves = [2.0**k * math.pi * local for k in range(_FREQUENCIES)]
    return torch.cat([part for wave in waves for part in (wave.sin(), wave.cos())], dim=-1)


def scene_side(voxels: float, levels: int, depth: int) -> int:
    """Cells along a box that is to be asked about `voxels` of them.

    The receptive field of a 3D U-Net of so many `levels` comes on top, and the sum is rounded up
    to what a U-Net of `depth` resolutions can halve.
    """
    base = 2 ** (depth - 1)
    return -(-int(voxels + 2 ** (levels + 2) - 1) // base) * base


# ---- boxes of the map --------------------------------------------------------------------------


_ENOUGH = 32  # measurements that make a mean which the network takes for exact


def weights_of_means(counts: Tensor) -> Tensor:
    """(P,) numbers of measurements to (P,) float32 weights of their means, in (0, 1].

    They grow as a mean's standard error falls.
    """
    return (counts.float() / _ENOUGH).clamp(max=1).sqrt()


@dataclass(frozen=True, slots=True)
class BoxContent:
    """The measured content of one crop's box of n voxels a side (crop and halo).

    points: (P, 3) float32 in voxels from the box's minimum corner, strictly inside voxels.
    directions: (P, 3) float32 mean unit direction from the point to the sensor, map axes.
    weights: (P,) float32 in (0, 1], see `weights_of_means`.
    visibility: (m, m, m) int8, m = SUB n, the evidence of rays per sub-voxel: -2 surely free, -1
    crossed, 0 unknown, 1 hit, 2 surely hit. Sub-voxels that are hit hold a point, others do not.
    """

    points: Tensor
    directions: Tensor
    weights: Tensor
    visibility: Tensor

    @property
    def voxels(self) -> int:
        """n, the voxels along the box."""
        return self.visibility.shape[0] // Lattice.SUB


@dataclass(frozen=True, slots=True)
class BoxBatch:
    """B boxes as the encoder takes them.

    cell: (P,) int64, b n^3 + (x n + y) n + z of the voxel that holds the point.
    features: (P, 7) float32, position in the voxel scaled to [-1, 1], direction to the sensor and
    weight. visibility: (B, 8, n, n, n) int8, that of the boxes, a voxel's sub-voxels as channels.
    """

    cell: Tensor
    features: Tensor
    visibility: Tensor


def batch_boxes(boxes: Sequence[BoxContent]) -> BoxBatch:
    """Stack boxes of equal size; the same box gives the same numbers in any batch."""
    n, sub = boxes[0].voxels, Lattice.SUB
    cells, features = [], []
    for b, box in enumerate(boxes):
        voxel = box.points.floor()  # P 3
        x, y, z = voxel.long().unbind(1)
        cells.append(b * n**3 + (x * n + y) * n + z)
        place = 2 * (box.points - voxel) - 1
        features.append(torch.cat([place, box.directions, box.weights[:, None]], dim=1))
    visibility = torch.stack([box.visibility for box in boxes]).view(-1, n, sub, n, sub, n, sub)
    visibility = visibility.permute(0, 2, 4, 6, 1, 3, 5).reshape(-1, sub**3, n, n, n)
    return BoxBatch(torch.cat(cells), torch.cat(features), visibility)


def steps_from(filled: Tensor, most: int) -> Tensor:
    """(B, n, n, n) bool voxels to every voxel's steps from the nearest one that is set, float32.

    A step is a voxel; cubes and crosses in turn grow nearly a ball. Beyond `most` it is most + 1.
    """
    near = filled[:, None].float()
    steps = 1 - near
    for step in range(most):
        if step % 2:
            near = max_pool3d(near, 3, 1, 1)
        else:
            kernels = ((3, 1, 1), (1, 3, 1), (1, 1, 3))
            near = torch.stack(
                [max_pool3d(near, k, 1, tuple(s // 2 for s in k)) for k in kernels]
            ).amax(dim=0)
        steps += 1 - near
    return steps[:, 0]
