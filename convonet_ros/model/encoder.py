"""Points to per-voxel features: PointNet with local max-pooling (ConvONet, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResnetBlock(nn.Module):
    """Fully connected pre-activation residual block, (..., size_in) -> (..., size_out)."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        size_hidden = min(size_in, size_out)
        self.fc_0 = nn.Linear(size_in, size_hidden)
        self.fc_1 = nn.Linear(size_hidden, size_out)
        self.shortcut = (
            nn.Linear(size_in, size_out, bias=False) if size_in != size_out else nn.Identity()
        )
        nn.init.zeros_(self.fc_1.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.fc_1(self.fc_0(x.relu()).relu())


def scatter_mean(features: Tensor, cell: Tensor, cells: int) -> Tensor:
    """(P, C) features and (P,) cells to the (cells, C) mean per cell; 0 where a cell is empty."""
    total = features.new_zeros(cells, features.shape[1]).index_add_(0, cell, features)
    count = features.new_zeros(cells).index_add_(0, cell, torch.ones_like(features[:, 0]))
    return total / count.clamp(min=1)[:, None]


class LocalPoolPointnet(nn.Module):
    """PointNet whose max-pooling runs within each voxel.

    Every point (`size_in` numbers) passes n_blocks residual blocks; between them the maximum
    over the points of its voxel is concatenated to it. Returns the mean feature per voxel.
    """

    def __init__(self, size_in: int, size_out: int, hidden: int = 32, n_blocks: int = 3) -> None:
        super().__init__()
        self.size_out = size_out
        self.fc_pos = nn.Linear(size_in, 2 * hidden)
        self.blocks = nn.ModuleList(ResnetBlock(2 * hidden, hidden) for _ in range(n_blocks))
        self.fc_out = nn.Linear(hidden, size_out)

    def forward(self, features: Tensor, cell: Tensor, cells: int) -> Tensor:
        """(P, size_in) features of points in cells (P,) to (cells, size_out); empty cells 0."""
        occupied, cell = cell.unique(return_inverse=True)  # pool over occupied cells only
        net = self.blocks[0](self.fc_pos(features))  # P h
        for block in self.blocks[1:]:
            index = cell[:, None].expand_as(net)
            pooled = net.new_full((len(occupied), net.shape[1]), -torch.inf)
            pooled = pooled.scatter_reduce(0, index, net, "amax")  # V h
            net = block(torch.cat([net, pooled[cell]], dim=1))
        mean = scatter_mean(self.fc_out(net), cell, len(occupied))  # V c
        return mean.new_zeros(cells, self.size_out).index_copy(0, occupied, mean)
