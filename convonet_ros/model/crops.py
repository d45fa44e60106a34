"""Networks that the map can run crop by crop: ours, and upstream's fully convolutional ones.

After the sliding window of ConvONet, section 3.4, on a lattice that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from convonet_ros.geometry import Lattice
from convonet_ros.model.decoder import LocalDecoder, sample_nearest, sample_trilinear
from convonet_ros.model.encoder import LocalPoolPointnet, scatter_mean
from convonet_ros.model.features import Box, BoxBatch, BoxContent, batch_boxes
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.model.unet import UNet3D


class CropModel(Protocol):
    """What the engine of the map needs of a network.

    voxel_m, crop_voxels, halo_voxels: the lattice that it was trained on. trained_in: the
    arithmetic in which it gives the results that it was trained or published with.
    """

    trained_in: torch.dtype

    @property
    def voxel_m(self) -> float:
        """Side of a voxel, metres."""

    @property
    def crop_voxels(self) -> int:
        """Voxels along a crop."""

    @property
    def halo_voxels(self) -> int:
        """Voxels that the network sees beyond the crop on every side."""

    def prepare(self, dtype: torch.dtype) -> None:
        """Make ready for inference in this arithmetic; the weights may be changed for good."""

    def encode_boxes(self, boxes: Sequence[BoxContent]) -> Sequence[Any]:
        """The features of each box; none of them may be without points."""

    def decode(self, features: Any, points: Tensor) -> Tensor:
        """One box's features at (Q, 3) points in voxels of the box: (Q,) logits."""

    def decode_centres(self, features: Any, voxels: Tensor) -> Tensor:
        """One box's features at the centres of (Q, 3) int64 voxels: (Q,) logits."""


@dataclass(frozen=True, slots=True)
class CropSpec:
    """Shape of a crop network, what it looks at, and the lattice that it was trained on.

    directions: whether it sees where points were measured from. visibility: what it sees of the
    evidence of rays: "levels" (all, and the points' weights), "free" (only whether a sub-voxel was
    hit or is observed free) or "none". interpolation: how a point finds its feature: "trilinear",
    between the centres of voxels, or "nearest", that of its voxel.
    """

    voxel_m: float = 0.05
    crop_voxels: int = 32
    halo_voxels: int = 8
    point_features: int = 32
    voxel_features: int = 32
    hidden: int = 32
    point_blocks: int = 3
    decoder_blocks: int = 3
    maps: int = 16
    levels: int = 4
    directions: bool = True
    visibility: str = "levels"
    interpolation: str = "trilinear"

    def __post_init__(self) -> None:
        if self.visibility not in ("levels", "free", "none"):
            raise ValueError(f"visibility: expected levels, free or none, got {self.visibility!r}")
        if self.interpolation not in ("trilinear", "nearest"):
            raise ValueError(
                f"interpolation: expected trilinear or nearest, got {self.interpolation!r}"
            )
        for name, value in asdict(self).items():
            if not isinstance(value, str | bool) and value <= 0:
                raise ValueError(f"{name}: expected a number above 0, got {value}")

    @property
    def box_voxels(self) -> int:
        """Voxels along the crop and its halo."""
        return self.crop_voxels + 2 * self.halo_voxels


class CropNetwork(nn.Module):
    """Fully convolutional occupancy network on the box of one crop (Peng et al., ECCV 2020).

    Points (place in their voxel, direction to the sensor, weight) pass a PointNet with local
    pooling, their mean per voxel and the evidence of rays pass a 3D U-Net, and a point's occupancy
    is decoded from the result, interpolated to the point.
    """

    def __init__(self, spec: CropSpec) -> None:
        super().__init__()
        self.spec = spec
        self.points = LocalPoolPointnet(7, spec.point_features, spec.hidden, spec.point_blocks)
        # beside the features: hits and rays that passed, of each sub-voxel
        self.unet = UNet3D(
            spec.point_features + 2 * Lattice.SUB**3,
            spec.voxel_features,
            f_maps=spec.maps,
            layer_order="cbr",
            num_levels=spec.levels,
            first_maps=spec.maps,
        )
        self.decoder = LocalDecoder(3, spec.voxel_features, spec.hidden, spec.decoder_blocks)

    def encode(self, batch: BoxBatch) -> Tensor:
        """B boxes to (B, voxel_features, n, n, n)."""
        b, _, n, _, _ = batch.visibility.shape
        position, direction, weight = batch.features.split([3, 3, 1], dim=1)
        evidence = batch.visibility.to(position.dtype) / 2
        hits, passed = evidence.clamp(min=0), (-evidence).clamp(min=0)
        if not self.spec.directions:
            direction = torch.zeros_like(direction)
        if self.spec.visibility != "levels":
            weight, hits, passed = torch.zeros_like(weight), hits.ceil(), passed.ceil()
        if self.spec.visibility == "none":
            hits, passed = torch.zeros_like(hits), torch.zeros_like(passed)
        features = torch.cat([position, direction, weight], dim=1)
        features = self.points.point_features(features, [batch.cell])  # P c
        features = scatter_mean(features, batch.cell, b * n**3)  # (b n^3) c
        volume = features.view(b, n, n, n, -1).permute(0, 4, 1, 2, 3)
        volume = torch.cat([volume, hits.to(volume.dtype), passed.to(volume.dtype)], dim=1)
        dtype = next(self.unet.parameters()).dtype
        return self.unet(volume.to(dtype).contiguous(memory_format=torch.channels_last_3d))

    def decode(self, features: Tensor, points: Tensor) -> Tensor:
        """(C, n, n, n) features of one box at (Q, 3) points in voxels of the box: (Q,) logits."""
        sample = sample_trilinear if self.spec.interpolation == "trilinear" else sample_nearest
        return self._decoded(sample(features, points), points)

    def _decoded(self, features: Tensor, points: Tensor) -> Tensor:
        """(Q, C) features found at (Q, 3) points in voxels of the box: (Q,) logits."""
        local = 2 * (points - points.floor()) - 1
        return self.decoder(local.to(features.dtype), features)

    # ---- what the engine needs ----

    trained_in = torch.bfloat16

    @property
    def voxel_m(self) -> float:
        """Side of a voxel, metres."""
        return self.spec.voxel_m

    @property
    def crop_voxels(self) -> int:
        """Voxels along a crop."""
        return self.spec.crop_voxels

    @property
    def halo_voxels(self) -> int:
        """Voxels beyond the crop on every side."""
        return self.spec.halo_voxels

    def prepare(self, dtype: torch.dtype) -> None:
        """Fold batch normalisation, channels last, the U-Net in `dtype`."""
        self.unet.fold()
        self.unet.to(dtype).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]

    def encode_boxes(self, boxes: Sequence[BoxContent]) -> Tensor:
        """B boxes to (B, voxel_features, n, n, n) float32."""
        return self.encode(batch_boxes(boxes)).float()

    def decode_centres(self, features: Tensor, voxels: Tensor) -> Tensor:
        """(C, n, n, n) features of one box at the centres of (Q, 3) voxels: (Q,) logits."""
        x, y, z = voxels.unbind(1)
        return self._decoded(features[:, x, y, z].T, voxels + 0.5)


