"""Which crops wait for inference, and which of them comes first."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from convonet_ros.geometry import Lattice
from convonet_ros.mapping.volume import CropIndex, Volume


@dataclass(slots=True)
class _Waiting:
    changed: int  # sub-voxels of the box that changed since the last inference
    since_ns: int  # stamp of the first of these changes


class Scheduler:
    """Dirty crops, most valuable first: much changed, near the sensor, waiting long."""

    def __init__(self, lattice: Lattice) -> None:
        self._lattice = lattice
        self._waiting: dict[CropIndex, _Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def crops(self) -> list[CropIndex]:
        """Those that wait."""
        return list(self._waiting)

    def mark(self, volume: Volume, changed: Tensor, stamp_ns: int) -> None:
        """Mark the crops in whose box one of the (M, 3) changed local sub-voxels lies."""
        if not len(changed):
            return
        sub = self._lattice.SUB
        side, halo = sub * self._lattice.crop_voxels, sub * self._lattice.halo_voxels
        # One at v lies in the boxes of crops floor((v - 2 halo) / side) .. floor(v / side).
        low, high = (changed - 2 * halo).div(side, rounding_mode="floor"), changed // side
        # Those beside the window are counted too, in a border that is cut off.
        count = changed.new_zeros(tuple(volume.window + 2))
        last = torch.from_numpy(volume.window + 1).to(changed)
        most = 1 - -2 * halo // side  # along an axis
        for pick in np.ndindex(most, most, most):
            crop = low + changed.new_tensor(pick)
            index = (crop[(crop <= high).all(dim=1)] + 1).clamp(min=0).minimum(last)
            count.index_put_(tuple(index.T), count.new_ones(len(index)), accumulate=True)
        inside = count[1:-1, 1:-1, 1:-1].cpu().numpy()
        assert volume.min_crop is not None
        for off in np.argwhere(inside):
            x, y, z = (off + volume.min_crop).tolist()
            entry = self._waiting.setdefault((x, y, z), _Waiting(0, stamp_ns))
            entry.changed += int(inside[tuple(off)])

    def add(self, crops: list[CropIndex], stamp_ns: int) -> None:
        """Mark crops as such, whatever changed in them."""
        for crop in crops:
            self._waiting.setdefault(crop, _Waiting(1, stamp_ns))

    def drop(self, crops: list[CropIndex]) -> None:
        """Forget crops that left the window."""
        for crop in crops:
            self._waiting.pop(crop, None)

    def clear(self) -> None:
        self._waiting.clear()

    def take(
        self, count: int, position_map: np.ndarray, now_ns: int
    ) -> list[tuple[CropIndex, int]]:
        """Remove and return up to `count` crops and since when (ns) they wait, best first."""

        def value(item: tuple[CropIndex, _Waiting]) -> float:
            crop, waiting = item
            centre = (np.asarray(crop) + 0.5) * self._lattice.crop_m
            distance = float(np.linalg.norm(centre - position_map))
            seconds = max(0, now_ns - waiting.since_ns) * 1e-9
            return waiting.changed * (1 + seconds) / (self._lattice.crop_m + distance)

        ranked = sorted(self._waiting.items(), key=value, reverse=True)[:count]
        for crop, _ in ranked:
            del self._waiting[crop]
        return [(crop, waiting.since_ns) for crop, waiting in ranked]
