"""Training samples: crops of simulated scenes as the map sees them, with the true occupancy.

The scans of a simulated sensor pass through the very `Volume` that runs on the robot, so a
sample's box holds what the network meets there: averaged points, carved free space, the same halo.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convonet_ros.config import MapConfig, ScanConfig
from convonet_ros.datasets.sensing.devices import draw_sensor, sensor_views
from convonet_ros.datasets.sensing.poses import PoseNoise
from convonet_ros.datasets.sensing.rays import RayScene
from convonet_ros.datasets.world.rooms import Room
from convonet_ros.datasets.world.scenes import make_scene
from convonet_ros.geometry import Lattice
from convonet_ros.mapping.volume import Volume
from convonet_ros.model.features import BoxContent
from convonet_ros.storage import DAMAGED, write_arrays

QUERIES = 3072
_VIEWS = (1, 2, 3, 4, 6, 10, 16, 24)  # a scene is sampled at some of these numbers of views
_STAGES = 3
_CROPS_PER_STAGE = 7
_MIN_POINTS = 150  # crops with less are left out
_FIXED = 512  # stored point coordinates count 1/512 voxels


@dataclass(frozen=True, slots=True)
class Sample:
    """One crop: its box, (Q, 3) float32 query points in voxels of the box, (Q,) bool truth.

    views: scans that the map had seen.
    """

    box: BoxContent
    queries: Tensor
    occupied: Tensor
    views: int


def samples_of_room(seed: int, lattice: Lattice) -> list[Sample]:
    """Samples of one simulated scene at several numbers of views; deterministic per seed."""
    rng = np.random.default_rng([seed, 0x5CA9])
    room = make_scene(seed)
    stages = sorted(rng.choice(_VIEWS, size=_STAGES, replace=False))
    device = draw_sensor(rng)
    poses = sensor_views(device, room, rng, int(stages[-1]))
    config = ScanConfig(max_range_m=float(rng.uniform(3.5, 6.0)))
    volume = Volume(lattice, MapConfig(window_z_crops=4), config, torch.device("cpu"))
    volume.hold(np.mean(poses, axis=0)[:3, 3])
    scene, noisy = RayScene(room), PoseNoise.draw(rng).applied(poses, rng)
    samples: list[Sample] = []
    for count, (T_map_sensor, T_reported) in enumerate(zip(poses, noisy, strict=True), start=1):
        volume.integrate(device.measure(scene, T_map_sensor, rng, config.max_points), T_reported)
        if count in stages:
            samples += _crops_of(volume, room, count, rng)
    return samples


def _crops_of(volume: Volume, room: Room, views: int, rng: np.random.Generator) -> Iterator[Sample]:
    """Samples of some crops that hold points, wherever in the window."""
    lattice = volume.lattice
    halo = lattice.SUB * lattice.halo_voxels
    core = slice(halo, halo + lattice.SUB * lattice.crop_voxels)
    crops = volume.crops()
    taken = 0
    for i in rng.permutation(len(crops)):
        # Every sub-voxel that is hit holds a point.
        if int((volume.evidence_of_box(crops[i])[core, core, core] > 0).sum()) < _MIN_POINTS:
            continue
        box = volume.box(crops[i])
        queries = _queries(box, lattice, rng)
        corner = np.asarray(crops[i]) * lattice.crop_m - lattice.halo_voxels * lattice.voxel_m
        occupied = room.occupied(corner + queries.astype(np.float64) * lattice.voxel_m)
        yield Sample(box, torch.from_numpy(queries), torch.from_numpy(occupied), views)
        taken += 1
        if taken == _CROPS_PER_STAGE:
            return


def _queries(box: BoxContent, lattice: Lattice, rng: np.random.Generator) -> np.ndarray:
    """(Q, 3) float32 points of the core and one voxel around it, in voxels of the box.

    A third lies on the rays through measured points, just before and behind them, where thin
    things are found or missed; a quarter close to measured points, a quarter within the reach of
    completion, the rest anywhere. Where they lie depends on what was measured alone and not on the
    truth, so the network's answers stay calibrated.
    """
    low, high = lattice.halo_voxels - 1.0, lattice.halo_voxels + lattice.crop_voxels + 1.0
    points, directions = box.points.numpy(), box.directions.numpy()
    found = []
    for sigma, share in ((0.15, 0.35), (1.5, 0.25), (4.0, 0.25)):
        pick = rng.integers(0, len(points), 12 * QUERIES)
        near = points[pick] + rng.normal(0, sigma, (len(pick), 3))
        if sigma < 1:
            near -= directions[pick] * rng.uniform(-0.8, 1.4, (len(pick), 1))
        near = near[((near > low) & (near < high)).all(axis=1)]
        found.append(near[: int(share * QUERIES)])
    rest = QUERIES - sum(map(len, found))
    found.append(rng.uniform(low, high, (rest, 3)))
    # As they are stored, so that the truth is asked at the very points.
    return np.concatenate(found).astype(np.float16).astype(np.float32)


def symmetric(sample: Sample, rng: np.random.Generator) -> Sample:
    """The sample under a random one of the 8 symmetries that keep z upright."""
    box = sample.box
    n = box.voxels
    points, directions, visibility = box.points.clone(), box.directions.clone(), box.visibility
    queries = sample.queries.clone()
    for axis in (0, 1):
        if rng.random() < 0.5:
            points[:, axis] = n - points[:, axis]
            directions[:, axis] = -directions[:, axis]
            queries[:, axis] = n - queries[:, axis]
            visibility = visibility.flip(axis)
    if rng.random() < 0.5:
        swap = [1, 0, 2]
        points, directions, queries = points[:, swap], directions[:, swap], queries[:, swap]
        visibility = visibility.transpose(0, 1)
    box = BoxContent(points, directions, box.weights, visibility)
    return Sample(box, queries, sample.occupied, sample.views)


def blind(sample: Sample) -> Sample:
    """The sample as a cloud without sensors gives it: no directions, no rays."""
    box = sample.box
    seen = box.visibility.clamp(min=0)
    box = BoxContent(box.points, torch.zeros_like(box.directions), box.weights, seen)
    return Sample(box, sample.queries, sample.occupied, sample.views)


# ---- on disk: one .npz per scene ---------------------------------------------------------------


def write_rooms(folder: Path, seeds: range, lattice: Lattice, workers: int) -> Iterator[Path]:
    """Write the samples of scenes that are not there yet; yields each scene's file."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder / f"room-{seed:06d}.npz", seed, lattice) for seed in seeds]
    yield from (path for path, _, _ in jobs if path.exists())
    missing = [job for job in jobs if not job[0].exists()]
    # Not forked: a copy of a process whose libraries run threads may wait for them for ever.
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield from pool.map(_write_room, missing)


