"""How often what rays say of a cell is true: the risks behind the map's fixed probabilities."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
from scipy.ndimage import uniform_filter

from convonet_ros.config import MapConfig
from convonet_ros.datasets.world.rooms import Room
from convonet_ros.evaluation.reconstruction import ValueLattice
from convonet_ros.mapping.occupancy import SUPPORT

_CELLS = 20_000  # of a scene, at most
_INSIDE = np.array([*np.ndindex(2, 2, 2)]) / 2 - 0.25  # points in a cell, shares of its side

Counts = Mapping[str, tuple[int, int]]  # by kind of cell: how many there are, how many occupied


def counts_of(evidence: ValueLattice, room: Room, config: MapConfig) -> Counts:
    """Cells of a map's volume by what was measured, and how many of them hold anything solid.

    A cell holds something where one of the eight points is solid at which the map decodes it.
    """
    measured = np.argwhere(evidence.values != 0)
    if len(measured) > _CELLS:
        measured = np.random.default_rng(0).choice(measured, _CELLS, replace=False)
    middles = evidence.first_m + measured * evidence.step_m
    points = middles[:, None] + _INSIDE * evidence.step_m
    solid = np.asarray(room.occupied(points.reshape(-1, 3)).reshape(-1, len(_INSIDE)).any(axis=1))
    place = tuple(measured.T)
    found = evidence.values[place]
    hit = np.asarray(evidence.values > 0, np.float64)
    around = np.rint(27 * uniform_filter(hit, 3, mode="constant"))[place]
    once = (found > 0) & (found < 2 * config.hit_weight)
    kinds = {
        "crossed by rays of one scan": found == -1,
        "crossed by rays of several scans": found < -1,
        f"hit by one scan, fewer than {SUPPORT} hits around": once & (around < SUPPORT),
        f"hit by one scan, {SUPPORT} hits around or more": once & (around >= SUPPORT),
        "hit by several scans": (found > 0) & ~once,
    }
    return {kind: (int(of.sum()), int(solid[of].sum())) for kind, of in kinds.items()}


def added(parts: Iterable[Counts]) -> Counts:
    """The cells of all parts."""
    total: dict[str, tuple[int, int]] = {}
    for part in parts:
        for kind, (cells, solid) in part.items():
            before = total.get(kind, (0, 0))
            total[kind] = before[0] + cells, before[1] + solid
    return total
