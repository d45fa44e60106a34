"""The decoded field: occupancy logits on the fine lattice of the window, a ring of crops."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from convonet_ros.geometry import Lattice
from convonet_ros.mapping.volume import CropIndex


class Field:
    """One (m, m, m) float16 block of logits per crop of the window, m = SUB crop_voxels.

    A crop's place is its index modulo the window, so nothing moves when the window does; NaN where
    nothing is known.
    """

    def __init__(self, lattice: Lattice, window: np.ndarray, device: torch.device) -> None:
        self.side = lattice.crop_voxels * lattice.SUB
        self._window = window
        shape = (*window.tolist(), self.side, self.side, self.side)
        self._blocks = torch.full(shape, torch.nan, dtype=torch.float16, device=device)
        self._k = lattice.crop_voxels
        coarse = (*window.tolist(), self._k, self._k, self._k)
        self._highest = torch.full(coarse, torch.nan, device=device)  # per voxel

    def _place(self, crop: CropIndex) -> tuple[int, ...]:
        return tuple((np.asarray(crop) % self._window).tolist())

    def clear(self) -> None:
        self._blocks.fill_(torch.nan)
        self._highest.fill_(torch.nan)

    def forget(self, crop: CropIndex) -> None:
        """Make a crop unknown."""
        self._blocks[self._place(crop)] = torch.nan
        self._highest[self._place(crop)] = torch.nan

    def store(self, crop: CropIndex, logits: Tensor) -> list[CropIndex]:
        """Keep a crop's (m, m, m) logits; returns the crops whose mesh they change.

        A mesh reaches one lattice step into the next crops, so a change of a crop's first planes
        changes the mesh of the crops before it.
        """
        block = self._blocks[self._place(crop)]
        affected = []
        for offset in np.ndindex(2, 2, 2):
            part = tuple(slice(0, 1) if o else slice(None) for o in offset)
            old, new = block[part], logits[part]
            if not torch.equal(old.nan_to_num(nan=99.0), new.nan_to_num(nan=99.0)):
                affected.append(tuple(int(c - o) for c, o in zip(crop, offset, strict=True)))
        block.copy_(logits)
        self._highest[self._place(crop)] = highest_of_voxels(logits)
        return affected  # type: ignore[return-value]

    def of(self, crop: CropIndex) -> Tensor:
        """The (m, m, m) logits of a crop; not to be written to."""
        return self._blocks[self._place(crop)]

    def block(self, crop: CropIndex, inside: list[CropIndex]) -> Tensor:
        """(m + 1)^3 logits of a crop and the first planes of the next crops among `inside`."""
        m = self.side
        result = self._blocks.new_full((m + 1,) * 3, torch.nan)
        for offset in np.ndindex(2, 2, 2):
            near = tuple(int(c + o) for c, o in zip(crop, offset, strict=True))
            if near not in inside:
                continue
            target = tuple(slice(m, m + 1) if o else slice(0, m) for o in offset)
            source = tuple(slice(0, 1) if o else slice(None) for o in offset)
            result[target] = self._blocks[self._place(near)][source]
        return result

    def highest(self, crops_min: np.ndarray) -> Tensor:
        """(X, Y, Z) float32 `highest_of_voxels` of the window in lattice order; a copy."""
        x, y, z = (
            (torch.arange(int(n)) + int(low)) % int(n)
            for n, low in zip(self._window, crops_min, strict=True)
        )
        x, y, z = (axis.to(self._highest.device) for axis in (x, y, z))
        blocks = self._highest[x][:, y][:, :, z].permute(0, 3, 1, 4, 2, 5)
        nx, ny, nz = (self._window * self._k).tolist()
        return blocks.reshape(nx, ny, nz)


def highest_of_voxels(logits: Tensor) -> Tensor:
    """(m, m, m) logits to (m / SUB)^3 float32: the highest of each voxel's known parts, NaN where
    all are unknown."""
    k = len(logits) // Lattice.SUB
    known = logits.float().nan_to_num(nan=-torch.inf)
    highest = known.view(k, -1, k, Lattice.SUB, k, Lattice.SUB).amax((1, 3, 5))
    return highest.masked_fill(highest == -torch.inf, torch.nan)