class UnitBoxes(nn.Module):
    """A network of the unit cube on the boxes of the map: each box is a cube of its own.

    So ONet and ConvONet with planes or one grid can be compared on scenes of any size. The lattice
    is what the network's configuration says in its section `map`. Directions and rays are not
    looked at.
    """

    trained_in = torch.float32

    def __init__(self, network: OccupancyNetwork) -> None:
        super().__init__()
        self.network = network
        lattice = network.config["map"]
        self.voxel_m = float(lattice["voxel_m"])
        self.crop_voxels, self.halo_voxels = lattice["crop_voxels"], lattice["halo_voxels"]
        self._cube = self.cube(self.crop_voxels + 2 * self.halo_voxels)

    @staticmethod
    def cube(box_voxels: int) -> Callable[[Tensor], Tensor]:
        """From points in voxels of the box to the unit cube."""
        return lambda points: points / box_voxels - 0.5

    def prepare(self, dtype: torch.dtype) -> None:
        """Computes in float32."""

    def encode_boxes(self, boxes: Sequence[BoxContent]) -> list[dict[str, Tensor]]:
        """The features of each box, as `OccupancyNetwork.encode` gives them."""
        return [self.network.encode(self._cube(box.points[None])) for box in boxes]

    def decode(self, features: dict[str, Tensor], points: Tensor) -> Tensor:
        """One box's features at (Q, 3) points in voxels of the box: (Q,) logits."""
        if not len(points):  # which ONet's convolutions do not take
            return points.new_zeros(0)
        return self.network.decode(features, self._cube(points[None]))[0]

    def decode_centres(self, features: dict[str, Tensor], voxels: Tensor) -> Tensor:
        """One box's features at the centres of (Q, 3) int64 voxels: (Q,) logits."""
        return self.decode(features, voxels + 0.5)


class UpstreamCrops(nn.Module):
    """A crop network of upstream's layout on the boxes of the map, with upstream's results.

    The lattice is the network's: voxels of data.unit_size metres, crops of data.query_vol_size of
    them, and the halo that upstream's rule gives. Directions and free space are not looked at.
    """

    trained_in = torch.float32

    def __init__(self, network: OccupancyNetwork) -> None:
        """Raises ValueError for a network or a lattice that the map cannot use."""
        super().__init__()
        crop = network.crop
        if crop is None or crop.encoding is None:
            got = "one for the unit cube" if crop is None else "one that sees plain coordinates"
            raise ValueError(
                "expected a fully convolutional network that sees positions in the voxel "
                f"(encoder pointnet_crop_local_pool, local_coord true), got {got}"
            )
        beyond = crop.side - crop.query
        if beyond % 2:
            raise ValueError(
                f"data.query_vol_size: expected a crop in the middle of its box of {crop.side} "
                f"voxels, got {crop.query}; write a checkpoint with an even number by 'convonet "
                "convert --set data.query_vol_size=32 --set data.unit_size=0.05' (metres)"
            )
        self.network = network
        self.voxel_m, self.crop_voxels, self.halo_voxels = crop.unit, crop.query, beyond // 2
        # In voxels, with its corner on the lattice: positions in the voxel are those of the map.
        self._box = Box(np.zeros(3), np.full(3, crop.side), crop.side, 1.0)

    def prepare(self, dtype: torch.dtype) -> None:
        """Let the U-Nets compute in `dtype`."""
        encoder = self.network.encoder
        assert isinstance(encoder, LocalPoolPointnet)
        encoder.unet_dtype = None if dtype == torch.float32 else dtype

    def encode_boxes(self, boxes: Sequence[BoxContent]) -> list[dict[str, Tensor]]:
        """The features of each box, as `OccupancyNetwork.encode` gives them."""
        return [self.network.encode(box.points[None], self._box) for box in boxes]

    def decode(self, features: dict[str, Tensor], points: Tensor) -> Tensor:
        """One box's features at (Q, 3) points in voxels of the box: (Q,) logits."""
        return self.network.decode(features, points[None], self._box)[0]

    def decode_centres(self, features: dict[str, Tensor], voxels: Tensor) -> Tensor:
        """One box's features at the centres of (Q, 3) int64 voxels: (Q,) logits."""
        return self.decode(features, voxels + 0.5)
