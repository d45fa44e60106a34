"""U-Nets that mix the features of planes (Ronneberger et al., 2015) and grids (Cicek et al., 2016).

Their options, names of parameters and order of construction are those of ConvONet's code, so that
its weights load and a seed gives the same network.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, max_pool2d, max_pool3d
from torch.nn.utils.fusion import fuse_conv_bn_eval

from convonet_ros.model import slabs

# ---- planes ------------------------------------------------------------------------------------


class _Down(nn.Module):
    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(size_in, size_out, 3, padding=1)
        self.conv2 = nn.Conv2d(size_out, size_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).relu()).relu()


class _Up(nn.Module):
    def __init__(self, size_in: int, size_out: int, merge_mode: str, up_mode: str) -> None:
        super().__init__()
        self.concat = merge_mode == "concat"
        self.upconv: nn.Module
        if up_mode == "transpose":
            self.upconv = nn.ConvTranspose2d(size_in, size_out, 2, stride=2)
        else:
            enlarge = nn.Upsample(mode="bilinear", scale_factor=2)
            self.upconv = nn.Sequential(enlarge, nn.Conv2d(size_in, size_out, 1))
        self.conv1 = nn.Conv2d((1 + self.concat) * size_out, size_out, 3, padding=1)
        self.conv2 = nn.Conv2d(size_out, size_out, 3, padding=1)

    def forward(self, skip: Tensor, x: Tensor) -> Tensor:
        x = self.upconv(x)
        x = torch.cat([x, skip], dim=1) if self.concat else x + skip
        return self.conv2(self.conv1(x).relu()).relu()


class UNet2D(nn.Module):
    """`depth` resolutions of two 3x3 convolutions each, zero padding, no normalisation.

    `start_filts` maps at full resolution, doubled at each level. merge_mode: concat or add.
    up_mode: transpose (a learned transposed convolution) or upsample (bilinear, then 1x1). The
    sides of the image must be multiples of 2^(depth - 1).
    """

    def __init__(
        self,
        size_in: int,
        size_out: int,
        depth: int = 5,
        start_filts: int = 64,
        merge_mode: str = "concat",
        up_mode: str = "transpose",
    ) -> None:
        super().__init__()
        _one_of("unet_kwargs.merge_mode", merge_mode, ("concat", "add"))
        _one_of("unet_kwargs.up_mode", up_mode, ("transpose", "upsample"))
        if (merge_mode, up_mode) == ("add", "upsample"):
            raise ValueError("unet_kwargs.up_mode: expected transpose with merge_mode add")
        widths = [start_filts * 2**level for level in range(depth)]
        before = [size_in, *widths]
        self.down_convs = nn.ModuleList(_Down(*pair) for pair in zip(before, widths, strict=False))
        self.up_convs = nn.ModuleList()
        width = widths[-1]
        for _ in range(depth - 1):
            self.up_convs.append(_Up(width, width // 2, merge_mode, up_mode))
            width //= 2
        self.conv_final = nn.Conv2d(width, size_out, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, size_in, n, n) -> (B, size_out, n, n)."""
        skips: list[Tensor] = []
        for block in self.down_convs:
            x = block(max_pool2d(x, 2) if skips else x)
            skips.append(x)
        skips.pop()
        for block in self.up_convs:
            x = block(skips.pop(), x)
        return self.conv_final(x)


# ---- grids -------------------------------------------------------------------------------------

_NAMES = {"r": "ReLU", "l": "LeakyReLU", "e": "ELU", "b": "batchnorm"}


