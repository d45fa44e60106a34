"""Surfaces of crops by marching cubes (Lewiner et al., 2003) over the assembled lattice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.measure import marching_cubes

# Vertices are kept to this share of a lattice step, so that neighbouring crops, whose arithmetic
# may differ in the last bit, agree on their border bit for bit.
_GRAIN = 1 / 4096
# Values keep this distance (in logits) from the level, so that no vertex comes to lie on a lattice
# point, where those of several edges would fall into one.
_AWAY = 0.02


@dataclass(frozen=True, slots=True)
class Mesh:
    """A triangle mesh in the map frame; triangles are counter-clockwise seen from free space.

    vertices: (V, 3) float32 metres; triangles: (F, 3) int32; observed: (V,) bool, whether a
    measured point lies in the vertex' voxel or beside it (else the surface is predicted).
    """

    vertices: np.ndarray
    triangles: np.ndarray
    observed: np.ndarray

    @property
    def empty(self) -> bool:
        return len(self.triangles) == 0


def no_mesh() -> Mesh:
    """A mesh of nothing, which erases its crop."""
    return Mesh(np.empty((0, 3), np.float32), np.empty((0, 3), np.int32), np.empty(0, bool))


def mesh_of_block(
    values: np.ndarray, level: float, first: np.ndarray, sub_m: float, observed: np.ndarray
) -> Mesh:
    """The surface in an (m + 1)^3 block of logits, NaN where unknown.

    first: (3,) lattice index of the block's first sub-voxel, whose centre is (first + 0.5) sub_m;
    observed: (k, k, k) bool per voxel of the block (SUB sub-voxels a side, the last one partly).
    Cells with an unknown corner make no surface.
    """
    known = np.isfinite(values)
    occupied = values >= level
    cells = known.copy()  # scikit-image marks a cell by its maximum corner
    for axis in range(3):
        cells = cells & np.roll(cells, 1, axis)
    cells[0], cells[:, 0], cells[:, :, 0] = False, False, False
    if not (occupied & known).any() or (occupied | ~known).all():
        return no_mesh()
    away = np.where(occupied, np.maximum(values, level + _AWAY), np.minimum(values, level - _AWAY))
    try:
        vertices, triangles, _, _ = marching_cubes(
            np.where(known, away, level - 1).astype(np.float32),
            level,
            mask=cells,
            gradient_direction="ascent",
            allow_degenerate=False,
        )
    except (RuntimeError, ValueError):  # no surface in the known cells
        return no_mesh()
    vertices = np.round(vertices.astype(np.float64) / _GRAIN) * _GRAIN
    sub = round((len(values) - 1) / (len(observed) - 1))
    voxel = np.clip((vertices + 0.5) // sub, 0, len(observed) - 1).astype(np.int64)
    return Mesh(
        ((vertices + first + 0.5) * sub_m).astype(np.float32),
        triangles.astype(np.int32),
        observed[tuple(voxel.T)],
    )
