"""The recipe: scans in, map updates out. Read this first."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from convonet_ros.config import Config
from convonet_ros.geometry import point_to_index
from convonet_ros.mapping.engine import Engine
from convonet_ros.mapping.field import Field, highest_of_voxels
from convonet_ros.mapping.meshing import Mesh, mesh_of_block, near_hits, no_mesh
from convonet_ros.mapping.occupancy import OccupancyVolume, classify, evidence_of_voxels
from convonet_ros.mapping.scheduler import Scheduler
from convonet_ros.mapping.volume import CropIndex, Volume
from convonet_ros.model import zoo
from convonet_ros.model.calibration import Calibration
from convonet_ros.model.crops import CropModel
from convonet_ros.sensors import Scan

# Observed free lattice points lie at least this far (in logits) below the threshold.
_BELOW = 0.5
_GPU_BATCH = 8


@dataclass(frozen=True, slots=True)
class MapUpdate:
    """What changed since the last update: the only thing the map hands out by itself.

    stamp_ns: stamp of the newest scan in it. meshes: new meshes by crop; an empty one erases its
    crop, whose surface vanished. left: crops that left the window with what they held.
    cleared: drop everything known before this update. inferred: crops that the network saw.
    since_ns: stamp of the oldest scan whose change it took up, 0 where nothing was inferred.
    waiting: crops still dirty. stage_ms: milliseconds spent on integrate, infer and mesh.
    """

    stamp_ns: int
    meshes: dict[CropIndex, Mesh]
    left: tuple[CropIndex, ...] = ()
    cleared: bool = False
    inferred: tuple[CropIndex, ...] = ()
    since_ns: int = 0
    waiting: int = 0
    stage_ms: dict[str, float] = field(default_factory=dict)


class Mapper:
    """A map that grows: a rolling volume, dirty crops, their inference, and what comes of it.

    `integrate` a scan as soon as it comes; `update` whenever there is time. A crop's result is a
    function of what was measured in its box, so the order and number of updates do not matter:
    once nothing waits, the map equals the one inferred only at the end.
    """

    def __init__(self, config: Config, network: CropModel | None = None) -> None:
        """network: None loads config.model.weights; ValueError when that file is no good, or for
        a window that is too large for memory."""
        calibration = Calibration()
        if network is None:
            network, about = zoo.load_crops(config.model.weights, config.model.config)
            calibration = Calibration.of(about)
        self.config = config
        self.engine = Engine(network, config.model, calibration)
        self.device, self.lattice = self.engine.device, self.engine.lattice
        try:
            self.volume = Volume(self.lattice, config.map, config.scan, self.device)
            self.field = Field(self.lattice, self.volume.window, self.device)
        except (RuntimeError, MemoryError) as error:
            xy, z = config.map.window_xy_crops, config.map.window_z_crops
            raise ValueError(
                f"map.window_xy_crops, map.window_z_crops: a window of {xy} x {xy} x {z} crops "
                f"does not fit into the memory of {self.device}; choose a smaller one"
            ) from error
        self.scheduler = Scheduler(self.lattice)
        self.inferred_total = 0
        self._batch = config.update.batch_crops or (1 if self.device.type == "cpu" else _GPU_BATCH)
        self._stamp_ns = 0
        self._position = np.zeros(3)
        self._dirty_meshes: set[CropIndex] = set()
        self._meshed: set[CropIndex] = set()  # crops whose last mesh was not empty
        self._left: list[CropIndex] = []
        self._cleared = False
        self._integrate_ms = 0.0
        self._occupancy: OccupancyVolume | None = None  # until the map changes

    # ---- in ---------------------------------------------------------------------------------

    @torch.inference_mode()
    def integrate(self, scan: Scan) -> None:
        """Take up one scan: follow the sensor, insert points, carve free space, mark crops."""
        started = time.perf_counter()
        self._occupancy = None
        self._position = scan.T_map_sensor[:3, 3]
        before = self.volume.crops()
        left = self.volume.follow(self._position)
        if left:
            # What entered may hold points already, from when it was halo.
            entered = set(self.volume.crops()).difference(before)
            filled = [crop for crop in sorted(entered) if self.volume.has_points(crop)]
            self.scheduler.add(filled, scan.stamp_ns)
        for crop in left:
            self.field.forget(crop)
            # The surfaces before it reached into its first lattice points.
            before_it = {tuple(np.subtract(crop, step).tolist()) for step in np.ndindex(2, 2, 2)}
            self._dirty_meshes |= before_it & self._meshed
        self.scheduler.drop(left)
        self._dirty_meshes.difference_update(left)
        self._left += [crop for crop in left if crop in self._meshed]
        self._meshed.difference_update(left)
        changed = self.volume.integrate(scan.points, scan.T_map_sensor)
        self.scheduler.mark(self.volume, changed, scan.stamp_ns)
        self._stamp_ns = max(self._stamp_ns, scan.stamp_ns)
        self._integrate_ms += (time.perf_counter() - started) * 1e3

    def reset(self) -> None:
        """Forget everything; the next update says so."""
        self._occupancy = None
        self.volume.clear()
        self.field.clear()
        self.scheduler.clear()
        self._dirty_meshes.clear()
        self._meshed.clear()
        self._left.clear()
        self._stamp_ns = 0
        self._cleared = True

    # ---- out --------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Crops that wait for inference."""
        return len(self.scheduler)

    @torch.inference_mode()
    def update(self, budget_s: float | None = None) -> MapUpdate:
        """Infer the most valuable dirty crops within the budget and mesh what changed.

        budget_s: seconds, None for the configured ones, math.inf until nothing waits; at least
        one batch is inferred if any crop waits.
        """
        started = time.perf_counter()
        budget_s = self.config.update.budget_s if budget_s is None else budget_s
        inferred: list[CropIndex] = []
        since_ns = self._stamp_ns
        while self.waiting:
            taken = self.scheduler.take(self._batch, self._position, self._stamp_ns)
            crops = [crop for crop, _ in taken]
            self._infer(crops)
            inferred += crops
            since_ns = min(since_ns, *(since for _, since in taken))
            if time.perf_counter() - started >= budget_s:
                break
        self.inferred_total += len(inferred)
        inferring_ms = (time.perf_counter() - started) * 1e3
        meshes = {crop: self._mesh(crop) for crop in sorted(self._dirty_meshes)}
        self._dirty_meshes.clear()
        # A crop that had no surface and has none now is no news.
        meshes = {c: m for c, m in meshes.items() if not m.empty or c in self._meshed}
        self._meshed |= {c for c, m in meshes.items() if not m.empty}
        self._meshed -= {c for c, m in meshes.items() if m.empty}
        left, self._left = tuple(self._left), []
        cleared, self._cleared = self._cleared, False
        stage_ms = {
            "integrate": self._integrate_ms,
            "infer": inferring_ms,
            "mesh": (time.perf_counter() - started) * 1e3 - inferring_ms,
        }
        self._integrate_ms = 0.0
        return MapUpdate(
            self._stamp_ns,
            meshes,
            left,
            cleared,
            tuple(inferred),
            since_ns if inferred else 0,
            self.waiting,
            stage_ms,
        )

    @torch.inference_mode()
    def everything(self) -> MapUpdate:
        """All meshes of the window as one update, for those who came late."""
        meshes = {crop: self._mesh(crop) for crop in sorted(self._meshed)}
        return MapUpdate(self._stamp_ns, meshes, cleared=True, waiting=self.waiting)

    def occupancy(self) -> OccupancyVolume:
        """Probability and class of every voxel of the window (all unknown before a scan).

        Made once until the map changes; not to be written to.
        """
        if self._occupancy is None:
            self._occupancy = self._make_occupancy()
        return self._occupancy

    @torch.inference_mode()
    def _make_occupancy(self) -> OccupancyVolume:
        volume = self.volume
        if volume.min_crop is None:
            shape = tuple(volume.window * self.lattice.crop_voxels)
            unknown = np.full(shape, np.nan, np.float32)
            origin = -0.5 * np.asarray(shape) * self.lattice.voxel_m
            return OccupancyVolume(
                np.round(origin / self.lattice.voxel_m) * self.lattice.voxel_m,
                self.lattice.voxel_m, unknown, np.zeros(shape, np.uint8), self._stamp_ns,
            )  # fmt: skip
        evidence, highest = volume.evidence_of_window(), self.field.highest(volume.min_crop)
        for crop in self.scheduler.crops:  # rays may have crossed what was predicted there
            at = np.asarray(crop) - volume.min_crop
            fine, coarse = (
                tuple(slice(i * side, (i + 1) * side) for i in at.tolist())
                for side in (self.field.side, self.lattice.crop_voxels)
            )
            if not (highest[coarse] >= self.engine.threshold - _BELOW).any():
                continue
            stored = self.field.of(crop)
            ruled = torch.where(stored.isnan(), stored, self._ruled(evidence[fine] < 0, stored))
            highest[coarse] = highest_of_voxels(ruled)
        probability, classes = classify(
            evidence_of_voxels(evidence), highest, self.engine.threshold, self._confirmed
        )
        return OccupancyVolume(
            volume.min_crop * self.lattice.crop_m,
            self.lattice.voxel_m,
            probability.cpu().numpy(),
            classes.cpu().numpy(),
            self._stamp_ns,
        )

    def query(self, points_map: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probability (N,) float32 (NaN unknown) and class (N,) uint8 at (N, 3) points."""
        points_map = np.asarray(points_map, dtype=np.float64).reshape(-1, 3)
        volume = self.occupancy()
        ok = np.asarray(np.isfinite(points_map).all(axis=1))
        # Clipped, for the index of a point at 1e300 is no integer.
        near = np.where(ok[:, None], points_map, 0) - volume.origin_m
        index = point_to_index(np.clip(near, -1e6, 1e6), self.lattice.voxel_m)
        ok &= ((index >= 0) & (index < volume.classes.shape)).all(axis=1)
        place = tuple(np.where(ok[:, None], index, 0).T)
        probability = np.where(ok, volume.probability[place], np.float32(np.nan))
        return probability, np.where(ok, volume.classes[place], 0).astype(np.uint8)

    # ---- inside -----------------------------------------------------------------------------

    @property
    def _confirmed(self) -> int:
        """Evidence from which hits need no agreement of the network: two scans."""
        return min(2 * self.config.map.hit_weight, self.config.map.max_evidence)

    def _infer(self, crops: list[CropIndex]) -> None:
        self._occupancy = None
        boxes = [self.volume.box(crop) for crop in crops]
        halo = self.lattice.SUB * self.lattice.halo_voxels
        core = slice(halo, halo + self.field.side)
        for crop, box, logits in zip(crops, boxes, self.engine.infer(boxes), strict=True):
            free = box.visibility[core, core, core] < 0
            affected = self.field.store(crop, self._ruled(free, logits))
            # Which voxels were measured colours the mesh, so the crop's own mesh is made anew.
            self._dirty_meshes |= {c for c in (*affected, crop) if self.volume.holds(c)}

    def _ruled(self, free: Tensor, logits: Tensor) -> Tensor:
        """The rule that a measured ray beats the network, for a crop's (m, m, m) logits and what
        is observed free."""
        limit = self.engine.threshold - _BELOW
        return torch.where(free, logits.nan_to_num(nan=limit).clamp(max=limit), logits)

    def _mesh(self, crop: CropIndex) -> Mesh:
        values = self.field.block(crop, self.volume.crops()).float().cpu().numpy()
        if not (values >= self.engine.threshold).any():
            return no_mesh()
        return mesh_of_block(
            values,
            self.engine.threshold,
            np.asarray(crop) * self.field.side,
            self.lattice.sub_m,
            near_hits(self.volume.evidence_of_box(crop), self.lattice),
        )
