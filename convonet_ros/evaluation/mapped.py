"""The map as methods of the robot's table: as it is, with something left out, and rays alone."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from convonet_ros.config import Config
from convonet_ros.datasets.recordings import Recording
from convonet_ros.evaluation.reconstruction import Reconstruction, ValueLattice, nothing
from convonet_ros.geometry import Lattice
from convonet_ros.mapping.mapper import Mapper
from convonet_ros.mapping.meshing import closed_surface
from convonet_ros.mapping.occupancy import P_OBSERVED_FREE
from convonet_ros.mapping.volume import Volume
from convonet_ros.model import zoo
from convonet_ros.model.calibration import Calibration
from convonet_ros.offline.files import merged
from convonet_ros.offline.pipeline import extent, window_for

# OctoMap's log-odds (Hornung et al., 2013) per unit of evidence: a hit counts 2 and is 0.7, a ray
# that passes counts -1 and is 0.4.
_LOG_ODDS = 0.42
_COARSE = Lattice(0.1, 16, 4)  # of ray casting alone, whose cells are as large as the grid's


class Mapped:
    """The map with a checkpoint that it can use, by default the package's.

    ruled: whether a measured ray beats the network. Raises ValueError for a file that the map
    cannot use.
    """

    def __init__(self, weights: str = "", ruled: bool = True) -> None:
        self._network, about = zoo.load_crops(weights)
        self._calibration = Calibration.of(about)
        self._ruled = ruled

    def __call__(self, recording: Recording, config: Config) -> Reconstruction:
        network = self._network
        lattice = Lattice(network.voxel_m, network.crop_voxels, network.halo_voxels)
        config, middle = _window(recording, config, lattice)
        mapper = (Mapper if self._ruled else UnruledMapper)(config, network)
        mapper.engine.calibration = self._calibration
        mapper.volume.hold(middle)
        for scan in recording.scans(config):
            mapper.integrate(scan)
        mesh = merged(mapper.update(math.inf).meshes.values())
        answers = _Answers(mapper, self._ruled)
        return Reconstruction(mesh.vertices, mesh.triangles, answers.occupied, answers.probability)


class UnruledMapper(Mapper):
    """A map that believes its network more than its rays."""

    def _ruled(self, free: Tensor, logits: Tensor) -> Tensor:
        return logits


class _Answers:
    """What a map says of any point, to the precision of its mesh: its lattice is interpolated.

    Where the rule holds, observed free cells have the probability that the map gives them.
    """

    def __init__(self, mapper: Mapper, ruled: bool) -> None:
        self._mapper, self._ruled = mapper, ruled
        self._lattice: ValueLattice | None = None

    def logits(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points to (N,) float32, NaN where nothing is known."""
        if self._lattice is None:
            self._lattice = _logits_of_window(self._mapper)
        return self._lattice.at(points)

    def occupied(self, points: np.ndarray) -> np.ndarray:
        return self.logits(points) >= self._mapper.engine.threshold

    def probability(self, points: np.ndarray) -> np.ndarray:
        found = torch.from_numpy(self.logits(points)).sigmoid().numpy()
        if not self._ruled:
            return found
        free = _evidence(self._mapper.volume).nearest(points, 0) < 0
        return np.where(free, np.fmin(found, np.float32(P_OBSERVED_FREE)), found)


def _logits_of_window(mapper: Mapper) -> ValueLattice:
    """The decoded lattice of all crops of the window."""
    volume, side = mapper.volume, mapper.field.side
    assert volume.min_crop is not None
    values = np.full(tuple(volume.window * side), np.nan, np.float16)
    for crop in volume.crops():
        low = (np.asarray(crop) - volume.min_crop) * side
        place = tuple(slice(int(n), int(n) + side) for n in low)
        values[place] = mapper.field.block(crop, [crop])[:-1, :-1, :-1].cpu().numpy()
    sub_m = mapper.lattice.sub_m
    first = volume.min_crop * mapper.lattice.crop_m + sub_m / 2
    return ValueLattice(values, first, sub_m)


def _window(recording: Recording, config: Config, lattice: Lattice) -> tuple[Config, np.ndarray]:
    """The configuration with a window that holds the whole recording, and the window's middle."""
    box = extent(recording, config, lambda what, done, total: None)
    config, middle = window_for(box, config, lattice)
    if middle is None:
        raise ValueError(f"recording {recording.folder}: too large to be held in memory as a whole")
    return config, middle


# ---- rays alone ----------------------------------------------------------------------------------


def measured(recording: Recording, config: Config, lattice: Lattice) -> ValueLattice:
    """The evidence of the volume of a map at the middles of its cells; 0 is unknown, not NaN."""
    config, middle = _window(recording, config, lattice)
    volume = Volume(lattice, config.map, config.scan, torch.device("cpu"))
    volume.hold(middle)
    with torch.inference_mode():
        for scan in recording.scans(config):
            volume.integrate(scan.points, scan.T_map_sensor)
    return _evidence(volume)


def _evidence(volume: Volume) -> ValueLattice:
    assert volume.min_crop is not None
    lattice = volume.lattice
    first = volume.min_crop * lattice.crop_m + lattice.sub_m / 2
    return ValueLattice(volume.evidence_of_window().cpu().numpy(), first, lattice.sub_m)


def ray_cast(recording: Recording, config: Config) -> Reconstruction:
    """Occupancy by ray casting, as OctoMap's (Hornung et al., 2013): evidence as it is.

    Hit cells of 5 cm are occupied, crossed ones free. The surface is that of marching cubes around
    the hit cells. The probability is OctoMap's for as many hits and passes.
    """
    evidence = measured(recording, config, _COARSE)
    hit = np.argwhere(evidence.values > 0)
    if not len(hit):
        return nothing()
    low, high = hit.min(axis=0), hit.max(axis=0) + 1
    around = evidence.values[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    vertices, triangles = closed_surface(np.where(around > 0, 1.0, -1.0), 0.0)

    def probability(points: np.ndarray) -> np.ndarray:
        found = evidence.nearest(points, 0)
        known = 1 / (1 + np.exp(-_LOG_ODDS * found.astype(np.float32)))
        return np.where(found != 0, known, np.float32(np.nan))

    return Reconstruction(
        ((vertices + low) * evidence.step_m + evidence.first_m).astype(np.float32),
        triangles,
        lambda points: evidence.nearest(points, 0) > 0,
        probability,
    )
