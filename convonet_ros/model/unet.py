"""3D U-Net (Cicek et al., 2016) that mixes the voxel features of a box."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class ConvUnit(nn.Module):
    """3x3x3 convolution, batch normalisation, ReLU; (B, size_in, n, n, n) -> size_out."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.conv: nn.Module = nn.Conv3d(size_in, size_out, 3, padding=1, bias=False)
        self.norm: nn.Module = nn.BatchNorm3d(size_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()

    def fold(self) -> None:
        """Put the batch normalisation into the convolution (inference only)."""
        assert isinstance(self.conv, nn.Conv3d)
        assert isinstance(self.norm, nn.BatchNorm3d)
        self.conv = fuse_conv_bn_eval(self.conv, self.norm)
        self.norm = nn.Identity()


class UNet3D(nn.Module):
    """Encoder of `levels` resolutions, decoder with skip connections, zero padding.

    `maps` feature maps at full resolution, doubled at each level; the box's side must be a
    multiple of 2^(levels - 1).
    """

    def __init__(self, size_in: int, size_out: int, maps: int, levels: int) -> None:
        super().__init__()
        widths = [maps * 2**level for level in range(levels)]
        self.down = nn.ModuleList()
        for level, width in enumerate(widths):
            before = size_in if level == 0 else widths[level - 1]
            middle = width if level == 0 else width // 2
            self.down.append(nn.Sequential(ConvUnit(before, middle), ConvUnit(middle, width)))
        self.up = nn.ModuleList()
        for level in reversed(range(levels - 1)):
            joined = widths[level] + widths[level + 1]
            self.up.append(
                nn.Sequential(
                    ConvUnit(joined, widths[level]), ConvUnit(widths[level], widths[level])
                )
            )
        self.head = nn.Conv3d(maps, size_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, size_in, n, n, n) -> (B, size_out, n, n, n)."""
        skips = []
        for level, block in enumerate(self.down):
            if level:
                x = nn.functional.max_pool3d(x, 2)
            x = block(x)
            skips.append(x)
        x = skips.pop()
        for block in self.up:
            x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
            x = block(torch.cat([skips.pop(), x], dim=1))
        return self.head(x)

    def fold(self) -> None:
        """Fold every batch normalisation into its convolution (inference only)."""
        for module in self.modules():
            if isinstance(module, ConvUnit):
                module.fold()
