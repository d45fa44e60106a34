"""A bare cloud of any size, z up and in metres, to a surface by the map's own network.

Nobody knows from where the points were measured. Normals stand in for that: they are taken as the
directions to a sensor, whose rays have passed before the surface. Without normals there is neither.
Nor does anybody know how often: a cloud counts as one scan.

Crops lie on the map's lattice. They are inferred layer by layer, across the cloud's longest side; a
layer is meshed when the next one is there, and then dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from convonet_ros.config import Config
from convonet_ros.geometry import Lattice
from convonet_ros.mapping.engine import Engine
from convonet_ros.mapping.meshing import Mesh, mesh_of_block, near_hits, no_mesh
from convonet_ros.mapping.volume import CropIndex
from convonet_ros.model import zoo
from convonet_ros.model.calibration import Calibration
from convonet_ros.model.features import BoxContent, weights_of_means
from convonet_ros.offline.clouds import Cloud
from convonet_ros.offline.files import merged
from convonet_ros.offline.pipeline import surface_of_map
from convonet_ros.offline.surfaces import Surface

MESH_SAMPLES = 2_000_000  # points to draw on a mesh, for a whole building too
_LEAST_M, _MOST_M = 0.5, 10_000.0  # along the longest side
_MAX_CROPS = 10_000  # some 25 000 square metres of surface
_FEWEST = 8  # points per crop, on average
_STEP = 0.25  # of a ray, in voxels
_HAS_NORMAL = 0.5  # length of a mean normal from which it is one
_CHUNK = 4_000_000  # points that are averaged at a time
_GPU_BATCH = 8


def reconstruct_cloud(
    cloud: Cloud,
    config: Config,
    simplify_to: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Surface:
    """The surface of a cloud in metres with z up, in the cloud's own frame.

    Its normals, if it has some, have to face free space. The nearest points give the colours;
    without any, measured surface has one tone and predicted surface another. progress: crops done,
    of how many.

    Raises ValueError for weights that the map cannot use, and for a cloud that is too small, too
    large or too thin to be one in metres.
    """
    network, about = zoo.load_crops(config.model.weights, config.model.config)
    engine = Engine(network, config.model, Calibration.of(about))
    lattice = engine.lattice
    low, high = cloud.points.min(axis=0), cloud.points.max(axis=0)
    side_m = float((high - low).max())
    if not _LEAST_M <= side_m <= _MOST_M:
        raise ValueError(
            f"cloud: expected metres, and a longest side of {_LEAST_M:g} to {_MOST_M:g}, got "
            f"{side_m:.4g}; scale it, or give the --weights of a network of objects"
        )
    # float32 is for small numbers; whole crops, so that the lattice stays
    base_m = np.rint((low + high) / 2 / lattice.crop_m) * lattice.crop_m
    axis = int(np.argmax(high - low))
    means = _averaged(cloud, base_m, axis, lattice)
    crops = _crops_of(means, axis, round(config.model.completion_m / lattice.voxel_m), lattice)
    if len(crops) > _MAX_CROPS:
        raise ValueError(
            f"cloud: expected at most {_MAX_CROPS} crops of {lattice.crop_m:g} m, got "
            f"{len(crops)}; is its unit another than the metre?"
        )
    if len(cloud.points) < _FEWEST * len(crops):
        raise ValueError(
            f"cloud: expected at least {_FEWEST} points in a crop of {lattice.crop_m:g} m, got "
            f"{len(cloud.points)} in {len(crops)}; is its unit another than the metre?"
        )
    batch = config.update.batch_crops or (1 if engine.device.type == "cpu" else _GPU_BATCH)
    layers = ([*layer] for _, layer in groupby(crops, key=lambda crop: crop[axis]))
    boxes = _Boxes(lattice, config)
    made = _meshes(engine, means, layers, axis, boxes, batch, lambda n: progress(n, len(crops)))
    found = surface_of_map(merged(made), simplify_to)
    found = replace(found, vertices=found.vertices + base_m)
    if cloud.colours is None or found.empty:
        return found
    nearest = cKDTree(cloud.points).query(found.vertices)[1]
    return replace(found, colours=cloud.colours[nearest])


# ---- points to boxes -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Means:
    """The mean points of the sub-voxels that hold some, sorted along the axis of the layers.

    sub: (S, 3) int32 sub-voxels of the lattice; offset: (S, 3) float32 mean place in the sub-voxel,
    0 to 1; direction: (S, 3) float32 mean normal, 0 without; count: (S,) float32 points.
    """

    sub: np.ndarray
    offset: np.ndarray
    direction: np.ndarray
    count: np.ndarray


def _averaged(cloud: Cloud, base_m: np.ndarray, axis: int, lattice: Lattice) -> _Means:
    """The mean points of a cloud, of which a part is taken at a time: memory follows surface."""
    order = [axis, *(a for a in range(3) if a != axis)]
    low = np.floor((cloud.points.min(axis=0) - base_m) / lattice.sub_m).astype(np.int64)
    high = np.floor((cloud.points.max(axis=0) - base_m) / lattice.sub_m).astype(np.int64)
    _, ny, nz = (high - low + 1)[order]
    keys, sums = np.empty(0, np.int64), np.empty((0, 7))
    for start in range(0, len(cloud.points), _CHUNK):
        part = slice(start, start + _CHUNK)
        place = (cloud.points[part] - base_m) / lattice.sub_m  # N 3
        sub = np.floor(place)
        rows = np.zeros((len(place), 7))
        rows[:, :3], rows[:, 6] = place - sub, 1
        if cloud.normals is not None:
            rows[:, 3:6] = cloud.normals[part]
        x, y, z = (sub.astype(np.int64) - low)[:, order].T
        keys, sums = _summed(np.append(keys, (x * ny + y) * nz + z), np.concatenate([sums, rows]))
    sub = np.empty((len(keys), 3), np.int32)
    sub[:, order] = np.stack([keys // (ny * nz), keys // nz % ny, keys % nz], axis=1)
    mean = (sums[:, :6] / sums[:, 6:]).astype(np.float32)
    return _Means(sub + low.astype(np.int32), mean[:, :3], mean[:, 3:], sums[:, 6].astype("f4"))


def _summed(keys: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N,) keys and (N, C) rows to the keys, each once and sorted, and the sums of their rows."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    first = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
    return keys[first], np.add.reduceat(rows[order], first, axis=0)


def _crops_of(means: _Means, axis: int, reach: int, lattice: Lattice) -> list[CropIndex]:
    """The crops that hold a voxel within `reach` voxels of one with points, layer by layer."""
    voxel = _distinct(means.sub // lattice.SUB)
    touched = [
        (voxel + np.where(pick, reach, -reach)) // lattice.crop_voxels
        for pick in np.ndindex(2, 2, 2)
    ]
    crops = _distinct(np.concatenate(touched))
    x, y, z = crops[np.argsort(crops[:, axis], kind="stable")].T.tolist()
    return list(zip(x, y, z, strict=True))


def _distinct(cells: np.ndarray) -> np.ndarray:
    """(N, 3) cells to (D, 3), each once, in the order of their axes."""
    low = cells.min(axis=0)
    _, ny, nz = (cells.max(axis=0) - low + 1).astype(np.int64)
    x, y, z = (cells - low).astype(np.int64).T
    keys = np.unique((x * ny + y) * nz + z)
    return np.stack([keys // (ny * nz), keys // nz % ny, keys % nz], axis=1) + low


def _slab(means: _Means, axis: int, layer: int, lattice: Lattice) -> _Means:
    """The mean points in the boxes of a layer of crops."""
    first = layer * lattice.crop_voxels - lattice.halo_voxels
    ends = np.array([first, first + lattice.box_voxels]) * lattice.SUB
    part = slice(*np.searchsorted(means.sub[:, axis], ends))
    return _Means(means.sub[part], means.offset[part], means.direction[part], means.count[part])


@dataclass(frozen=True, slots=True)
class _Boxes:
    """What the network sees of crops, as the map's `Volume` has it."""

    lattice: Lattice
    config: Config

    def of(self, means: _Means, crop: CropIndex) -> BoxContent:
        """The content of a crop's box."""
        sub, n = self.lattice.SUB, self.lattice.box_voxels
        low = (np.asarray(crop) * self.lattice.crop_voxels - self.lattice.halo_voxels) * sub
        local = means.sub - low
        inside = ((local >= 0) & (local < n * sub)).all(axis=1)
        local, count, direction = local[inside], means.count[inside], means.direction[inside]
        # strictly inside of the sub-voxel, also after rounding to float32
        points = (local + means.offset[inside].clip(0, 1 - 1 / 512)) / sub
        hit = np.zeros((n * sub,) * 3, bool)
        hit[tuple(local.T)] = True
        voxels = np.asarray(hit.reshape(n, sub, n, sub, n, sub).any(axis=(1, 3, 5)))
        seen = hit.astype(np.int8) - (self._passed(points, direction, voxels) & ~hit)
        weights = weights_of_means(torch.from_numpy(count))
        arrays = (points.astype(np.float32), direction, seen)
        position, towards, visibility = map(torch.from_numpy, arrays)
        return BoxContent(position, towards, weights, visibility)

    def _passed(self, points: np.ndarray, direction: np.ndarray, hit: np.ndarray) -> np.ndarray:
        """(SUB n)^3 bool, sub-voxels that rays along the normals of (P, 3) points cross.

        hit: (n, n, n) bool, voxels. A ray begins the map's margin before its point, ends before the
        next hit voxel, as what was scanned sparsely is closed all the same, and is no longer than
        the halo: a crop's box holds the points of all rays that reach the crop.
        """
        n, sub = len(hit), self.lattice.SUB
        length = np.linalg.norm(direction, axis=1)
        has = length > _HAS_NORMAL
        points, direction = points[has], direction[has] / length[has, None]
        passed = np.zeros((sub * n) ** 3, bool)
        first = self.config.scan.carve_margin_m / self.lattice.voxel_m + _STEP / 2
        for distance in np.arange(first, self.lattice.halo_voxels, _STEP):
            place = np.floor(sub * (points + distance * direction)).astype(np.int64)
            going = ((place >= 0) & (place < sub * n)).all(axis=1)
            place = place.clip(0, sub * n - 1)
            going &= ~hit.ravel()[_flat(place // sub, n)]
            points, direction = points[going], direction[going]
            passed[_flat(place[going], sub * n)] = True
        return passed.reshape((sub * n,) * 3)


def _flat(place: np.ndarray, n: int) -> np.ndarray:
    """(N, 3) cells of a cube of n a side to (N,) places."""
    return (place[:, 0] * n + place[:, 1]) * n + place[:, 2]


# ---- boxes to meshes -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Decoded:
    """A crop's (m, m, m) logits, and which voxels in and just beyond it are close to points."""

    logits: Tensor
    observed: np.ndarray


def _meshes(
    engine: Engine,
    means: _Means,
    layers: Iterable[list[CropIndex]],
    axis: int,
    boxes: _Boxes,
    batch: int,
    progress: Callable[[int], None],
) -> Iterator[Mesh]:
    """The meshes of all crops; two layers are kept at any time."""
    before: dict[CropIndex, _Decoded] = {}
    done = 0
    for layer in layers:
        decoded: dict[CropIndex, _Decoded] = {}
        slab = _slab(means, axis, layer[0][axis], engine.lattice)
        for start in range(0, len(layer), batch):
            some = layer[start : start + batch]
            content = [_moved(boxes.of(slab, crop), engine.device) for crop in some]
            for crop, box, logits in zip(some, content, engine.infer(content), strict=True):
                decoded[crop] = _Decoded(logits.cpu(), near_hits(box.visibility, engine.lattice))
            done += len(some)
            progress(done)
        for crop in before:
            yield _mesh(crop, {**before, **decoded}, engine)
        before = decoded
    for crop in before:
        yield _mesh(crop, before, engine)


def _moved(box: BoxContent, device: torch.device) -> BoxContent:
    parts = (box.points, box.directions, box.weights, box.visibility)
    return BoxContent(*(part.to(device) for part in parts))


def _mesh(crop: CropIndex, decoded: dict[CropIndex, _Decoded], engine: Engine) -> Mesh:
    """The mesh of a crop, which reaches to the first planes of the next crops."""
    side = engine.lattice.crop_voxels * engine.lattice.SUB
    values = np.full((side + 1,) * 3, np.nan, np.float32)
    for offset in np.ndindex(2, 2, 2):
        x, y, z = (int(c + o) for c, o in zip(crop, offset, strict=True))
        if (x, y, z) in decoded:
            target = tuple(slice(side, side + 1) if o else slice(0, side) for o in offset)
            source = tuple(slice(0, 1) if o else slice(None) for o in offset)
            values[target] = decoded[x, y, z].logits[source].float().numpy()
    if not (values >= engine.threshold).any():
        return no_mesh()
    first = np.asarray(crop) * side
    observed = decoded[crop].observed
    return mesh_of_block(values, engine.threshold, first, engine.lattice.sub_m, observed)