class ConvUnit(nn.Sequential):
    """A 3x3x3 convolution with what stands before and after it, in the order of its letters.

    c convolution, g group normalisation, b batch normalisation, r ReLU, l leaky ReLU, e ELU.
    (B, size_in, n, n, n) -> (B, size_out, n, n, n), zero padding.
    """

    def __init__(self, size_in: int, size_out: int, order: str, groups: int) -> None:
        super().__init__()
        size = size_in
        for letter in order:
            if letter == "c":
                bias = not set(order) & set("gb")  # a normalisation has one of its own
                conv = nn.Conv3d(size_in, size_out, 3, padding=1, bias=bias)
                self.add_module("conv", conv)
                size = size_out
            elif letter == "g":
                groups = groups if size >= groups else 1
                if size % groups:
                    raise ValueError(
                        f"unet3d_kwargs.num_groups: expected a divisor of {size} maps, got {groups}"
                    )
                self.add_module("groupnorm", nn.GroupNorm(groups, size))
            else:
                layers: dict[str, nn.Module] = {
                    "r": nn.ReLU(), "e": nn.ELU(), "l": nn.LeakyReLU(0.1),
                    "b": nn.BatchNorm3d(size),
                }  # fmt: skip
                self.add_module(_NAMES[letter], layers[letter])

    def fold(self) -> None:
        """Put a batch normalisation after the convolution into it (inference only)."""
        names = list(self._modules)
        if "batchnorm" in names and names.index("batchnorm") == names.index("conv") + 1:
            conv, norm = self._modules["conv"], self._modules["batchnorm"]
            assert isinstance(conv, nn.Conv3d)
            assert isinstance(norm, nn.BatchNorm3d)
            self._modules["conv"] = fuse_conv_bn_eval(conv, norm)
            del self._modules["batchnorm"]


class _Level(nn.Module):
    """Two convolutions of one resolution."""

    def __init__(self, widths: Sequence[int], order: str, groups: int) -> None:
        super().__init__()
        self.basic_module = nn.Sequential()
        for i in (1, 2):
            unit = ConvUnit(widths[i - 1], widths[i], order, groups)
            self.basic_module.add_module(f"SingleConv{i}", unit)

    def forward(self, x: Tensor) -> Tensor:
        return self.basic_module(x)


class UNet3D(nn.Module):
    """Encoder of `num_levels` resolutions, decoder with skip connections, zero padding.

    f_maps: maps at full resolution, doubled at each level, or the maps of every level. layer_order:
    see `ConvUnit`. first_maps: maps between the first two convolutions; None for ConvONet's rule
    (half of the level's, but not fewer than come in). testing: with is_segmentation, end in a
    sigmoid (final_sigmoid) or softmax. Sides are halved rounding down and restored by the skips.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        final_sigmoid: bool = True,
        f_maps: int | Sequence[int] = 64,
        layer_order: str = "gcr",
        num_groups: int = 8,
        num_levels: int = 4,
        is_segmentation: bool = True,
        testing: bool = False,
        first_maps: int | None = None,
    ) -> None:
        super().__init__()
        letters = set(layer_order)
        if "c" not in letters or letters - set("crlegb") or layer_order[0] in "rle":
            raise ValueError(
                f"unet3d_kwargs.layer_order: expected letters of crlegb with a c, not beginning "
                f"with an activation, got {layer_order!r}"
            )
        maps = [f_maps * 2**k for k in range(num_levels)] if isinstance(f_maps, int) else [*f_maps]
        self.order = layer_order
        self.encoders = nn.ModuleList()
        for level, width in enumerate(maps):
            before = maps[level - 1] if level else in_channels
            middle = max(width // 2, before)
            if level == 0 and first_maps is not None:
                middle = first_maps
            self.encoders.append(_Level((before, middle, width), layer_order, num_groups))
        self.decoders = nn.ModuleList()
        for deep, width in zip(maps[:0:-1], maps[-2::-1], strict=True):
            self.decoders.append(_Level((deep + width, width, width), layer_order, num_groups))
        self.final_conv = nn.Conv3d(maps[0], out_channels, 1)
        self.activation: Any = None
        if testing and is_segmentation:
            self.activation = nn.Sigmoid() if final_sigmoid else nn.Softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, n, n, n) -> (B, out_channels, n, n, n)."""
        x = slabs.infer(self, x) if slabs.fits(self, x) else self._forward(x)
        return x if self.activation is None else self.activation(x)

    def _forward(self, x: Tensor) -> Tensor:
        # torch's group normalisation of channels-last tensors is less exact.
        x = x.contiguous() if "g" in self.order else x
        skips: list[Tensor] = []
        for block in self.encoders:
            x = block(max_pool3d(x, 2) if skips else x)
            skips.append(x)
        skips.pop()
        for block in self.decoders:
            skip = skips.pop()
            x = interpolate(x, size=skip.shape[2:], mode="nearest")
            x = block(torch.cat([skip, x], dim=1))
        return self.final_conv(x)

    def fold(self) -> None:
        """Fold every batch normalisation that follows its convolution into it (inference only)."""
        for module in self.modules():
            if isinstance(module, ConvUnit):
                module.fold()


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
