"""Scenes of any size by sliding a crop network over them (ConvONet, section 3.4).

The crops, their order and their arithmetic are those of upstream's code. Its lattice begins at the
least coordinates of the cloud; the map of the robot has a lattice that stays, see `mapping`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from convonet_ros.mapping.meshing import closed_surface
from convonet_ros.model.features import Box
from convonet_ros.model.network import CropLayout, OccupancyNetwork
from convonet_ros.offline import mise
from convonet_ros.offline.clouds import Cloud
from convonet_ros.offline.surfaces import Surface, simplified

_MARGIN = np.float32(0.01)  # around the cloud
_QUERIES = 32_768  # decoded at a time: they stay in the cache
_MAX_CROPS = 1_000_000


@dataclass(frozen=True, slots=True)
class Tiling:
    """The crops of a scene: `counts` (3,) along the axes, x slowest, from `low` (3,) on.

    crop_m: side of a crop in the points' unit; layout: of the network, with the voxel in use.
    """

    low: np.ndarray
    crop_m: float
    counts: np.ndarray
    layout: CropLayout

    def __len__(self) -> int:
        return int(self.counts.prod())

    def corner(self, index: int) -> np.ndarray:
        """(3,) float64 least corner of a crop."""
        return np.array(np.unravel_index(index, self.counts)) * self.crop_m + self.low

    def box(self, index: int) -> Box:
        """What the network sees of a crop."""
        low = self.corner(index)
        return self.layout.box((low + (low + self.crop_m)) / 2)


def tiling(
    network: OccupancyNetwork, points: Tensor, unit_size: float, query_vol_size: int
) -> Tiling:
    """Crops of query_vol_size voxels of side unit_size over (N, 3) points.

    Raises ValueError for a network that is not fully convolutional, and without finite points.
    """
    if network.crop is None:
        raise ValueError(
            "network: expected one for crops (encoder pointnet_crop_local_pool), got one for the "
            "unit cube; reconstruct the cloud as an object"
        )
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise ValueError(f"points: expected shape (N, 3) with N above 0, got {tuple(points.shape)}")
    if not torch.isfinite(points).all():
        raise ValueError("points: expected finite coordinates, got NaN or infinity; drop those")
    if not unit_size > 0 or query_vol_size < 1:
        raise ValueError(
            "unit_size, query_vol_size: expected numbers above 0, "
            f"got {unit_size} and {query_vol_size}"
        )
    # Upstream's bounds are float32, and all that follows from them is float64.
    low = points.amin(0).cpu().numpy().astype(np.float32) - _MARGIN
    high = points.amax(0).cpu().numpy().astype(np.float32) + _MARGIN
    crop_m = query_vol_size * unit_size
    counts = np.ceil((high - low).astype(np.float64) / crop_m).astype(np.int64)
    if counts.prod() > _MAX_CROPS:
        raise ValueError(
            f"points: expected at most {_MAX_CROPS} crops of side {crop_m:g}, got {counts.prod()}; "
            "is the unit too small, or does a stray point lie far away?"
        )
    layout = replace(network.crop, unit=unit_size, query=query_vol_size)
    return Tiling(low.astype(np.float64), crop_m, counts, layout)


@torch.no_grad()
def upstream_crops(
    network: OccupancyNetwork,
    points: Tensor | np.ndarray,
    unit_size: float,
    query_vol_size: int,
    resolution: int,
) -> np.ndarray:
    """The logits that upstream's sliding window gives for every crop of a scene.

    points: (N, 3) float32, in any unit; unit_size: side of a voxel in that unit; query_vol_size:
    voxels along a crop; resolution: lattice points along a crop. Returns (crops, r, r, r) float32,
    crops with x slowest, x the first axis of each; lattice point (i, j, k) lies at the crop's
    corner + (i, j, k) / resolution of its side. Empty crops are encoded once for all of them.
    """
    cloud = torch.as_tensor(points, dtype=torch.float32)
    tiles = tiling(network, cloud, unit_size, query_vol_size)
    step = np.arange(resolution) * (tiles.crop_m / resolution)
    lattice = np.stack(np.meshgrid(step, step, step, indexing="ij"), axis=-1).reshape(-1, 3)
    shape = (len(tiles), *[resolution] * 3)
    result = np.empty(shape, np.float32)
    for index, decode, _ in _encoded(network, cloud, tiles):
        result[index] = decode(tiles.corner(index) + lattice).reshape(shape[1:])
    return result


@torch.no_grad()
def value_grid(
    network: OccupancyNetwork,
    points: Tensor | np.ndarray,
    unit_size: float,
    query_vol_size: int,
    resolution: int,
    steps: int = 0,
    threshold: float = 0.0,
    skip_empty: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, Tiling]:
    """The logits of a whole scene on one lattice, (nx, ny, nz) float32, and its crops.

    With `steps`, each crop is refined by MISE where the surface (`threshold`, a logit) passes, to
    resolution * 2^steps lattice points along its side. skip_empty: crops whose box holds no
    points are taken as free, which costs nothing; upstream asks the network all the same.
    """
    cloud = torch.as_tensor(points, dtype=torch.float32)
    tiles = tiling(network, cloud, unit_size, query_vol_size)
    side = resolution * 2**steps
    grid = np.full(tuple(tiles.counts * side), _FREE, np.float32)
    for index, decode, empty in _encoded(network, cloud, tiles, skip_empty):
        if not empty or not skip_empty:
            place = np.unravel_index(index, tiles.counts)
            block = tuple(slice(side * k, side * (k + 1)) for k in place)
            grid[block] = _values(decode, tiles, index, resolution, steps, threshold)
        if progress is not None:
            progress(index + 1, len(tiles))
    return grid, tiles


def reconstruct_scene(
    cloud: Cloud,
    network: nn.Module,
    unit_size: float | None = None,
    query_vol_size: int | None = None,
    resolution: int | None = None,
    steps: int = 0,
    threshold: float = 0.2,
    simplify_to: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Surface:
    """The surface of a cloud of any size, in the cloud's own frame and unit.

    unit_size, query_vol_size: side of a voxel and voxels along a crop, None for what the network
    was trained with. resolution: lattice points along a crop, None for one per voxel. threshold: a
    probability. Crops whose box is empty are free. The nearest points give the colours.
    """
    if not isinstance(network, OccupancyNetwork) or network.crop is None:
        raise ValueError(
            "network: expected one for crops, such as crop_room_grid64, got another; "
            "reconstruct the cloud as an object, without sliding"
        )
    if not 0 < threshold < 1:
        raise ValueError(f"threshold: expected a probability between 0 and 1, got {threshold}")
    unit = network.crop.unit if unit_size is None else unit_size
    query = network.crop.query if query_vol_size is None else query_vol_size
    level = float(np.log(threshold) - np.log(1 - threshold))
    middle = (cloud.points.min(0) + cloud.points.max(0)) / 2  # float32 is for small numbers
    points = (cloud.points - middle).astype(np.float32)
    grid, tiles = value_grid(
        network, points, unit, query, resolution or query, steps, level, True, progress
    )
    vertices, triangles = closed_surface(grid, level)
    scale = tiles.crop_m / ((resolution or query) * 2**steps)
    surface = Surface(vertices * scale + tiles.low + middle, triangles)
    surface = surface if simplify_to is None else simplified(surface, simplify_to)
    if cloud.colours is None or surface.empty:
        return surface
    nearest = cKDTree(cloud.points).query(surface.vertices)[1]
    return replace(surface, colours=cloud.colours[nearest])


_FREE = -1e6
_Decode = Callable[[np.ndarray], np.ndarray]


def _values(
    decode: _Decode, tiles: Tiling, index: int, resolution: int, steps: int, threshold: float
) -> np.ndarray:
    corner, side = tiles.corner(index), resolution * 2**steps
    if steps == 0:
        lattice = np.indices((side,) * 3).reshape(3, -1).T
        return decode(corner + lattice * (tiles.crop_m / side)).reshape((side,) * 3)
    # The last layer of MISE belongs to the next crop.
    return mise.evaluate(
        lambda lattice: decode(lattice / side * tiles.crop_m + corner),
        resolution, steps, threshold,
    )[:-1, :-1, :-1]  # fmt: skip


def _encoded(
    network: OccupancyNetwork, cloud: Tensor, tiles: Tiling, skip_empty: bool = False
) -> Iterator[tuple[int, _Decode, bool]]:
    """Per crop: its index, what decodes (M, 3) float64 points in it, and whether it is empty."""
    device = next(network.parameters()).device
    cloud = cloud.to(device)
    nothing: dict[str, Tensor] | None = None
    for index in range(len(tiles)):
        box = tiles.box(index)
        low = torch.as_tensor(box.low, dtype=torch.float32, device=device)
        high = torch.as_tensor(box.high, dtype=torch.float32, device=device)
        near = cloud[((cloud >= low) & (cloud < high)).all(dim=1)]
        if len(near):
            features = network.encode(near[None], box)
        elif skip_empty:
            features = {}
        else:
            # Without points the features do not depend on where the crop lies.
            nothing = network.encode(near[None], box) if nothing is None else nothing
            features = nothing

        def decode(
            queries: np.ndarray, features: dict[str, Tensor] = features, box: Box = box
        ) -> np.ndarray:
            parts = torch.from_numpy(queries).to(device).split(_QUERIES)
            logits = [network.decode(features, part[None], box)[0] for part in parts]
            return torch.cat(logits).float().cpu().numpy()

        yield index, decode, len(near) == 0
