"""Occupancy Networks (Mescheder et al., CVPR 2019), the ancestor: one code for a whole shape.

Parameters are named as in the authors' code, so that its weights load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convonet_ros.model.encoder import ResnetBlock


class ResnetPointnet(nn.Module):
    """PointNet of five residual blocks with pooling over all points (supplementary, section 1.1).

    `hidden_dim` numbers per point, `c_dim` in the code.
    """

    def __init__(self, dim: int, c_dim: int, hidden_dim: int = 128) -> None:
        super().__init__()
        self.fc_pos = nn.Linear(dim, 2 * hidden_dim)
        for i in range(5):
            self.add_module(f"block_{i}", ResnetBlock(2 * hidden_dim, hidden_dim))
        self.fc_c = nn.Linear(hidden_dim, c_dim)

    def forward(self, points: Tensor) -> Tensor:
        """(B, N, dim) points to a (B, c_dim) code."""
        net = self.get_submodule("block_0")(self.fc_pos(points))  # B N h
        for i in range(1, 5):
            pooled = net.amax(dim=1, keepdim=True).expand_as(net)
            net = self.get_submodule(f"block_{i}")(torch.cat([net, pooled], dim=2))
        return self.fc_c(net.amax(dim=1).relu())


class VoxelEncoder(nn.Module):
    """Strided convolutions over 32^3 voxels (supplementary, section 1.1)."""

    def __init__(self, c_dim: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv3d(1, 32, 3, padding=1)
        for i, width in enumerate((32, 64, 128, 256)):
            self.add_module(f"conv_{i}", nn.Conv3d(width, 2 * width, 3, padding=1, stride=2))
        self.fc = nn.Linear(512 * 2**3, c_dim)

    def forward(self, voxels: Tensor) -> Tensor:
        """(B, 32, 32, 32) occupancies, 0 or 1, to a (B, c_dim) code."""
        net = self.conv_in(voxels[:, None].float())
        for i in range(4):
            net = self.get_submodule(f"conv_{i}")(net.relu())
        return self.fc(net.relu().flatten(1))


class _ConditionalNorm(nn.Module):
    """Batch normalisation whose scale and shift come from the code (de Vries et al., 2017)."""

    def __init__(self, c_dim: int, size: int) -> None:
        super().__init__()
        self.conv_gamma = nn.Conv1d(c_dim, size, 1)
        self.conv_beta = nn.Conv1d(c_dim, size, 1)
        self.bn = nn.BatchNorm1d(size, affine=False)
        for conv, start in ((self.conv_gamma, 1.0), (self.conv_beta, 0.0)):
            assert conv.bias is not None
            nn.init.zeros_(conv.weight)
            nn.init.constant_(conv.bias, start)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return self.conv_gamma(c) * self.bn(x) + self.conv_beta(c)


class _ConditionalBlock(nn.Module):
    """Residual block of two conditional normalisations and two 1x1 convolutions."""

    def __init__(self, c_dim: int, size: int) -> None:
        super().__init__()
        self.bn_0 = _ConditionalNorm(c_dim, size)
        self.bn_1 = _ConditionalNorm(c_dim, size)
        self.fc_0 = nn.Conv1d(size, size, 1)
        self.fc_1 = nn.Conv1d(size, size, 1)
        nn.init.zeros_(self.fc_1.weight)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        net = self.fc_0(self.bn_0(x, c).relu())
        return x + self.fc_1(self.bn_1(net, c).relu())


class ConditionalDecoder(nn.Module):
    """Five blocks over a query point, conditioned on the code by their normalisation (section 3.1).

    leaky: the last activation is a leaky ReLU.
    """

    def __init__(self, dim: int, c_dim: int, hidden_size: int = 256, leaky: bool = False) -> None:
        super().__init__()
        self.leaky = leaky
        self.fc_p = nn.Conv1d(dim, hidden_size, 1)
        for i in range(5):
            self.add_module(f"block{i}", _ConditionalBlock(c_dim, hidden_size))
        self.bn = _ConditionalNorm(c_dim, hidden_size)
        self.fc_out = nn.Conv1d(hidden_size, 1, 1)

    def forward(self, points: Tensor, code: Tensor) -> Tensor:
        """(B, M, dim) query points and (B, c_dim) codes to (B, M) logits."""
        c = code[:, :, None]
        net = self.fc_p(points.transpose(1, 2))  # B h M
        for i in range(5):
            net = self.get_submodule(f"block{i}")(net, c)
        net = self.bn(net, c)
        net = nn.functional.leaky_relu(net, 0.2) if self.leaky else net.relu()
        return self.fc_out(net)[:, 0]
