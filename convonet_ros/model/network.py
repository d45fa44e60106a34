"""The published family of networks: points or voxels in, occupancy logits at any point out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from convonet_ros.model.decoder import sample, sample_points
from convonet_ros.model.encoder import LocalVoxelEncoder, total, voxel_centres
from convonet_ros.model.features import (
    Box,
    cell_index,
    cells_of_box,
    local_position,
    scene_side,
    unit_coordinates,
)
from convonet_ros.model.onet import ResnetPointnet, VoxelEncoder
from convonet_ros.model.pointnet2 import PointNetPlusPlus


@dataclass(frozen=True, slots=True)
class CropLayout:
    """How a crop network sees a scene (ConvONet, section 3.4).

    unit: side of a voxel; query: voxels along the crop that a box is asked about; levels, depth:
    of the 3D U-Net, and of the one that decides what a side must be a multiple of. encoding:
    None (plain coordinates), linear or sin_cos position in the voxel.
    """

    kinds: tuple[str, ...]
    unit: float
    query: int
    levels: int
    depth: int
    encoding: str | None

    @property
    def side(self) -> int:
        """Voxels along the box of a crop."""
        return scene_side(self.query, self.levels, self.depth)

    def position(self, points: Tensor, unit: float) -> Tensor:
        """(B, N, 3) points to what the network takes as their position."""
        return points if self.encoding is None else local_position(points, unit, self.encoding)

    def box(self, centre: np.ndarray) -> Box:
        """The box of the crop around a centre, (3,)."""
        half = self.side * self.unit / 2
        return Box(centre - half, centre + half, self.side, self.unit)

    def scene(self, padding: float) -> Box:
        """The box of a whole scene in the unit cube."""
        side = scene_side((1 + padding) / self.unit, self.levels, self.depth)
        half = np.full(3, side * self.unit / 2, dtype=np.float32)
        return Box(-half, half, side, self.unit)


class OccupancyNetwork(nn.Module):
    """Encoder and decoder of ConvONet's published family, and of ONet; see `zoo.from_upstream`.

    `encode` once, `decode` as often as wanted. Networks of the unit cube take points or voxels
    in [-0.5, 0.5]^3. Crop networks take points of a scene in any unit, together with the box that
    is encoded; without a box they take the whole unit cube and what surrounds it, as
    upstream does for its synthetic rooms.

    sides: cells along each axis per kind of feature (unit cube). config: what it was built from,
    as upstream's YAML files have it.
    """

    def __init__(
        self,
        decoder: nn.Module,
        encoder: nn.Module,
        config: dict[str, Any],
        sides: dict[str, int],
        crop: CropLayout | None,
        padding: float = 0.1,
        sample_mode: str = "bilinear",
        gaussian_val: float | None = None,
    ) -> None:
        super().__init__()
        self.decoder, self.encoder = decoder, encoder
        self.config, self.sides, self.crop = config, sides, crop
        self.padding, self.sample_mode, self.gaussian_val = padding, sample_mode, gaussian_val

    @property
    def takes_voxels(self) -> bool:
        """Whether `encode` takes voxels, (B, n, n, n), and not points."""
        return isinstance(self.encoder, LocalVoxelEncoder | VoxelEncoder)

    def encode(self, inputs: Tensor | dict[str, Any], box: Box | None = None) -> dict[str, Tensor]:
        """Points (B, N, 3) or voxels (B, n, n, n) to features.

        Returns "grid" (B, C, side, side, side) and "xz", "xy", "yz" (B, C, side, side), as far as
        the network has them, the first coordinate along the last axis; for PointNet++ "points"
        (B, N, 3) and "point_features" (B, N, C); for ONet "c" (B, C).

        Crop networks: points outside of `box` are left out; instead of points and a box also
        upstream's {"points": (B, N, 3), "index": {kind: (B, 1, N) cells}} of a training crop.
        """
        if isinstance(self.encoder, ResnetPointnet | VoxelEncoder):
            return {"c": self.encoder(inputs)}
        if isinstance(self.encoder, PointNetPlusPlus):
            points, features = self.encoder(inputs)
            return {"points": points, "point_features": features}
        if self.crop is not None:
            return self._encode_crop(inputs, box, self.crop)
        assert isinstance(inputs, Tensor)
        points = voxel_centres(inputs) if self.takes_voxels else inputs
        cells = {
            kind: cell_index(unit_coordinates(points, kind, self.padding), side)
            for kind, side in self.sides.items()
        }
        return self.encoder(inputs, cells, self.sides)

    def decode(
        self,
        features: dict[str, Tensor],
        queries: Tensor | dict[str, Any],
        box: Box | None = None,
    ) -> Tensor:
        """Features of `encode` and (B, M, 3) query points, float32 or float64, to (B, M) logits.

        Crop networks: `box` as in `encode`; instead of both also upstream's {"p": (B, M, 3),
        "p_n": {kind: (B, M, 2 or 3) coordinates}}.
        """
        if "c" in features:
            assert isinstance(queries, Tensor)
            return self.decoder(queries.float(), features["c"])
        if "points" in features:
            assert isinstance(queries, Tensor)
            found = sample_points(
                queries, features["points"], features["point_features"], self.gaussian_val
            )
            return self.decoder(queries.float(), found)
        position, coordinates = self._places(queries, features, box)
        parts = [sample(features[kind], coordinates[kind], self.sample_mode) for kind in features]
        return self.decoder(position, total(parts))

    def forward(self, queries: Tensor, inputs: Tensor, box: Box | None = None) -> Tensor:
        """(B, M, 3) queries and inputs as of `encode` to (B, M) logits."""
        return self.decode(self.encode(inputs, box), queries, box)

    def _places(
        self, queries: Tensor | dict[str, Any], features: dict[str, Tensor], box: Box | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What the decoder takes as position, and the coordinates per kind of feature."""
        if self.crop is None:
            assert isinstance(queries, Tensor)
            places = {k: unit_coordinates(queries, k, self.padding) for k in features}
            return queries.float(), places
        if isinstance(queries, dict):
            return self.crop.position(queries["p"].float(), self.crop.unit), queries["p_n"]
        box = box or self.crop.scene(self.padding)
        places = {kind: box.normalised(queries, kind) for kind in features}
        return self.crop.position(queries.float(), box.unit), places

    def _encode_crop(
        self, inputs: Tensor | dict[str, Any], box: Box | None, crop: CropLayout
    ) -> dict[str, Tensor]:
        if isinstance(inputs, dict):
            cells = {kind: index[:, 0] for kind, index in inputs["index"].items()}
            sides = dict.fromkeys(cells, crop.side)
            return self.encoder(crop.position(inputs["points"], crop.unit), cells, sides)
        box = box or crop.scene(self.padding)
        cells = {kind: cells_of_box(inputs, box, kind) for kind in crop.kinds}
        sides = dict.fromkeys(cells, box.side)
        return self.encoder(crop.position(inputs, box.unit), cells, sides)
