"""The crop network: content of boxes in, occupancy logits at any point of them out."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convonet_ros.model.decoder import LocalDecoder, sample_trilinear
from convonet_ros.model.encoder import LocalPoolPointnet
from convonet_ros.model.features import BoxBatch
from convonet_ros.model.unet import UNet3D


@dataclass(frozen=True, slots=True)
class CropSpec:
    """Shape of a crop network and of the lattice that it was trained on."""

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

    @property
    def box_voxels(self) -> int:
        return self.crop_voxels + 2 * self.halo_voxels


class CropNetwork(nn.Module):
    """Fully convolutional occupancy network on the box of one crop (Peng et al., ECCV 2020).

    Points (place in their voxel and direction to the sensor) pass a PointNet with local pooling,
    their mean per voxel and the observed free space pass a 3D U-Net, and a point's occupancy is
    decoded from the trilinear interpolation of the result.
    """

    def __init__(self, spec: CropSpec) -> None:
        super().__init__()
        self.spec = spec
        self.points = LocalPoolPointnet(6, spec.point_features, spec.hidden, spec.point_blocks)
        # beside the features: observed free, and the presence of points
        size_in = spec.point_features + 2
        self.unet = UNet3D(size_in, spec.voxel_features, spec.maps, spec.levels)
        self.decoder = LocalDecoder(spec.voxel_features, spec.hidden, spec.decoder_blocks)

    def encode(self, batch: BoxBatch) -> Tensor:
        """B boxes to (B, voxel_features, n, n, n)."""
        b, _, n, _, _ = batch.free.shape
        cells = b * n**3
        features = self.points(batch.features, batch.cell, cells)  # (b n^3) c
        filled = features.new_zeros(cells, 1).index_fill_(0, batch.cell, 1.0)
        volume = torch.cat([features, filled], dim=1).view(b, n, n, n, -1).permute(0, 4, 1, 2, 3)
        volume = torch.cat([volume, batch.free.to(volume.dtype)], dim=1)  # B c+2 n n n
        dtype = next(self.unet.parameters()).dtype
        return self.unet(volume.to(dtype).contiguous(memory_format=torch.channels_last_3d))

    def decode(self, grid: Tensor, points: Tensor) -> Tensor:
        """(C, n, n, n) features of one box at (Q, 3) points in voxels of the box: (Q,) logits."""
        return self.decoder(points, sample_trilinear(grid, points))
