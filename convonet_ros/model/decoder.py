"""Features at a point to its occupancy (ConvONet, section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, grid_sample, leaky_relu

from convonet_ros.model.encoder import ResnetBlock


def sample(features: Tensor, coordinates: Tensor, mode: str = "bilinear") -> Tensor:
    """(B, C, side, side[, side]) features of a plane or grid at (B, M, 2 or 3) coordinates in
    [0, 1], the first coordinate along the last axis, to (B, M, C).

    Interpolated (bi- or trilinear) or nearest; 0 and 1 are the centres of the outermost cells, and
    beyond them features stay constant.
    """
    axes = coordinates.shape[-1]
    if axes == 3 and mode == "bilinear" and gathers(features):
        last = torch.tensor(features.shape[:1:-1], dtype=torch.float32) - 1  # x y z
        rows = [
            _gathered(grid.movedim(0, -1), (place * last).clamp(min=0).minimum(last).flip(1))
            for grid, place in zip(features, coordinates.float(), strict=True)
        ]
        return torch.stack(rows)
    places = (2.0 * coordinates.float() - 1.0).unflatten(1, (-1,) + (1,) * (axes - 1))
    found = grid_sample(
        features.float(), places, mode=mode, padding_mode="border", align_corners=True
    )
    return found.flatten(2).transpose(1, 2)


def sample_trilinear(grid: Tensor, points: Tensor) -> Tensor:
    """(C, X, Y, Z) voxel features at (Q, 3) points in voxels to (Q, C).

    A voxel's feature sits at its centre; outside of the outermost centres it stays constant.
    """
    sides = torch.tensor(grid.shape[1:], device=points.device)
    lower = (points - 0.5).clamp(min=0).minimum(sides - 1)
    if gathers(grid):
        return _gathered(grid.movedim(0, -1), lower)
    base = lower.floor().minimum(sides - 2)
    weight = lower - base  # Q 3
    table = grid.flatten(1).T  # (X Y Z) C
    ny, nz = grid.shape[2:]
    base = base.long()
    result = None
    for corner in range(8):
        bits = torch.tensor([corner >> 2, corner >> 1 & 1, corner & 1], device=points.device)
        x, y, z = (base + bits).unbind(1)
        share = torch.where(bits.bool(), weight, 1 - weight).prod(dim=1)
        part = table[(x * ny + y) * nz + z] * share[:, None].to(table.dtype)
        result = part if result is None else result + part
    assert result is not None
    return result


def sample_nearest(grid: Tensor, points: Tensor) -> Tensor:
    """(C, X, Y, Z) voxel features at (Q, 3) points in voxels to (Q, C): those of the voxel that
    holds the point, or of the outermost one."""
    sides = torch.tensor(grid.shape[1:], device=points.device)
    x, y, z = points.floor().clamp(min=0).minimum(sides - 1).long().unbind(1)
    ny, nz = grid.shape[2:]
    return grid.flatten(1).T[(x * ny + y) * nz + z]


def gathers(features: Tensor) -> bool:
    """Whether `_gathered` pays: it has no second derivative and is for float32 on the CPU."""
    plain = features.dtype == torch.float32 and features.device.type == "cpu"
    return plain and not torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _gathered(grid: Tensor, places: Tensor) -> Tensor:
    """(n0, n1, n2, C) at (Q, 3) places in cells, 0 to n - 1, interpolated: (Q, C).

    A weighted sum of rows, some twenty times faster than grid_sample on a CPU.
    """
    sides = torch.tensor(grid.shape[:3], dtype=torch.float32)
    base = places.floor().minimum(sides - 2).clamp(min=0)
    part = places - base
    share = torch.stack([1 - part, part], dim=2)  # Q 3 2
    weight = share[:, 0, :, None, None] * share[:, 1, None, :, None] * share[:, 2, None, None]
    _, n1, n2, channels = grid.shape
    stride = torch.tensor([n1 * n2, n2, 1], dtype=torch.int32)
    bits = torch.cartesian_prod(*[torch.tensor([0, 1], dtype=torch.int32)] * 3)  # 8 3
    # Where there is one cell along an axis, it is its own neighbour, with share 0.
    offset = (bits * stride * (sides > 1)).sum(1)
    first = (base.int() * stride).sum(1)
    index = (first[:, None] + offset).int()
    table = grid.reshape(-1, channels)
    return embedding_bag(index, table, mode="sum", per_sample_weights=weight.flatten(1))


def sample_points(
    queries: Tensor, points: Tensor, features: Tensor, gaussian_val: float | None
) -> Tensor:
    """(B, N, C) features of (B, N, 3) points at (B, M, 3) queries to (B, M, C).

    Weighted by a Gaussian of that width in the distance, or by the inverse distance (None); the
    baseline "PointConv" of the paper (section 4.1). M is taken in portions, for the table of
    distances is large.
    """
    portion = max(1, 20_000_000 // max(1, points.shape[1]))
    found = []
    for part in queries.split(portion, dim=1):
        distance = torch.cdist(part, points, compute_mode="donot_use_mm_for_euclid_dist") + 10e-6
        weight = 1 / distance if gaussian_val is None else (-(distance**2) / gaussian_val**2).exp()
        found.append(weight / weight.sum(dim=2, keepdim=True) @ features)
    return torch.cat(found, dim=1)


class LocalDecoder(nn.Module):
    """Residual network over a query's position, conditioned on the feature found there.

    dim: numbers of a position; c_dim: of a feature, 0 for none. leaky: the last activation is a
    leaky ReLU. late: order of the keys of upstream's crop decoder.
    """

    def __init__(
        self,
        dim: int,
        c_dim: int,
        hidden_size: int = 256,
        n_blocks: int = 5,
        leaky: bool = False,
        late: bool = False,
    ) -> None:
        super().__init__()
        self.leaky = leaky
        self.fc_c = nn.ModuleList(
            nn.Linear(c_dim, hidden_size) for _ in range(n_blocks if c_dim else 0)
        )
        if late:
            self.fc_out = nn.Linear(hidden_size, 1)
        else:
            self.fc_p = nn.Linear(dim, hidden_size)
        self.blocks = nn.ModuleList(ResnetBlock(hidden_size, hidden_size) for _ in range(n_blocks))
        if late:
            self.fc_p = nn.Linear(dim, hidden_size)
        else:
            self.fc_out = nn.Linear(hidden_size, 1)

    def forward(self, position: Tensor, feature: Tensor) -> Tensor:
        """(..., dim) positions and (..., c_dim) features to (...) logits."""
        net = self.fc_p(position)
        for i, block in enumerate(self.blocks):
            if len(self.fc_c):
                net = net + self.fc_c[i](feature)
            net = block(net)
        net = leaky_relu(net, 0.2) if self.leaky else net.relu()
        return self.fc_out(net)[..., 0]
