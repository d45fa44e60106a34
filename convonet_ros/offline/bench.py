"""What the map costs on this machine, beside plain fusion on the same frames in the same run."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import open3d as o3d
import torch

from convonet_ros.config import Config
from convonet_ros.datasets.recordings import Frame
from convonet_ros.datasets.sensing.drives import drive_camera, drive_frames
from convonet_ros.datasets.world.rooms import make_room
from convonet_ros.geometry import inverse
from convonet_ros.mapping.mapper import Mapper
from convonet_ros.model import decoder, slabs, zoo
from convonet_ros.model.features import Box
from convonet_ros.sensors import Scan, points_from_depth

_ROOM_PITCH_M = 6.0  # from one room of the long drive to the next


def stage_times(config: Config, frames: int, width: int = 320) -> dict[str, float]:
    """Median milliseconds of each stage over a drive through one room.

    "TSDF" is Open3D's VoxelBlockGrid with voxels of the same size on the same frames.
    """
    mapper = Mapper(config)
    times: dict[str, list[float]] = {}

    def clock(stage: str, started: float, share: int = 1) -> None:
        times.setdefault(stage, []).append((time.perf_counter() - started) * 1e3 / max(1, share))

    tsdf = _Fusion(mapper.lattice.voxel_m)
    for frame in drive_frames(make_room(1), frames, drive_camera(width)):
        started = time.perf_counter()
        scan = _scan_of(frame, config)
        clock("depth image to points", started)
        started = time.perf_counter()
        mapper.integrate(scan)
        clock("integrate a scan", started)
        started = time.perf_counter()
        tsdf.integrate(frame)
        clock("TSDF: integrate a scan", started)
        update = mapper.update(0.0)
        times.setdefault("infer a crop", []).append(
            update.stage_ms["infer"] / max(1, len(update.inferred))
        )
        times.setdefault("mesh the changed crops", []).append(update.stage_ms["mesh"])
    mapper.update(math.inf)
    for _ in range(3):
        mapper.integrate(scan)  # else the occupancy stands already
        started = time.perf_counter()
        volume = mapper.occupancy()
        clock("occupancy of the window", started)
        started = time.perf_counter()
        volume.project(config.grid.min_z_m, config.grid.max_z_m)
        clock("project to 2D", started)
        started = time.perf_counter()
        tsdf.mesh()
        clock("TSDF: mesh everything", started)
    return {stage: float(np.median(values)) for stage, values in times.items()}


def memory_of_drive(config: Config, metres: float, frames_per_room: int = 12) -> list[list[float]]:
    """[distance in m, resident memory in MB] along a drive from room to room."""
    mapper = Mapper(config)
    rows = []
    for k in range(math.ceil(metres / _ROOM_PITCH_M) + 1):
        for frame in drive_frames(make_room(k), frames_per_room, drive_camera(160)):
            scan = _scan_of(frame, config)
            T_map_sensor = scan.T_map_sensor.copy()
            T_map_sensor[0, 3] += k * _ROOM_PITCH_M
            mapper.integrate(Scan(scan.points, T_map_sensor, scan.stamp_ns))
            mapper.update()
        mapper.occupancy()
        rows.append([k * _ROOM_PITCH_M, resident_mb()])
    return rows


def resident_mb(field: str = "VmRSS") -> float:
    """Resident memory of this process in MB, now or (VmHWM) at its peak (Linux)."""
    status = Path("/proc/self/status").read_text()
    return next(int(r.split()[1]) for r in status.splitlines() if r.startswith(field)) / 1024


def table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A markdown table; each row is its name and its figures."""
    lines = [head, ["---"] * len(head), *([name, *figures] for name, figures in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _scan_of(frame: Frame, config: Config) -> Scan:
    points = points_from_depth(frame.depth, frame.intrinsics, config.scan.max_points)
    return Scan(points, frame.T_map_camera, frame.stamp_ns)


class _Fusion:
    """Plain fusion: a truncated signed distance function (Curless and Levoy, 1996)."""

    def __init__(self, voxel_m: float) -> None:
        self._grid = o3d.t.geometry.VoxelBlockGrid(
            ("tsdf", "weight"),
            (o3d.core.float32, o3d.core.float32),
            (o3d.core.SizeVector([1]), o3d.core.SizeVector([1])),
            voxel_m,
            block_resolution=16,
            block_count=5000,
        )

    def integrate(self, frame: Frame) -> None:
        k = frame.intrinsics
        K = o3d.core.Tensor.from_numpy(np.array([[k.fx, 0, k.cx], [0, k.fy, k.cy], [0, 0, 1.0]]))
        T = o3d.core.Tensor.from_numpy(inverse(frame.T_map_camera))
        image = o3d.t.geometry.Image(np.ascontiguousarray(frame.depth))
        blocks = self._grid.compute_unique_block_coordinates(image, K, T, 1.0, 4.0)
        self._grid.integrate(blocks, image, K, T, 1.0, 4.0)

    def mesh(self) -> None:
        self._grid.extract_triangle_mesh(1.0)


def crop_times(query: int, repeats: int = 5) -> list[tuple[str, float, float]]:
    """(stage, plain, ours) of one crop of the published crop network: median milliseconds, and MB.

    plain: layer by layer with the operations that upstream uses, in the same run; ours: as
    `OccupancyNetwork` computes where no gradient is wanted. The peaks of memory are those of fresh
    processes that encode and decode one crop, all libraries included. query: voxels along the crop.
    """
    sides = [_crop_times(query, repeats, plain) for plain in (True, False)]
    peaks = []
    for plain in (True, False):
        program = f"from convonet_ros.offline import bench; bench._crop_times({query}, 1, {plain})"
        program += "; print(bench.resident_mb('VmHWM'))"
        done = subprocess.run(
            [sys.executable, "-c", program], check=True, capture_output=True, text=True
        )
        peaks.append(float(done.stdout))
    stages = [(stage, ms, sides[1][stage]) for stage, ms in sides[0].items()]
    return [*stages, ("peak memory, MB", peaks[0], peaks[1])]


@torch.no_grad()
def _crop_times(query: int, repeats: int, plain: bool) -> dict[str, float]:
    torch.manual_seed(0)
    config = zoo.variant("crop_room_grid64")
    config["data"] |= {"unit_size": 1.0, "query_vol_size": query}
    network = zoo.from_upstream(config).eval()
    assert network.crop is not None
    side = network.crop.side
    box = Box(np.zeros(3), np.full(3, side), side, 1.0)
    points = torch.rand(1, 100_000, 3) * side
    points[..., 2] = points[..., 2] / 8  # a thick floor
    queries = (torch.rand(1, 100_000, 3, dtype=torch.float64) * query + (side - query) / 2).split(
        100_000 if plain else 32_768, dim=1
    )
    times: dict[str, list[float]] = {"encode": [], "decode 100 000 points": []}
    with plain_operations() if plain else contextlib.nullcontext():
        for _ in range(repeats):
            started = time.perf_counter()
            features = network.encode(points, box)
            encoded = time.perf_counter()
            for part in queries:
                network.decode(features, part, box)
            for stage, seconds in zip(
                times, (encoded - started, time.perf_counter() - encoded), strict=True
            ):
                times[stage].append(seconds * 1e3)
    name = f"{side}^3 voxels: "
    return {name + stage: float(np.median(values)) for stage, values in times.items()}


@contextlib.contextmanager
def plain_operations() -> Iterator[None]:
    """Networks compute layer by layer and sample by grid_sample, as they do for a gradient."""
    fits, gathers = slabs.fits, decoder.gathers
    slabs.fits = lambda net, x: False
    decoder.gathers = lambda features: False
    try:
        yield
    finally:
        slabs.fits, decoder.gathers = fits, gathers
