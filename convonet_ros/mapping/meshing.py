"""Surfaces of crops by marching cubes (Lewiner et al., 2003) over the assembled lattice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.measure import marching_cubes
from torch import Tensor
from torch.nn.functional import max_pool3d

from convonet_ros.geometry import Lattice

# Vertices are kept to this share of a lattice step, so that neighbouring crops, whose arithmetic
# may differ in the last bit, agree on their border bit for bit.
_GRAIN = 1 / 4096
# Values keep this distance (in logits) from the level, so that no vertex comes to lie on a lattice
# point, where those of several edges would fall into one.
_AWAY = 0.02
# What lies around a closed surface's lattice, in logits.
_OUTSIDE = -1e6


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


def near_hits(evidence: Tensor, lattice: Lattice) -> np.ndarray:
    """(k, k, k) bool: the voxels of a crop and the next plane that were hit or touch such.

    evidence: (m, m, m) of the sub-voxels of the crop's box, above 0 where hit.
    """
    near = slice(lattice.halo_voxels - 1, lattice.halo_voxels + lattice.crop_voxels + 2)
    hit = max_pool3d((evidence > 0)[None, None].float(), lattice.SUB)[:, :, near, near, near]
    return (max_pool3d(hit, 3, 1)[0, 0] > 0).cpu().numpy()


def closed_surface(values: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The watertight surface around all lattice points above a level, as the paper extracts it.

    values: (X, Y, Z) logits, free space around them. Returns vertices (V, 3) float64 in lattice
    steps from values[0, 0, 0] and triangles (F, 3) int32, counter-clockwise seen from free space;
    both empty where nothing is above. Classic marching cubes (Lorensen and Cline, 1987), in which
    two occupied corners that face each other across a cell's side stay connected: triangles and
    vertices are those of the authors' code (Peng et al., ECCV 2020), to 1e-13.

    Raises ValueError for another shape, values or a level that are not finite, a level too low.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 3 or values.size == 0:
        raise ValueError(f"values: expected (X, Y, Z), got shape {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError(
            f"values: expected finite ones, got {int((~np.isfinite(values)).sum())} others"
        )
    level = float(np.float32(level))  # so the authors' code takes it; decides about equal values
    if not _OUTSIDE < level < np.inf:
        raise ValueError(f"level: expected a finite number above {_OUTSIDE:g}, got {level}")
    padded = np.pad(values, 1, constant_values=_OUTSIDE)
    free = padded <= level
    if free.all():
        return np.empty((0, 3)), np.empty((0, 3), np.int32)
    # scikit-image gets signs only: each vertex then comes to lie in the middle of its lattice edge,
    # which names the edge exactly, and is put in its place in full precision. Its x is the last
    # axis; free space is the positive side, which decides how ambiguous cells are cut.
    signs = np.where(free, np.float32(1), np.float32(-1)).transpose(2, 1, 0)
    middles, triangles, _, _ = marching_cubes(np.ascontiguousarray(signs), 0.0, method="lorensen")
    twice = np.rint(2 * middles[:, ::-1]).astype(np.int64)
    start, end = twice // 2, (twice + 1) // 2
    value, other = padded[tuple(start.T)], padded[tuple(end.T)]
    share = (level - value) / (other - value)
    vertices = start + share[:, None] * (end - start) - 1
    return vertices, np.ascontiguousarray(triangles[:, ::-1], np.int32)
