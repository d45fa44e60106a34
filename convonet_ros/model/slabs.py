"""The 3D U-Net for inference on a CPU: a third of the time and memory, equal up to rounding.

Activations stay channels last, (D, H, W, C). Every layer goes over its volume in slabs of planes:
normalise a slab and a plane on either side into a small buffer, convolve, and write the result
into the place of the layer's input. The decoder never builds the concatenation of the skip and
the upsampled features: the convolution of a nearest-upsampled volume is a 2x2x2 convolution of
the small one, with the taps that meet the same voxel added up, for each of the eight phases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import conv3d, max_pool3d

if TYPE_CHECKING:
    from convonet_ros.model.unet import UNet3D

_SLAB_BYTES = 20 << 20
_MIN_VOXELS = 48**3  # below, going over slabs costs more than it saves
_ORDER = ("groupnorm", "conv", "ReLU")


def fits(net: UNet3D, x: Tensor) -> bool:
    """Whether `infer` gives what the network's forward pass would."""
    halvings = 2 ** (len(net.encoders) - 1)
    return (
        not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and net.order == "gcr"
        and x.shape[2:].numel() >= _MIN_VOXELS
        and all(n % halvings == 0 for n in x.shape[2:])
    )


def infer(net: UNet3D, x: Tensor) -> Tensor:
    """(B, C, D, H, W) float32 to (B, out, D, H, W), before a last activation; see `fits`."""
    volumes = [_infer(net, volume) for volume in x.permute(0, 2, 3, 4, 1)]
    return volumes[0] if len(volumes) == 1 else torch.cat(volumes)


def _infer(net: UNet3D, x: Tensor) -> Tensor:
    """(D, H, W, C) to (1, out, D, H, W)."""
    x, owned = x.contiguous(), False
    moments = _Moments(x.shape[3])
    for slab in x.split(_planes(x)):
        moments.add(slab)
    skips = []
    for level, block in enumerate(net.encoders):
        if level:
            skips.append((x, moments))
            x, moments, owned = *_pooled(x), True
        for unit in block.get_submodule("basic_module").children():
            x, moments = _layer(unit, x, moments, owned=owned)
            owned = True
    for block in net.decoders:
        first, second = block.get_submodule("basic_module").children()
        skip, skip_moments = skips.pop()
        x, moments = _layer(first, skip, skip_moments, upsampled=(x, moments))
        del skip
        x, moments = _layer(second, x, moments)
    weight, bias = net.final_conv.weight.flatten(1), net.final_conv.bias
    assert bias is not None
    return _as_batch(nn.functional.linear(x, weight, bias))


class _Moments:
    """Mean and variance per channel, gathered slab by slab and combined in float64.

    Long sums in float32, as torch's group normalisation of channels-last tensors takes them, are
    not exact enough. So sums are short, and are those of the deviations from a voxel in the
    middle: a volume without points is constant but for its border, and a long sum of one number
    drifts.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.mean = torch.zeros(channels, dtype=torch.float64)
        self.squares = torch.zeros(channels, dtype=torch.float64)  # of the deviations
        self.pivot = torch.zeros(channels)

    def add(self, slab: Tensor) -> None:
        """(d, H, W, C), contiguous."""
        d, h, w, c = slab.shape
        if self.count == 0:
            self.pivot = slab[d // 2, h // 2, w // 2].clone()
            self.scratch = torch.empty_like(slab)  # fresh memory costs more than the arithmetic
        away = torch.sub(slab, self.pivot, out=self.scratch[:d])
        # Every column counts as a channel.
        rows = away.view(1, d * h, 1, w * c).permute(0, 3, 1, 2)
        mean, variance = torch.batch_norm_update_stats(rows, None, None, 0.0)
        mean, variance = mean.double().view(w, c), variance.double().view(w, c)
        here = mean.mean(0)
        squares = (variance + (mean - here).square()).mean(0) * (d * h * w)
        self._join(d * h * w, here + self.pivot, squares)

    def _join(self, count: int, mean: Tensor, squares: Tensor) -> None:
        whole, off = self.count + count, mean - self.mean
        self.squares += squares + off.square() * (self.count * count / whole)
        self.mean += off * (count / whole)
        self.count = whole

    @property
    def variance(self) -> Tensor:
        return self.squares / self.count


def _normalisation(norm: nn.GroupNorm, parts: list[_Moments]) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel that group normalisation comes to, for channels in parts."""
    groups = norm.num_groups
    mean = torch.cat([part.mean for part in parts]).view(groups, -1)
    variance = torch.cat([part.variance for part in parts]).view(groups, -1)
    middle = mean.mean(1, keepdim=True)
    spread = (variance + (mean - middle).square()).mean(1, keepdim=True)
    scale = (spread + norm.eps).rsqrt().expand_as(mean).flatten() * norm.weight
    shift = norm.bias - middle.expand_as(mean).flatten() * scale
    return scale.float(), shift.float()


