"""How often what rays say of a cell is true: the risks behind the map's fixed probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from scipy.ndimage import uniform_filter

from convonet_ros.config import MapConfig
from convonet_ros.datasets.world.rooms import Room
from convonet_ros.evaluation.reconstruction import ValueLattice
from convonet_ros.geometry import Lattice
from convonet_ros.mapping.occupancy import SUPPORT, evidence_of_voxels

_CELLS = 20_000  # of a scene and either kind, at most
_PARTS = np.array([*np.ndindex((Lattice.SUB,) * 3)])  # sub-voxels of a voxel

Counts = Mapping[str, tuple[int, int]]  # by kind of cell: how many there are, how many occupied


def counts_of(evidence: ValueLattice, room: Room, config: MapConfig) -> Counts:
    """Crossed sub-voxels and hit voxels by their evidence, and how many of them are solid.

    evidence: of a volume's sub-voxels. One is solid where its middle is, and a voxel where one of
    its sub-voxels is: at these points the map decodes them.
    """
    values = evidence.values
    crossed = _some(values < 0)
    solid = np.asarray(room.occupied(evidence.first_m + crossed * evidence.step_m))
    found = values[tuple(crossed.T)]
    kinds = {
        "sub-voxels crossed by rays of one scan": (found == -1, solid),
        "sub-voxels crossed by rays of several scans": (found < -1, solid),
    }
    voxels = evidence_of_voxels(torch.from_numpy(values)).numpy()
    hit = _some(voxels > 0)
    points = evidence.first_m + (Lattice.SUB * hit[:, None] + _PARTS) * evidence.step_m
    solid = np.asarray(room.occupied(points.reshape(-1, 3)).reshape(-1, len(_PARTS)).any(axis=1))
    once = voxels[tuple(hit.T)] < 2 * config.hit_weight
    around = uniform_filter(np.asarray(voxels > 0, np.float64), 3, mode="constant")
    supported = np.rint(27 * around)[tuple(hit.T)] >= SUPPORT
    kinds |= {
        f"voxels hit by one scan, fewer than {SUPPORT} hits around": (once & ~supported, solid),
        f"voxels hit by one scan, {SUPPORT} hits around or more": (once & supported, solid),
        "voxels hit by several scans": (~once, solid),
    }
    return {kind: (int(of.sum()), int(truth[of].sum())) for kind, (of, truth) in kinds.items()}


def _some(cells: np.ndarray) -> np.ndarray:
    """(N, 3) indices of the cells that are set, of many a random part."""
    found = np.argwhere(cells)
    if len(found) > _CELLS:
        found = np.random.default_rng(0).choice(found, _CELLS, replace=False)
    return found


def added(parts: Iterable[Counts]) -> Counts:
    """The cells of all parts."""
    total: dict[str, tuple[int, int]] = {}
    for part in parts:
        for kind, (cells, solid) in part.items():
            before = total.get(kind, (0, 0))
            total[kind] = before[0] + cells, before[1] + solid
    return total
