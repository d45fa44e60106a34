"""The rolling volume: what was measured around the robot, in a dense ring buffer.

It is made of cells, the lattice's sub-voxels. Each keeps the mean of its points and of their
directions to the sensor, and evidence for being occupied. A cell's place in memory is its index
modulo the buffer's shape, so memory is constant, look-up is one addition, and following the robot
only clears the slabs that leave. Evidence is an integer that saturates, so a map that keeps seeing
the same surroundings stops changing.

Free space is carved along rays: a ray enters a cell where it crosses a plane between two of them
(Amanatides and Woo, 1987); the crossings of many rays are computed at once.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from convonet_ros.config import MapConfig, ScanConfig
from convonet_ros.geometry import Lattice
from convonet_ros.model.features import BoxContent, weights_of_means

CropIndex = tuple[int, int, int]

_STEPS = 256  # a cell's mean point is kept to 1/256 of its side
# One scan may add this share of max_points_per_cell to a cell, so that its mean spans several
# scans and their pose errors.
_SCANS_PER_MEAN = 8
_RAYS = 4096  # whose crossings are computed at once, which bounds memory


class Volume:
    """The measured world around the robot; all tensors live on one device.

    A window of crops (active) plus a halo around it. Coordinates called `local` are cells from
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
        self._crop = lattice.SUB * lattice.crop_voxels
        self._halo = lattice.SUB * lattice.halo_voxels
        self.shape = self.window * self._crop + 2 * self._halo
        self.min_crop: np.ndarray | None = None  # (3,) lattice index of the window's first crop
        self._held = False
        cells = int(self.shape.prod())
        # > 0: hit, holds points; 0: unknown; < 0: observed free
        self.evidence = torch.zeros(cells, dtype=torch.int8, device=device)
        # mean offset (3), mean direction (3), count
        self._means = torch.zeros(cells, 7, dtype=torch.uint8, device=device)
        self._crossed = torch.zeros(cells, dtype=torch.bool, device=device)  # by the scan at hand

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
        shift = (target - before) * self._crop
        for axis in range(3):
            # The cells that enter take the place of those that leave; both sides are one slab.
            local = np.arange(self.shape[axis])
            entered = (local + shift[axis] < 0) | (local + shift[axis] >= self.shape[axis])
            if entered.any():
                slab = self._ring(torch.from_numpy(local[entered]).to(self.device), axis)
                self.evidence.view(*self.shape).index_fill_(axis, slab, 0)
                self._means.view(*self.shape, 7).index_fill_(axis, slab, 0)
        return [c for c in old if not self.holds(c)]

    def holds(self, crop: CropIndex) -> bool:
        """Whether the crop is one of the window's."""
        if self.min_crop is None:
            return False
        off = np.asarray(crop) - self.min_crop
        return bool(((off >= 0) & (off < self.window)).all())

    @property
    def _origin(self) -> np.ndarray:
        """(3,) index of the first cell, halo included."""
        assert self.min_crop is not None, "the window has no place before the first scan"
        return self.min_crop * self._crop - self._halo

    def crops(self) -> list[CropIndex]:
        """All crops of the window."""
        if self.min_crop is None:
            return []
        x, y, z = self.min_crop.tolist()
        return [(x + i, y + j, z + k) for i, j, k in np.ndindex(*self.window.tolist())]

    def _ring(self, local: Tensor, axis: int) -> Tensor:
        """Place in the buffer of local coordinates along an axis."""
        size = int(self.shape[axis])
        place = local + int(self._origin[axis]) % size
        return torch.where(place >= size, place - size, place)

    def _places(self, x: Tensor, y: Tensor, z: Tensor) -> Tensor:
        """Local cells to their places in the buffer; the coordinates' shapes are broadcast."""
        _, ny, nz = self.shape.tolist()
        return (self._ring(x, 0) * ny + self._ring(y, 1)) * nz + self._ring(z, 2)

    # ---- measuring --------------------------------------------------------------------------

    def integrate(self, points: np.ndarray, T_map_sensor: np.ndarray) -> Tensor:
        """Insert (N, 3) sensor-frame points and carve their rays.

        Returns (M, 3) int64 local cells whose content (as the network sees it) changed.
        """
        cell_m = self.lattice.sub_m
        R = torch.from_numpy(T_map_sensor[:3, :3].astype(np.float32)).to(self.device)
        sensor = torch.from_numpy(
            (T_map_sensor[:3, 3] / cell_m - self._origin).astype(np.float32)
        ).to(self.device)
        rays = torch.from_numpy(points).to(self.device)  # N 3
        distance = rays.norm(dim=1)  # N, metres
        keep = distance >= max(self._scan.min_range_m, 1e-3)  # a ray has a direction
        rays, distance = rays[keep] @ R.T, distance[keep]
        measured = distance <= self._scan.max_range_m
        directions = -rays / distance[:, None]
        ends = sensor + rays / cell_m
        shape = torch.from_numpy(self.shape).to(self.device)

        hits = ends[measured]
        inside = ((hits >= 0) & (hits < shape)).all(dim=1)
        hits, directions = hits[inside], directions[measured][inside]

        # A ray carves up to its margin before the end, and never beyond the sensor's range. Its
        # margin grows up to twice that range: rays from farther off reach all of it.
        far = self._scan.max_range_m
        margin = self._scan.carve_margin_per_m2 * distance.clamp(max=2 * far) ** 2
        length = (distance - self._scan.carve_margin_m - margin).clamp(max=far)
        if self._scan.max_rays:
            count = min(len(length), self._scan.max_rays)
            chosen = torch.arange(count, device=self.device) * len(length) // max(1, count)
            chosen = chosen[length[chosen] > 0]
            share = (length / distance)[chosen]
            self._traverse(sensor, (ends - sensor)[chosen] * share[:, None])
        changed = torch.cat([self._insert(hits, directions), self._carve()])
        _, ny, nz = self.shape.tolist()
        ring = torch.stack([changed // (ny * nz), changed // nz % ny, changed % nz], dim=1)
        return (ring - torch.from_numpy(self._origin).to(self.device)) % shape

    def _traverse(self, sensor: Tensor, rays: Tensor) -> None:
        """Mark the cells as crossed that rays (R, 3) from the sensor (in cells) cross."""
        shape = torch.from_numpy(self.shape).to(rays)
        rays = torch.where(rays.abs() < 1e-6, 1e-6, rays)
        # Clip to the buffer: a sensor outside of it still carves inside.
        t_low, t_high = (0 - sensor) / rays, (shape - sensor) / rays
        enter = torch.minimum(t_low, t_high).amax(dim=1).clamp(min=0)
        leave = torch.maximum(t_low, t_high).amin(dim=1).clamp(max=1)
        ok = enter < leave
        rays, enter, leave = rays[ok], enter[ok], leave[ok]
        begin, end = (
            (sensor + rays * t[:, None]).floor().clamp(min=0).minimum(shape - 1)
            for t in (enter, leave)
        )  # R 3, cells
        self._crossed.index_fill_(0, self._places(*begin.long().unbind(1)), True)
        # Every plane that a ray crosses along an axis leads into a cell. At the nth one the ray is
        # at first + n step, of which the axis' own coordinate is the cell's middle.
        tables = self._tables()
        for axis in range(3):
            planes = (end - begin)[:, axis].abs()
            crossing = planes.argsort(descending=True)[: int((planes > 0).sum())]
            # In groups of rays with about as many planes; the shorter ones stay at their last.
            for start in range(0, len(crossing), _RAYS):
                group = crossing[start : start + _RAYS]
                last = planes[group, None] - 1  # G 1
                n = torch.arange(int(last[0]) + 1, device=self.device, dtype=rays.dtype)
                n = torch.minimum(n, last)
                forward = rays[group, axis] > 0
                plane = begin[group, axis] + forward
                # Bounded, for along a plane this is a quotient of rounding errors.
                to_plane = (plane - sensor[axis]) / rays[group, axis]
                to_plane = to_plane.maximum(enter[group]).minimum(leave[group])
                first = sensor + rays[group] * to_plane[:, None]
                first[:, axis] = plane + torch.where(forward, 0.5, -0.5)
                first += 1  # as the tables count
                step = rays[group] / rays[group, axis, None].abs()
                place: Tensor | int = 0
                for k, table in enumerate(tables):
                    along = torch.addcmul(first[:, k, None], n, step[:, k, None])
                    # many times faster than table[...]
                    place = place + table.index_select(0, along.int().view(-1))
                assert isinstance(place, Tensor)
                self._crossed.index_fill_(0, place, True)

    def _tables(self) -> list[Tensor]:
        """Per axis the share of a place in the buffer by local coordinate, from -1 to shape."""
        strides = (int(self.shape[1] * self.shape[2]), int(self.shape[2]), 1)
        local = (torch.arange(-1, n + 1, device=self.device).clamp(0, n - 1) for n in self.shape)
        return [self._ring(n, k) * strides[k] for k, n in enumerate(local)]

    def _insert(self, hits: Tensor, directions: Tensor) -> Tensor:
        """Average points into their cells and raise the evidence of these; the places of a change.

        A cell that is hit takes no carving from the same scan: it does not count as crossed.
        """
        cell = hits.floor()  # N 3
        offset = (hits - cell).clamp(0, 1 - 1 / 512)  # N 3, in [0, 1)
        place = self._places(*cell.long().unbind(1))
        place, group, count = place.unique(return_inverse=True, return_counts=True)
        sums = offset.new_zeros(len(place), 6)
        sums.index_add_(0, group, torch.cat([offset, directions], dim=1))
        mean = sums / count[:, None]

        old = self._means[place]  # K 7
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
        self._means[place] = row

        before = self.evidence[place]
        after = (before.clamp(min=0).int() + self._map.hit_weight).clamp(max=self._map.max_evidence)
        after = after.to(torch.int8)
        self.evidence[place] = after
        self._crossed[place] = False
        differs = (row != old).any(dim=1) | (self._visibility(before) != self._visibility(after))
        return place[differs]

    def _carve(self) -> Tensor:
        """Lower the evidence of crossed cells, of which those that become free forget their points;
        the places of a change."""
        # Eight cells at a time (the sides are even), for most of them are not crossed.
        eight = 8 * self._crossed.view(torch.int64).nonzero()
        near = (eight + torch.arange(8, device=self.device)).view(-1)
        place = near[self._crossed[near]]
        self._crossed[place] = False
        before = self.evidence[place]
        after = before - 1
        after[after == 0] = -1  # 0 means unknown; a cell seen through is free
        after.clamp_(min=-self._map.max_evidence)
        self.evidence[place] = after
        self._means[place[(before > 0) & (after < 0)]] = 0
        return place[self._visibility(before) != self._visibility(after)]

    def _visibility(self, evidence: Tensor) -> Tensor:
        """Evidence as the network sees it: int8 from -2 to 2, see `BoxContent`."""
        sure = (evidence.abs() > self._map.max_evidence // 2).to(torch.int8)
        return evidence.sign() * (1 + sure)

    # ---- reading ----------------------------------------------------------------------------

    def evidence_of_window(self) -> Tensor:
        """(X, Y, Z) int8 evidence of the window's cells (without the halo) in lattice order."""
        start = np.full(3, self._halo)
        return self._evidence_of(start, self.shape - start)

    def evidence_of_box(self, crop: CropIndex) -> Tensor:
        """(m, m, m) int8 evidence of the cells of a crop's box."""
        start = self._corner(crop)
        return self._evidence_of(start, start + self._crop + 2 * self._halo)

    def has_points(self, crop: CropIndex) -> bool:
        """Whether anything was hit in a crop's box."""
        return bool((self.evidence_of_box(crop) > 0).any())

    def box(self, crop: CropIndex) -> BoxContent:
        """The measured content of a crop's box."""
        evidence = self.evidence_of_box(crop)
        cell = (evidence > 0).nonzero()  # P 3
        local = cell + torch.from_numpy(self._corner(crop)).to(self.device)
        rows = self._means[self._places(*local.unbind(1))]  # P 7
        offset, direction = _decode(rows)
        return BoxContent(
            (cell + offset) / self.lattice.SUB,
            direction,
            weights_of_means(rows[:, 6]),
            self._visibility(evidence),
        )

    def _corner(self, crop: CropIndex) -> np.ndarray:
        """(3,) the first local cell of a crop's box."""
        assert self.min_crop is not None
        return (np.asarray(crop) - self.min_crop) * self._crop

    def _evidence_of(self, start: np.ndarray, end: np.ndarray) -> Tensor:
        """(X, Y, Z) evidence of the local cells from start to before end."""
        found = self.evidence.view(*self.shape)
        for axis, (a, b) in enumerate(zip(start.tolist(), end.tolist(), strict=True)):
            first, size = (a + int(self._origin[axis])) % found.shape[axis], b - a
            before_end = min(size, found.shape[axis] - first)
            parts = [found.narrow(axis, first, before_end)]
            if size > before_end:
                parts.append(found.narrow(axis, 0, size - before_end))
            found = torch.cat(parts, axis)
        return found


def _encode(mean: Tensor) -> Tensor:
    """(K, 6) offset in [0, 1) and direction in [-1, 1] to (K, 6) uint8."""
    offset = (mean[:, :3] * _STEPS).floor().clamp(0, _STEPS - 1)
    direction = ((mean[:, 3:] + 1) * 127.5).round().clamp(0, 255)
    return torch.cat([offset, direction], dim=1).to(torch.uint8)


def _decode(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(K, 7) uint8 to offsets strictly inside the cell and directions, (K, 3) float32."""
    values = rows.float()
    return (values[:, :3] + 0.5) / _STEPS, values[:, 3:6] / 127.5 - 1