def _layer(
    unit: nn.Module,
    x: Tensor,
    moments: _Moments,
    owned: bool = True,
    upsampled: tuple[Tensor, _Moments] | None = None,
) -> tuple[Tensor, _Moments]:
    """Normalise, convolve, ReLU: (D, H, W, C) to (D, H, W, C') and its moments.

    owned: x may be written over. upsampled: (D/2, H/2, W/2, C2) that follow x in the channels,
    upsampled to the nearest, and their moments.
    """
    norm, conv = (unit.get_submodule(name) for name in _ORDER[:2])
    assert isinstance(norm, nn.GroupNorm)
    assert isinstance(conv, nn.Conv3d)
    depth, _, w, c = x.shape
    parts = [moments] if upsampled is None else [moments, upsampled[1]]
    scale, shift = _normalisation(norm, parts)
    weight = conv.weight
    phases = None
    if upsampled is not None:
        phases = _Phases(upsampled[0], scale[c:], shift[c:], weight[:, c:])
        scale, shift, weight = scale[:c], shift[:c], weight[:, :c]
    # As long as a row of the volume, so that the product runs over long rows.
    scale, shift = scale.repeat(w).view(w, c), shift.repeat(w).view(w, c)
    weight = weight.contiguous(memory_format=torch.channels_last_3d)
    size_out = len(weight)
    out = x if owned and size_out == c else x.new_empty(*x.shape[:3], size_out)
    found = _Moments(size_out)
    planes = _planes(x)
    buffer = x.new_zeros(planes + 2, *x.shape[1:])  # with the plane before and after the slab
    for start in range(0, depth, planes):
        end = min(start + planes, depth)
        if start:
            buffer[0] = buffer[planes]  # in x it may have been written over
        ahead = min(end + 1, depth)
        torch.addcmul(shift, x[start:ahead], scale, out=buffer[1 : 1 + ahead - start])
        if ahead == end:
            buffer[1 + end - start] = 0
        slab = _as_batch(buffer[: end - start + 2])
        result = conv3d(slab, weight, padding=(0, 1, 1))[0].permute(1, 2, 3, 0).contiguous()
        if phases is not None:
            phases.add_to(result, start, end)
        torch.clamp_min(result, 0, out=out[start:end])
        found.add(out[start:end])
    return out, found


class _Phases:
    """The convolution of a volume that was upsampled to the nearest, from the small volume."""

    def __init__(self, x: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> None:
        self.padded = x.new_zeros(*(n + 2 for n in x.shape[:3]), x.shape[3])
        torch.addcmul(shift, x, scale, out=self.padded[1:-1, 1:-1, 1:-1])
        # phase, tap of the small volume, taps of the kernel that meet the same voxel
        taps = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]])
        kernels = torch.einsum("apx,bqy,crz,oixyz->abcoipqr", taps, taps, taps, weight)
        self.kernels = kernels.flatten(0, 3).contiguous(memory_format=torch.channels_last_3d)

    def add_to(self, result: Tensor, start: int, end: int) -> None:
        """Add to the planes start to end, (end - start, H, W, C), both even."""
        small = _as_batch(self.padded[start // 2 : end // 2 + 2])
        found = conv3d(small, self.kernels)[0].permute(1, 2, 3, 0).contiguous()
        d, h, w, c = result.shape
        a, b, e, _ = found.stride()
        # (d, H/2, W/2, 8 C) seen as (d, 2, H/2, 2, W/2, 2, C); one position more than needed each
        places = found.as_strided(
            (d // 2, 2, h // 2, 2, w // 2, 2, c),
            (a, a + 4 * c, b, b + 2 * c, e, e + c, 1),
        )
        result.view(places.shape).add_(places)


def _pooled(x: Tensor) -> tuple[Tensor, _Moments]:
    """(D, H, W, C) to its maxima over 2^3 voxels, and their moments."""
    out = x.new_empty(*(n // 2 for n in x.shape[:3]), x.shape[3])
    moments = _Moments(x.shape[3])
    planes = _planes(x)
    for small, slab in zip(out.split(planes // 2), x.split(planes), strict=True):
        small.copy_(max_pool3d(_as_batch(slab), 2)[0].permute(1, 2, 3, 0))
        moments.add(small)
    return out, moments


def _planes(x: Tensor) -> int:
    """Planes in a slab: an even number, and about the same in all slabs."""
    depth, most = len(x), max(2, _SLAB_BYTES // (x[0].numel() * x.element_size()))
    slabs = -(-depth // most)
    return -(-depth // (2 * slabs)) * 2


def _as_batch(x: Tensor) -> Tensor:
    """(D, H, W, C) to (1, C, D, H, W), a view."""
    return x.permute(3, 0, 1, 2)[None]
