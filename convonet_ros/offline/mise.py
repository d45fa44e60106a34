"""Multiresolution IsoSurface Extraction (Mescheder et al., CVPR 2019, section 3.3).

A field is evaluated on a coarse lattice, and again, twice as finely, only where the surface passes:
the cells of an octree that touch known values on both sides of the threshold. Counts, points and
values are those of the authors' implementation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

_CORNERS = np.indices((2, 2, 2)).reshape(3, -1).T
_POINTS = np.indices((3, 3, 3)).reshape(3, -1).T  # of a cell and its eight children


class Mise:
    """The octree over a cubic lattice, and what is known on it.

    resolution: cells a side at the start; steps: how often a cell may be divided; threshold: level
    of the surface, in the units of the values. Raises ValueError where they make no lattice.

    `resolution` becomes the number of finest cells a side, resolution * 2**steps; lattice points
    are whole numbers from 0 to that, both included.
    """

    def __init__(self, resolution: int, steps: int, threshold: float) -> None:
        if resolution < 1:
            raise ValueError(f"resolution: expected at least 1, got {resolution}")
        if steps < 0:
            raise ValueError(f"steps: expected at least 0, got {steps}")
        if not math.isfinite(threshold):
            raise ValueError(f"threshold: expected a finite number, got {threshold}")
        self.resolution = int(resolution) << int(steps)
        self.steps = int(steps)
        self.threshold = float(threshold)
        side = self.resolution + 1
        self._strides = np.array([side * side, side, 1])
        self._values = np.full(side**3, np.nan)  # NaN: not a point of the octree
        start = np.indices((resolution + 1,) * 3).reshape(3, -1).T << self.steps
        self._wanted = start @ self._strides  # flat places of the points that are not known yet
        self._values[self._wanted] = 0.0
        self._is_wanted = np.zeros(side**3, bool)
        self._is_wanted[self._wanted] = True
        # Per level, over all cells of that size: is it a leaf; has it, inside or on its border, a
        # known point at or above the threshold; one at or below it. The points of a cell are
        # counted before it exists: a leaf then knows all points it touches, those that finer
        # neighbours put between its corners included. Cells of the last level are never divided.
        sides = [resolution << level for level in range(self.steps)]
        self._leaf = [np.full(n**3, level == 0) for level, n in enumerate(sides)]
        self._above = [np.zeros(n**3, bool) for n in sides]
        self._below = [np.zeros(n**3, bool) for n in sides]

    def query(self) -> np.ndarray:
        """(N, 3) int64 lattice points whose values are wanted next, none when all is done."""
        side = self.resolution + 1
        return np.stack(np.unravel_index(self._wanted, (side,) * 3), axis=1).astype(np.int64)

    def update(self, points: np.ndarray, values: np.ndarray) -> None:
        """Take the values of points of `query` (of all or of some) and divide active cells once.

        points: (N, 3) integers; values: (N,). Raises ValueError for other shapes, for a point that
        was not asked for and for a value that is no number.
        """
        points, values = np.asarray(points), np.asarray(values, np.float64)
        if points.ndim != 2 or points.shape[1] != 3 or not np.issubdtype(points.dtype, np.integer):
            raise ValueError(
                f"points: expected (N, 3) integers, got {points.dtype} of shape {points.shape}"
            )
        if values.shape != points.shape[:1]:
            raise ValueError(f"values: expected ({len(points)},), got shape {values.shape}")
        if np.isnan(values).any():
            raise ValueError(f"values: expected numbers, got {int(np.isnan(values).sum())} NaN")
        points = points.astype(np.int64, copy=False)
        flat = points @ self._strides
        inside = ((points >= 0) & (points <= self.resolution)).all(axis=1)
        asked = inside & self._is_wanted[np.where(inside, flat, 0)]
        if not asked.all():
            raise ValueError(
                f"points: expected points of query(), got {int((~asked).sum())} others, "
                f"the first {points[~asked][0].tolist()}"
            )
        self._values[flat] = values
        self._is_wanted[flat] = False
        for level in range(self.steps):
            touched = self._cells_at(points, level)
            for flags, side in (
                (self._above, values >= self.threshold),
                (self._below, values <= self.threshold),
            ):
                flags[level][touched[side[touched[:, 0]], 1]] = True
        new = self._divide()
        self._wanted = np.concatenate([self._wanted[self._is_wanted[self._wanted]], new])
        self._is_wanted[new] = True

    def dense(self) -> np.ndarray:
        """(n, n, n) float64 values of the whole lattice, n = resolution + 1.

        A point without a value takes that of the nearest one before it along x, where there is
        none along y, then z. Points asked for and never answered count as 0.
        """
        side = self.resolution + 1
        out = self._values.reshape((side,) * 3).copy()
        for axis in range(3):
            shape = [1, 1, 1]
            shape[axis] = side
            place = np.arange(side).reshape(shape)
            last = np.maximum.accumulate(np.where(np.isnan(out), 0, place), axis=axis)
            out = np.take_along_axis(out, last, axis=axis)
        return out

    def _cells_at(self, points: np.ndarray, level: int) -> np.ndarray:
        """(M, 2): number of the point, flat place of a cell of the level that it touches."""
        size = self.steps - level
        side = self.resolution >> size
        cells = (points[:, None] - _CORNERS) >> size  # up to eight a point, many of them alike
        number, corner = np.nonzero(((cells >= 0) & (cells < side)).all(axis=2))
        return np.stack([number, cells[number, corner] @ [side * side, side, 1]], axis=1)

    def _divide(self) -> np.ndarray:
        """Divide every active leaf into eight; flat places of the points that this adds."""
        # All leaves are judged before any is divided: one level a round.
        active = [
            np.flatnonzero(leaf & above & below)
            for leaf, above, below in zip(self._leaf, self._above, self._below, strict=True)
        ]
        added = [np.empty(0, np.int64)]
        for level, cells in enumerate(active):
            half = self.steps - level - 1
            side = self.resolution >> (half + 1)
            self._leaf[level][cells] = False
            corner = np.stack(np.unravel_index(cells, (side,) * 3), axis=1) * 2  # in half cells
            if level + 1 < self.steps:
                children = (corner[:, None] + _CORNERS) @ [4 * side * side, 2 * side, 1]
                self._leaf[level + 1][children] = True
            points = ((corner << half) @ self._strides)[:, None] + (_POINTS << half) @ self._strides
            added.append(points[np.isnan(self._values[points])])
        new = np.unique(np.concatenate(added))
        self._values[new] = 0.0
        return new


def evaluate(
    occupancy: Callable[[np.ndarray], np.ndarray], resolution: int, steps: int, threshold: float
) -> np.ndarray:
    """(n, n, n) float64 values of a field on a lattice of n = resolution * 2**steps + 1 points.

    occupancy: the values (N,) of lattice points (N, 3) int64; the caller scales them to its box.
    Far from the surface a value is that of a coarser lattice point (see `Mise.dense`). Raises
    ValueError as `Mise` does.
    """
    octree = Mise(resolution, steps, threshold)
    while len(points := octree.query()):
        octree.update(points, occupancy(points))
    return octree.dense()
