"""Training samples: crops of simulated rooms as the map sees them, with the true occupancy.

The scans of a simulated camera pass through the very `Volume` that runs on the robot, so a
sample's box holds what the network meets there: averaged points, carved free space, the same halo.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convonet_ros.config import MapConfig, ScanConfig
from convonet_ros.datasets.camera import DepthCamera, add_noise, sample_views
from convonet_ros.datasets.rooms import Room, make_room
from convonet_ros.geometry import Lattice
from convonet_ros.mapping.volume import Volume
from convonet_ros.model.features import BoxContent
from convonet_ros.sensors import Intrinsics, points_from_depth
from convonet_ros.storage import write_arrays

QUERIES = 3072
_VIEWS = (1, 2, 3, 4, 6, 8, 12, 16)  # a room is sampled at some of these numbers of views
_CROPS_PER_STAGE = 4
_MIN_POINTS = 150  # crops with less are left out
_FIXED = 512  # stored point coordinates count 1/512 voxels


@dataclass(frozen=True, slots=True)
class Sample:
    """One crop: its box, (Q, 3) float32 query points in voxels of the box, (Q,) bool truth."""

    box: BoxContent
    queries: Tensor
    occupied: Tensor


def samples_of_room(seed: int, lattice: Lattice) -> list[Sample]:
    """Samples of one simulated room at several numbers of views; deterministic per seed."""
    rng = np.random.default_rng([seed, 0x5CA9])
    room = make_room(seed)
    stages = sorted(rng.choice(_VIEWS, size=3, replace=False))
    scan_config = ScanConfig(max_range_m=float(rng.uniform(3.5, 5.0)))
    volume = Volume(lattice, MapConfig(window_z_crops=4), scan_config, torch.device("cpu"))
    volume.follow(room.T_map_room[:3, 3] + [0.0, 0.0, 1.2])
    width = int(rng.choice([160, 240, 320, 480]))
    focal = width * rng.uniform(0.7, 1.1)
    intrinsics = Intrinsics(
        width, width * 3 // 4, focal, focal, (width - 1) / 2, (width * 3 // 4 - 1) / 2
    )
    camera = DepthCamera(room, intrinsics)
    pose_noise = rng.choice([0.0, 0.004, 0.01])
    samples: list[Sample] = []
    for count, T_map_camera in enumerate(sample_views(room, rng, int(stages[-1])), start=1):
        depth = add_noise(camera.render(T_map_camera), intrinsics, rng)
        volume.integrate(
            points_from_depth(depth, intrinsics, scan_config.max_points),
            _perturbed(T_map_camera, rng, pose_noise),
        )
        if count in stages:
            samples += _crops_of(volume, room, rng)
    return samples


def _perturbed(T: np.ndarray, rng: np.random.Generator, sigma_m: float) -> np.ndarray:
    """The pose with an error of sigma_m per axis and a third of a radian per metre of it."""
    w = rng.normal(0, sigma_m / 3 + 1e-12, 3)
    rotation = np.array([[1, -w[2], w[1]], [w[2], 1, -w[0]], [-w[1], w[0], 1]])
    result = T.copy()
    result[:3, :3] = rotation @ T[:3, :3]
    result[:3, 3] += rng.normal(0, sigma_m + 1e-12, 3)
    return result


def _crops_of(volume: Volume, room: Room, rng: np.random.Generator) -> Iterator[Sample]:
    """Samples of some crops that hold points, wherever in the window."""
    lattice = volume.lattice
    crops = volume.crops()
    taken = 0
    for i in rng.permutation(len(crops)):
        box = volume.box(crops[i])
        halo, end = lattice.halo_voxels, lattice.halo_voxels + lattice.crop_voxels
        core = ((box.points >= halo) & (box.points < end)).all(dim=1)
        if int(core.sum()) < _MIN_POINTS:
            continue
        queries = _queries(box, lattice, rng)
        corner = np.asarray(crops[i]) * lattice.crop_m - halo * lattice.voxel_m
        occupied = room.occupied(corner + queries * lattice.voxel_m)
        yield Sample(box, torch.from_numpy(queries.astype(np.float32)), torch.from_numpy(occupied))
        taken += 1
        if taken == _CROPS_PER_STAGE:
            return


def _queries(box: BoxContent, lattice: Lattice, rng: np.random.Generator) -> np.ndarray:
    """(Q, 3) points of the core and one voxel around it, in voxels of the box.

    Half lie close to measured points, a third within the reach of completion, the rest anywhere.
    """
    low, high = lattice.halo_voxels - 1.0, lattice.halo_voxels + lattice.crop_voxels + 1.0
    points = box.points.numpy()
    found = []
    for sigma, share in ((1.5, 0.5), (4.0, 0.3)):
        seeds = points[rng.integers(0, len(points), 12 * QUERIES)]
        near = seeds + rng.normal(0, sigma, seeds.shape)
        near = near[((near > low) & (near < high)).all(axis=1)]
        found.append(near[: int(share * QUERIES)])
    rest = QUERIES - sum(map(len, found))
    found.append(rng.uniform(low, high, (rest, 3)))
    return np.concatenate(found)


def symmetric(sample: Sample, rng: np.random.Generator) -> Sample:
    """The sample under a random one of the 8 symmetries that keep z upright."""
    n = sample.box.free.shape[0]
    points, directions = sample.box.points.clone(), sample.box.directions.clone()
    queries, free = sample.queries.clone(), sample.box.free
    for axis in (0, 1):
        if rng.random() < 0.5:
            points[:, axis] = n - points[:, axis]
            directions[:, axis] = -directions[:, axis]
            queries[:, axis] = n - queries[:, axis]
            free = free.flip(axis)
    if rng.random() < 0.5:
        swap = [1, 0, 2]
        points, directions, queries = points[:, swap], directions[:, swap], queries[:, swap]
        free = free.transpose(0, 1)
    return Sample(BoxContent(points, directions, free), queries, sample.occupied)


# ---- on disk: one .npz per room ----------------------------------------------------------------


def write_rooms(folder: Path, seeds: range, lattice: Lattice, workers: int) -> Iterator[Path]:
    """Write the samples of rooms that are not there yet; yields each room's file."""
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(folder / f"room-{seed:06d}.npz", seed, lattice) for seed in seeds]
    yield from (path for path, _, _ in jobs if path.exists())
    missing = [job for job in jobs if not job[0].exists()]
    with ProcessPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield from pool.map(_write_room, missing)