def _write_room(job: tuple[Path, int, Lattice]) -> Path:
    path, seed, lattice = job
    samples = samples_of_room(seed, lattice)
    arrays: dict[str, np.ndarray] = {
        "views": np.array([s.views for s in samples], np.uint8),
        "lattice": np.array(astuple(lattice)),
    }
    for i, sample in enumerate(samples):
        box = sample.box
        arrays[f"points_{i}"] = (box.points.numpy() * _FIXED).astype(np.uint16)
        arrays[f"directions_{i}"] = ((box.directions.numpy() + 1) * 127.5).round().astype(np.uint8)
        arrays[f"weights_{i}"] = (box.weights.numpy() * 255).round().astype(np.uint8)
        arrays[f"visibility_{i}"] = box.visibility.numpy()
        arrays[f"queries_{i}"] = sample.queries.numpy().astype(np.float16)
        arrays[f"occupied_{i}"] = np.packbits(sample.occupied.numpy())
    write_arrays(path, **arrays)
    return path


def views_of_samples(path: Path) -> np.ndarray:
    """(S,) numbers of views of the samples in a file of `write_rooms`."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["views"].astype(np.int64)
    except DAMAGED as error:
        raise ValueError(f"{path}: expected samples of 'convonet rooms' ({error})") from error


def read_sample(path: Path, i: int, lattice: Lattice) -> Sample:
    """Sample i in a file of `write_rooms`; ValueError for a damaged file and another lattice."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            queries = arrays[f"queries_{i}"].astype(np.float32)
            occupied = np.unpackbits(arrays[f"occupied_{i}"], count=len(queries)).astype(bool)
            points = (arrays[f"points_{i}"].astype(np.float32) + 0.5) / _FIXED
            directions = arrays[f"directions_{i}"].astype(np.float32) / 127.5 - 1
            weights = arrays[f"weights_{i}"].astype(np.float32) / 255
            visibility = arrays[f"visibility_{i}"]
            views = int(arrays["views"][i])
            made_on = arrays["lattice"].tolist()
    except DAMAGED as error:
        raise ValueError(
            f"{path}: expected samples of this version's 'convonet rooms' ({error})"
        ) from error
    if made_on != list(astuple(lattice)):
        voxel_m, crop, halo = made_on
        raise ValueError(
            f"{path}: made for voxels of {voxel_m:g} m, crops of {crop:g} and a halo of {halo:g}; "
            f"expected {lattice}. A network is trained on the lattice of its samples"
        )
    box = BoxContent(*map(torch.from_numpy, (points, directions, weights, visibility)))
    return Sample(box, torch.from_numpy(queries), torch.from_numpy(occupied), views)
