"""Shapes and rooms from seeds, in the files that `convonet_ros.datasets.shapes` reads.

Both are unions of solid primitives, so that the occupancy of any point is exact. Their frame is
upstream's: y up, longest side of the bounding box 1. Objects are centred in [-0.5, 0.5]^3; rooms
stand on y = -0.5 and are centred in x and z.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from convonet_ros.datasets.archives import write_cloud, write_queries, write_voxels
from convonet_ros.datasets.world.composites import make_object
from convonet_ros.datasets.world.dolls_houses import dolls_house
from convonet_ros.datasets.world.furniture import Rng
from convonet_ros.datasets.world.primitives import Primitive, joined
from convonet_ros.datasets.world.rooms import make_room
from convonet_ros.datasets.world.solids import fitted, occupied, sample_surface, voxels
from convonet_ros.storage import write_bytes

ShapeKind = Literal["objects", "rooms"]

_OBJECT_POINTS, _ROOM_POINTS = 100_000, 40_000  # per file, surface points and query points alike
_QUERY_HALF = 0.55  # query points fill the unit cube and upstream's padding of 0.1 around it


def shape_solids(kind: ShapeKind, seed: int) -> list[Primitive]:
    """The primitives, in the unit-cube frame, whose union is the shape of a seed."""
    if kind == "objects":
        return fitted(make_object(np.random.default_rng([seed, 0x0B1])), standing=False)
    if kind == "rooms":
        return fitted(dolls_house(make_room(seed)), standing=True)
    raise ValueError(f"kind: expected one of {list(get_args(ShapeKind))}, got {kind!r}")


def shape_mesh(kind: ShapeKind, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 in the unit-cube frame and triangles (T, 3) int32, facing out.

    The primitives' meshes side by side, where they overlap also inside of each other: for pictures.
    """
    return joined(solid.mesh() for solid in shape_solids(kind, seed))


def write_shapes(
    folder: Path, kind: ShapeKind, seeds: range, split: str, workers: int, files: int = 2
) -> Iterator[Path]:
    """Write the models that are not there yet to FOLDER/<kind>/<seed>; yields each model's folder.

    objects: pointcloud.npz, points.npz, model.binvox. rooms: `files` numbered files each in
    pointcloud/ and points_iou/ (data.multi_files). When all is done, or the iteration is given up,
    the finished models are added to the split's list in the order of their seeds.
    """
    if kind not in get_args(ShapeKind):
        raise ValueError(f"kind: expected one of {list(get_args(ShapeKind))}, got {kind!r}")
    if not split or set(split) & set("/\\\0.") or workers < 1 or not 1 <= files <= 100:
        raise ValueError(
            "split, workers, files: expected a plain name, at least 1, and 1 to 100, "
            f"got {split!r}, {workers} and {files}"
        )
    category = Path(folder) / kind
    category.mkdir(parents=True, exist_ok=True)
    jobs = [(category / f"{seed:06d}", kind, seed, files) for seed in seeds]
    missing = [job for job in jobs if not all(path.exists() for path in _files(*job))]
    done = {path for path, *_ in jobs} - {path for path, *_ in missing}
    try:
        yield from (path for path, *_ in jobs if path in done)
        if missing:
            with ProcessPoolExecutor(min(workers, len(missing)), get_context("spawn")) as pool:
                for path in pool.map(_write_model, missing):
                    done.add(path)
                    yield path
    finally:
        _add_to_list(category / f"{split}.lst", [p.name for p, *_ in jobs if p in done])


def _files(folder: Path, kind: ShapeKind, seed: int, files: int) -> list[Path]:
    if kind == "objects":
        return [folder / name for name in ("pointcloud.npz", "points.npz", "model.binvox")]
    names = [(name, k) for k in range(files) for name in ("pointcloud", "points_iou")]
    return [folder / name / f"{name}_{k:02d}.npz" for name, k in names]


def _write_model(job: tuple[Path, ShapeKind, int, int]) -> Path:
    """All files of one model."""
    folder, kind, seed, _ = job
    solids = shape_solids(kind, seed)
    rng = np.random.default_rng([seed, 0xF11E])
    paths = _files(*job)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "objects":
        points, normals = _write_samples(paths[0], paths[1], solids, _OBJECT_POINTS, rng)
        write_voxels(paths[2], voxels(solids, points, normals))
        return folder
    for cloud, queries in zip(paths[::2], paths[1::2], strict=True):
        _write_samples(cloud, queries, solids, _ROOM_POINTS, rng)
    return folder


def _write_samples(
    cloud: Path, queries: Path, solids: list[Primitive], n: int, rng: Rng
) -> tuple[np.ndarray, np.ndarray]:
    """Write n points of the surface and n of space; gives those of the surface, with normals."""
    surface, normals = sample_surface(solids, n, rng)
    write_cloud(cloud, surface, normals)
    points = rng.uniform(-_QUERY_HALF, _QUERY_HALF, (n, 3)).astype(np.float16)
    write_queries(queries, points, occupied(solids, points))
    return surface, normals


def _add_to_list(path: Path, names: list[str]) -> None:
    """Add the names that a list does not have yet at its end."""
    known = path.read_text(encoding="utf-8").split() if path.exists() else []
    new = [name for name in names if name not in set(known)]
    if new:
        write_bytes(path, "".join(f"{name}\n" for name in [*known, *new]).encode())
