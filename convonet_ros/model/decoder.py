"""Features at a point to its occupancy (ConvONet, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convonet_ros.model.encoder import ResnetBlock


def sample_trilinear(grid: Tensor, points: Tensor) -> Tensor:
    """(C, n, n, n) voxel features at (Q, 3) points in voxels to (Q, C).

    A voxel's feature sits at its centre; outside of the outermost centres it stays constant.
    """
    n = grid.shape[-1]
    lower = (points - 0.5).clamp(0, n - 1)
    base = lower.floor().clamp(max=n - 2)
    weight = lower - base  # Q 3
    table = grid.flatten(1).T  # n^3 C
    base = base.long()
    result = None
    for corner in range(8):
        bits = torch.tensor([corner >> 2, corner >> 1 & 1, corner & 1], device=points.device)
        x, y, z = (base + bits).unbind(1)
        share = torch.where(bits.bool(), weight, 1 - weight).prod(dim=1)
        part = table[(x * n + y) * n + z] * share[:, None].to(table.dtype)
        result = part if result is None else result + part
    assert result is not None
    return result


class LocalDecoder(nn.Module):
    """Residual network over a query's position in its voxel, conditioned on the local feature."""

    def __init__(self, size_feature: int, hidden: int = 32, n_blocks: int = 3) -> None:
        super().__init__()
        self.fc_p = nn.Linear(3, hidden)
        self.fc_c = nn.ModuleList(nn.Linear(size_feature, hidden) for _ in range(n_blocks))
        self.blocks = nn.ModuleList(ResnetBlock(hidden, hidden) for _ in range(n_blocks))
        self.fc_out = nn.Linear(hidden, 1)

    def forward(self, points: Tensor, feature: Tensor) -> Tensor:
        """(Q, 3) points in voxels of the box and (Q, C) features to (Q,) logits."""
        local = 2 * (points - points.floor()) - 1
        net = self.fc_p(local.to(feature.dtype))
        for fc_c, block in zip(self.fc_c, self.blocks, strict=True):
            net = block(net + fc_c(feature))
        return self.fc_out(net.relu())[:, 0]