def _write_room(job: tuple[Path, int, Lattice]) -> Path:
    path, seed, lattice = job
    samples = samples_of_room(seed, lattice)
    arrays: dict[str, np.ndarray] = {"count": np.array(len(samples))}
    for i, sample in enumerate(samples):
        box = sample.box
        arrays[f"points_{i}"] = (box.points.numpy() * _FIXED).astype(np.uint16)
        arrays[f"directions_{i}"] = ((box.directions.numpy() + 1) * 127.5).round().astype(np.uint8)
        arrays[f"free_{i}"] = np.packbits(box.free.numpy())
        arrays[f"queries_{i}"] = sample.queries.numpy().astype(np.float16)
        arrays[f"occupied_{i}"] = np.packbits(sample.occupied.numpy())
    write_arrays(path, **arrays)
    return path


def read_room(path: Path, lattice: Lattice) -> list[Sample]:
    """The samples in a file of `write_rooms`."""
    n = lattice.box_voxels
    samples = []
    with np.load(path, allow_pickle=False) as arrays:
        for i in range(int(arrays["count"])):
            queries = arrays[f"queries_{i}"].astype(np.float32)
            free = np.unpackbits(arrays[f"free_{i}"], count=n**3).reshape(n, n, n).astype(bool)
            occupied = np.unpackbits(arrays[f"occupied_{i}"], count=len(queries)).astype(bool)
            points = (arrays[f"points_{i}"].astype(np.float32) + 0.5) / _FIXED
            directions = arrays[f"directions_{i}"].astype(np.float32) / 127.5 - 1
            box = BoxContent(*map(torch.from_numpy, (points, directions, free)))
            samples.append(Sample(box, torch.from_numpy(queries), torch.from_numpy(occupied)))
    return samples
