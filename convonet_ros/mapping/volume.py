"""The rolling volume: what was measured around the robot, in a dense ring buffer.

Per sub-voxel it keeps the mean of the points and of their directions to the sensor; per voxel the
evidence for being occupied. A voxel's place in memory is its lattice index modulo the buffer's
shape, so memory is constant, look-up is one addition, and following the robot only clears the
slabs that leave. Evidence is an integer that saturates, so a map that keeps seeing the same
surroundings stops changing.

Free space is carved by voxel traversal (Amanatides and Woo, 1987) of all rays in lock-step.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from convonet_ros.config import MapConfig, ScanConfig
from convonet_ros.geometry import Lattice
from convonet_ros.model.features import BoxContent, weights_of_means

CropIndex = tuple[int, int, int]

_STEPS = 256  # a sub-voxel's mean point is kept to 1/256 of its side
# One scan may add this share of max_points_per_cell to a sub-voxel, so that its mean spans
# several scans and their pose errors.
_SCANS_PER_MEAN = 8


class Volume:
    """The measured world around the robot; all tensors live on one device.

    A window of crops (active) plus a halo around it. Coordinates called `local` are voxels from
    the halo's minimum corner, 0 <= local < shape.
    """

    def __init__(
        self, lattice: Lattice, map_config: MapConfig, scan_config: ScanConfig, device: torch.device
    ) -> None:
        self.lattice = lattice
        self.device = device
        self._map = map_config
        self._scan = scan_config
        self.window = np.array([map_config.window_xy_crops] * 2 + [map_config.window_z_crops])
        self.shape = self.window * lattice.crop_voxels + 2 * lattice.halo_voxels
        self.min_crop: np.ndarray | None = None  # (3,) lattice index of the window's first crop
        self._held = False
        cells = int(self.shape.prod())
        subs = lattice.SUB**3
        # > 0: hit, holds points; 0: unknown; < 0: observed free
        self.evidence = torch.zeros(cells, dtype=torch.int8, device=device)
        # per sub-voxel: mean offset (3), mean direction (3), count
        self._means = torch.zeros(cells, subs, 7, dtype=torch.uint8, device=device)
        self._axis = [torch.arange(n, device=device) for n in self.shape]

    def clear(self) -> None:
        """Forget everything, the window's place too."""
        self.evidence.zero_()
        self._means.zero_()
        self.min_crop, self._held = None, False

    # ---- the window -------------------------------------------------------------------------

    def hold(self, middle_map: np.ndarray) -> None:
        """Centre the window on a (3,) position and keep it there (a map of one place)."""
        self.follow(middle_map)
        self._held = True

    def follow(self, position_map: np.ndarray) -> list[CropIndex]:
        """Centre the window on a (3,) position; returns the crops that left it.

        The window moves by whole crops and only when the position is more than 0.75 crops off
        its centre, so that it does not flap.
        """
        position = np.asarray(position_map, dtype=np.float64) / self.lattice.crop_m
        target = np.floor(position - self.window / 2 + 0.5).astype(np.int64)
        if self.min_crop is None:
            self.min_crop = target
            return []
        if self._held:
            return []
        off = np.abs(position - (self.min_crop + self.window / 2)) > 0.75
        target = np.where(off, target, self.min_crop)
        if (target == self.min_crop).all():
            return []
        old = self.crops()
        before, self.min_crop = self.min_crop, target
        shift = (target - before) * self.lattice.crop_voxels
        for axis in range(3):
            # The voxels that enter take the place of those that leave; both sides are one slab.
            local = np.arange(self.shape[axis])
            entered = (local + shift[axis] < 0) | (local + shift[axis] >= self.shape[axis])
            if entered.any():
                slab = self._ring(axis)[torch.from_numpy(entered).to(self.device)]
                view = self.evidence.view(*self.shape)
                view.index_fill_(axis, slab, 0)
                self._means.view(*self.shape, *self._means.shape[1:]).index_fill_(axis, slab, 0)
        return [c for c in old if not self.holds(c)]

    def holds(self, crop: CropIndex) -> bool:
        """Whether the crop is one of the window's."""
        if self.min_crop is None:
            return False
        off = np.asarray(crop) - self.min_crop
        return bool(((off >= 0) & (off < self.window)).all())

    @property
    def origin_voxel(self) -> np.ndarray:
        """(3,) lattice index of the first voxel, halo included."""
        assert self.min_crop is not None, "the window has no place before the first scan"
        return self.min_crop * self.lattice.crop_voxels - self.lattice.halo_voxels

    def crops(self) -> list[CropIndex]:
        """All crops of the window."""
        if self.min_crop is None:
            return []
        x, y, z = self.min_crop.tolist()
        return [(x + i, y + j, z + k) for i, j, k in np.ndindex(*self.window.tolist())]

    def _ring(self, axis: int) -> Tensor:
        """Place in the buffer of every local coordinate along an axis."""
        return (self._axis[axis] + int(self.origin_voxel[axis])) % int(self.shape[axis])

    def _places(self, local: Tensor) -> Tensor:
        """(N,) local voxels, counted (x Y + y) Z + z, to (N,) places in the buffer."""
        ny, nz = int(self.shape[1]), int(self.shape[2])
        x, y, z = local // (ny * nz), local // nz % ny, local % nz
        return (self._ring(0)[x] * ny + self._ring(1)[y]) * nz + self._ring(2)[z]

    # ---- measuring --------------------------------------------------------------------------

    def integrate(self, points: np.ndarray, T_map_sensor: np.ndarray) -> Tensor:
        """Insert (N, 3) sensor-frame points and carve their rays.

        Returns (M, 3) int64 local voxels whose content (as the network sees it) changed.
        """
        voxel_m = self.lattice.voxel_m
        R = torch.from_numpy(T_map_sensor[:3, :3].astype(np.float32)).to(self.device)
        sensor = torch.from_numpy(
            (T_map_sensor[:3, 3] / voxel_m - self.origin_voxel).astype(np.float32)
        ).to(self.device)
        rays = torch.from_numpy(points).to(self.device)  # N 3
        distance = rays.norm(dim=1)  # N, metres
        keep = distance >= max(self._scan.min_range_m, 1e-3)  # a ray has a direction
        rays, distance = rays[keep] @ R.T, distance[keep]
        measured = distance <= self._scan.max_range_m
        directions = -rays / distance[:, None]
        ends = sensor + rays / voxel_m
        shape = torch.from_numpy(self.shape).to(self.device)

        hits = ends[measured]
        inside = ((hits >= 0) & (hits < shape)).all(dim=1)
        hits, directions = hits[inside], directions[measured][inside]

        # A ray carves up to its margin before the end, and never beyond the sensor's range.
        length = distance - self._scan.carve_margin_m - self._scan.carve_margin_per_m2 * distance**2
        length = torch.minimum(length, distance.new_tensor(self._scan.max_range_m))
        stride = max(1, -(-len(length) // max(1, self._scan.max_rays)))
        share = (length / distance)[::stride]
        ahead = share > 0
        crossed = self._traverse(sensor, ((ends - sensor)[::stride] * share[:, None])[ahead])
        if self._scan.max_rays == 0:
            crossed.zero_()

        changed = torch.zeros_like(crossed)
        self._insert(hits, directions, crossed, changed)
        self._carve(crossed, changed)
        return changed.view(*self.shape).nonzero()

    def _traverse(self, sensor: Tensor, rays: Tensor) -> Tensor:
        """(cells,) bool in local order: voxels crossed by rays (R, 3) from the sensor (voxels)."""
        nx, ny, nz = (int(n) for n in self.shape)
        crossed = torch.zeros(nx * ny * nz, dtype=torch.bool, device=self.device)
        shape = sensor.new_tensor([nx, ny, nz])
        rays = torch.where(rays.abs() < 1e-6, 1e-6, rays)
        # Clip to the buffer: a sensor outside of it still carves inside.
        t_low, t_high = (0 - sensor) / rays, (shape - sensor) / rays
        enter = torch.minimum(t_low, t_high).amax(dim=1).clamp(min=0)
        leave = torch.maximum(t_low, t_high).amin(dim=1).clamp(max=1)
        ok = enter < leave
        rays, enter, leave = rays[ok], enter[ok], leave[ok]
        start = sensor + rays * enter[:, None]
        cell = start.floor().clamp(min=torch.zeros_like(shape), max=shape - 1)  # R 3
        step = rays.sign()
        delta = 1 / rays.abs()  # t from one plane to the next
        t_next = (cell + (step > 0) - sensor) / rays  # t at the next plane of each axis
        # Steps that are left before the buffer's border, with room for t's rounding errors.
        remaining = torch.where(step > 0, shape - 1 - cell, cell)
        leave = torch.minimum(leave, (t_next + remaining * delta).amin(dim=1) - 1e-4)
        weights = torch.tensor([ny * nz, nz, 1], device=self.device)
        flat = (cell.long() * weights).sum(dim=1)
        stride = step.long() * weights
        while len(flat):
            crossed[flat] = True
            t, axis = t_next.min(dim=1)
            going = t < leave
            if not going.all():
                flat, stride, delta = flat[going], stride[going], delta[going]
                t_next, leave, axis = t_next[going], leave[going], axis[going]
            axis = axis[:, None]
            flat = flat + stride.gather(1, axis)[:, 0]
            t_next = t_next.scatter_add(1, axis, delta.gather(1, axis))
        return crossed

    def _insert(self, hits: Tensor, directions: Tensor, crossed: Tensor, changed: Tensor) -> None:
        """Average points into their sub-voxels and raise the evidence of their voxels.

        A voxel that is hit takes no carving from the same scan: `crossed` is cleared there.
        """
        if not len(hits):
            return
        sub = self.lattice.SUB
        voxel = hits.floor()  # N 3
        within = (hits - voxel) * sub
        corner = within.floor().clamp(max=sub - 1)
        offset = (within - corner).clamp(0, 1 - 1 / 512)  # N 3, in [0, 1)
        ny, nz = int(self.shape[1]), int(self.shape[2])
        v, c = voxel.long(), corner.long()
        local = (v[:, 0] * ny + v[:, 1]) * nz + v[:, 2]
        key = local * sub**3 + (c[:, 0] * sub + c[:, 1]) * sub + c[:, 2]
        key, group, count = key.unique(return_inverse=True, return_counts=True)
        sums = offset.new_zeros(len(key), 6)
        sums.index_add_(0, group, torch.cat([offset, directions], dim=1))
        mean = sums / count[:, None]

        local_k, slot = key // sub**3, key % sub**3
        place = self._places(local_k)
        old = self._means[place, slot]  # K 7
        n_old = old[:, 6:].float()
        limit = self._map.max_points_per_cell
        n_new = count[:, None].clamp(max=max(1, limit // _SCANS_PER_MEAN)).float()
        n_new = torch.minimum(n_new, (limit - n_old).clamp(min=0))
        offset_old, direction_old = _decode(old)
        blended = (torch.cat([offset_old, direction_old], dim=1) * n_old + mean * n_new) / (
            n_old + n_new
        )
        row = torch.cat([_encode(blended), (n_old + n_new).to(torch.uint8)], dim=1)
        full = n_new[:, 0] == 0
        row[full] = old[full]
        self._means[place, slot] = row
        changed[local_k[(row != old).any(dim=1)]] = True

        hit_local = local_k.unique()
        crossed[hit_local] = False
        hit_place = self._places(hit_local)
        before = self.evidence[hit_place]
        after = (before.clamp(min=0).int() + self._map.hit_weight).clamp(max=self._map.max_evidence)
        after = after.to(torch.int8)
        self.evidence[hit_place] = after
        changed[hit_local[self._visibility(before) != self._visibility(after)]] = True

    def _carve(self, crossed: Tensor, changed: Tensor) -> None:
        """Lower the evidence of crossed voxels; those that become free forget their points."""
        local = crossed.nonzero()[:, 0]
        place = self._places(local)
        before = self.evidence[place]
        after = before - 1
        after[after == 0] = -1  # 0 means unknown; a voxel seen through is free
        after.clamp_(min=-self._map.max_evidence)
        self.evidence[place] = after
        self._means[place[(before > 0) & (after < 0)]] = 0
        changed[local[self._visibility(before) != self._visibility(after)]] = True

    def _visibility(self, evidence: Tensor) -> Tensor:
        """Evidence as the network sees it: int8 from -2 to 2, see `BoxContent`."""
        sure = (evidence.abs() > self._map.max_evidence // 2).to(torch.int8)
        return evidence.sign() * (1 + sure)

    # ---- reading ----------------------------------------------------------------------------

    def evidence_of_window(self) -> Tensor:
        """(X, Y, Z) int8 evidence of the window's voxels (without the halo) in lattice order."""
        halo = self.lattice.halo_voxels
        x, y, z = (self._ring(axis)[halo : int(self.shape[axis]) - halo] for axis in range(3))
        return self.evidence.view(*self.shape)[x][:, y][:, :, z]

    def box_places(self, crop: CropIndex) -> Tensor:
        """(n, n, n) places in the buffer of the voxels of a crop's box."""
        assert self.min_crop is not None
        start = (np.asarray(crop) - self.min_crop) * self.lattice.crop_voxels
        n = self.lattice.box_voxels
        x, y, z = (self._ring(axis)[int(start[axis]) : int(start[axis]) + n] for axis in range(3))
        ny, nz = int(self.shape[1]), int(self.shape[2])
        return (x[:, None, None] * ny + y[:, None]) * nz + z

    def has_points(self, crop: CropIndex) -> bool:
        """Whether anything was hit in a crop's box."""
        return bool((self.evidence[self.box_places(crop)] > 0).any())

    def box(self, crop: CropIndex) -> BoxContent:
        """The measured content of a crop's box."""
        places = self.box_places(crop)  # n n n
        evidence = self.evidence[places]
        voxel = (evidence > 0).nonzero()  # V 3
        rows = self._means[places[tuple(voxel.T)]]  # V s 7
        v, slot = (rows[:, :, 6] > 0).nonzero(as_tuple=True)
        offset, direction = _decode(rows[v, slot])
        sub = self.lattice.SUB
        corner = torch.stack([slot // sub**2, slot // sub % sub, slot % sub], dim=1)
        return BoxContent(
            (corner + offset) / sub + voxel[v],
            direction,
            weights_of_means(rows[v, slot, 6]),
            self._visibility(evidence),
        )


def _encode(mean: Tensor) -> Tensor:
    """(K, 6) offset in [0, 1) and direction in [-1, 1] to (K, 6) uint8."""
    offset = (mean[:, :3] * _STEPS).floor().clamp(0, _STEPS - 1)
    direction = ((mean[:, 3:] + 1) * 127.5).round().clamp(0, 255)
    return torch.cat([offset, direction], dim=1).to(torch.uint8)


def _decode(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(K, 7) uint8 to offsets strictly inside the sub-voxel and directions, (K, 3) float32."""
    values = rows.float()
    return (values[:, :3] + 0.5) / _STEPS, values[:, 3:6] / 127.5 - 1
