"""PointNet++ (Qi et al., NeurIPS 2017), the encoder of ConvONet's baseline "PointConv"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def square_distances(a: Tensor, b: Tensor) -> Tensor:
    """(B, N, 3) and (B, M, 3) points to (B, N, M) squared distances.

    By |a|^2 + |b|^2 - 2ab, as the published weights were trained: at a radius rounding decides.
    """
    distance = -2 * torch.matmul(a, b.transpose(1, 2))
    distance = distance + a.square().sum(-1)[:, :, None]
    return distance + b.square().sum(-1)[:, None]


def gather(values: Tensor, index: Tensor) -> Tensor:
    """(B, N, C) values at (B, ...) indices to (B, ..., C)."""
    batch = torch.arange(len(values), device=values.device)
    return values[batch.view(-1, *[1] * (index.dim() - 1)), index]


def farthest_points(points: Tensor, count: int, start: Tensor) -> Tensor:
    """(B, N, 3) points to (B, count) indices; each is the farthest from those before it.

    start: (B,) index of the first one.
    """
    distance = points.new_full(points.shape[:2], 1e10)
    chosen = [start]
    for _ in range(count - 1):
        last = gather(points, chosen[-1][:, None])  # B 1 3
        distance = torch.minimum(distance, (points - last).square().sum(-1))
        chosen.append(distance.argmax(-1))
    return torch.stack(chosen, dim=1)


def ball_neighbours(points: Tensor, centres: Tensor, radius: float, count: int) -> Tensor:
    """(B, N, 3) points to (B, S, count) indices: the first ones within the radius of each centre.

    Where there are fewer, the first one stands for the missing ones.
    """
    n = points.shape[1]
    index = torch.arange(n, device=points.device).expand(*centres.shape[:2], n)
    index = torch.where(square_distances(centres, points) > radius**2, n, index)
    index = index.topk(min(count, n), dim=-1, largest=False).values.sort(dim=-1).values
    return torch.where(index == n, index[..., :1], index)


class SetAbstraction(nn.Module):
    """Centres, their neighbours, and a maximum over a shared network of each neighbourhood.

    npoint centres with up to nsample neighbours in a radius; None: one group of all points.
    """

    def __init__(
        self,
        npoint: int | None,
        radius: float,
        nsample: int,
        in_channel: int,
        mlp: Sequence[int],
    ) -> None:
        super().__init__()
        self.npoint, self.radius, self.nsample = npoint, radius, nsample
        self.mlp_convs, self.mlp_bns = nn.ModuleList(), nn.ModuleList()
        for size_in, size_out in zip([in_channel, *mlp], mlp, strict=False):
            self.mlp_convs.append(nn.Conv2d(size_in, size_out, 1))
            self.mlp_bns.append(nn.BatchNorm2d(size_out))

    def forward(
        self, points: Tensor, features: Tensor, start: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(B, N, 3) points and (B, N, C) features to (B, S, 3) centres and (B, S, C') features.

        start: (B,) first centres; None draws them.
        """
        if self.npoint is None:
            centres = points.new_zeros(len(points), 1, 3)
            grouped = torch.cat([points, features], dim=-1)[:, None]  # B 1 N 3+C
        else:
            if start is None:
                start = torch.randint(0, points.shape[1], (len(points),), device=points.device)
            centres = gather(points, farthest_points(points, self.npoint, start))  # B S 3
            near = ball_neighbours(points, centres, self.radius, self.nsample)  # B S K
            offset = gather(points, near) - centres[:, :, None]
            grouped = torch.cat([offset, gather(features, near)], dim=-1)  # B S K 3+C
        net = grouped.permute(0, 3, 2, 1)  # B C K S
        for conv, norm in zip(self.mlp_convs, self.mlp_bns, strict=True):
            net = norm(conv(net)).relu()
        return centres, net.amax(dim=2).transpose(1, 2)


class FeaturePropagation(nn.Module):
    """Features of few points to many, by inverse squared distance to the three nearest."""

    def __init__(self, in_channel: int, mlp: Sequence[int]) -> None:
        super().__init__()
        self.mlp_convs, self.mlp_bns = nn.ModuleList(), nn.ModuleList()
        for size_in, size_out in zip([in_channel, *mlp], mlp, strict=False):
            self.mlp_convs.append(nn.Conv1d(size_in, size_out, 1))
            self.mlp_bns.append(nn.BatchNorm1d(size_out))

    def forward(
        self, points: Tensor, features: Tensor | None, few: Tensor, few_features: Tensor
    ) -> Tensor:
        """(B, N, 3) points with their (B, N, C) features and (B, S, 3) few with (B, S, D) to
        (B, N, D') features."""
        if few.shape[1] == 1:
            spread = few_features.expand(-1, points.shape[1], -1)
        else:
            distance, index = square_distances(points, few).sort(dim=-1)
            weight = 1.0 / (distance[..., :3] + 1e-8)
            weight = weight / weight.sum(dim=-1, keepdim=True)  # B N 3
            spread = (gather(few_features, index[..., :3]) * weight[..., None]).sum(dim=2)
        net = spread if features is None else torch.cat([features, spread], dim=-1)
        net = net.transpose(1, 2)
        for conv, norm in zip(self.mlp_convs, self.mlp_bns, strict=True):
            net = norm(conv(net)).relu()
        return net.transpose(1, 2)


class PointNetPlusPlus(nn.Module):
    """Three set abstractions and three propagations: a feature for every input point.

    Farthest point sampling begins at a random point; `torch.manual_seed` or `first` fixes it.
    """

    def __init__(
        self,
        c_dim: int,
        abstractions: Sequence[tuple[int | None, float, int, Sequence[int]]] = (
            (512, 0.2, 32, (64, 64, 128)),
            (128, 0.4, 64, (128, 128, 256)),
            (None, 0.0, 0, (256, 512, 1024)),
        ),
        propagations: Sequence[Sequence[int]] = ((256, 256), (256, 128), (128, 128)),
    ) -> None:
        super().__init__()
        widths = [3]
        for i, (npoint, radius, nsample, mlp) in enumerate(abstractions, start=1):
            layer = SetAbstraction(npoint, radius, nsample, widths[-1] + 3, mlp)
            self.add_module(f"sa{i}", layer)
            widths.append(mlp[-1])
        width = widths[3]
        skips = (widths[2], widths[1], 0)
        ends = ((), (), (c_dim,))
        for i, skip, mlp, end in zip((3, 2, 1), skips, propagations, ends, strict=True):
            self.add_module(f"fp{i}", FeaturePropagation(width + skip, (*mlp, *end)))
            width = mlp[-1]

    def forward(
        self, points: Tensor, first: Sequence[Tensor | None] = (None, None)
    ) -> tuple[Tensor, Tensor]:
        """(B, N, 3) points to themselves and their (B, N, c_dim) features.

        first: (B,) first centres of the two levels.
        """
        levels: list[tuple[Tensor, Tensor]] = [(points, points)]
        for i, start in enumerate((*first, None), start=1):
            levels.append(self.get_submodule(f"sa{i}")(*levels[-1], start))
        few, features = levels[3]
        for i in (3, 2, 1):
            more, skip = levels[i - 1]
            propagate = self.get_submodule(f"fp{i}")
            few, features = more, propagate(more, skip if i > 1 else None, few, features)
        return points, features
