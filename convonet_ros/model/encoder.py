"""Points or voxels to features on planes and grids (ConvONet, sections 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convonet_ros.model.features import AXES
from convonet_ros.model.unet import UNet2D, UNet3D


class ResnetBlock(nn.Module):
    """Fully connected pre-activation residual block, (..., size_in) -> (..., size_out)."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        size_hidden = min(size_in, size_out)
        self.fc_0 = nn.Linear(size_in, size_hidden)
        self.fc_1 = nn.Linear(size_hidden, size_out)
        self.shortcut: nn.Module = (
            nn.Linear(size_in, size_out, bias=False) if size_in != size_out else nn.Identity()
        )
        nn.init.zeros_(self.fc_1.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(..., size_in) -> (..., size_out)."""
        return self.shortcut(x) + self.fc_1(self.fc_0(x.relu()).relu())


def total(parts: Sequence[Tensor]) -> Tensor:
    """The sum of tensors of equal shape."""
    result = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


def scatter_mean(features: Tensor, cell: Tensor, cells: int) -> Tensor:
    """(P, C) features and (P,) cells to the (cells, C) mean per cell; 0 where a cell is empty."""
    group = groups_of(cell)
    count = features.new_zeros(len(cell)).index_add(0, group, torch.ones_like(features[:, 0]))
    # Divided before the sum, so that the large table is written once.
    share = features / count[group][:, None]
    return features.new_zeros(cells, features.shape[1]).index_add(0, cell, share)


def groups_of(cell: Tensor) -> Tensor:
    """(P,) cells to (P,) numbers 0, 1, ... of the distinct ones among them; shapes stay fixed."""
    if len(cell) == 0:
        return cell
    ordered, order = cell.sort()
    number = torch.cat([ordered[:1] * 0, (ordered[1:] != ordered[:-1]).long()]).cumsum(0)
    return torch.empty_like(order).scatter(0, order, number)


class LocalPoolPointnet(nn.Module):
    """PointNet whose pooling runs within each cell, and U-Nets over the cells (section 3.1).

    Every point (`dim` numbers) passes n_blocks residual blocks; between them the maximum (or mean)
    over the points of its cell is concatenated to it, summed over the kinds of features. A cell's
    feature is the mean over its points; planes pass one 2D U-Net, the grid a 3D one.

    unet, unet3d: options of `UNet2D` and `UNet3D`, None for none. late: the position layer is the
    last one made, as in upstream's crop encoder; it decides the order of the keys. `unet_dtype`:
    arithmetic of the U-Nets, None for that of the weights.
    """

    def __init__(
        self,
        dim: int,
        c_dim: int,
        hidden_dim: int,
        n_blocks: int = 5,
        pooling: str = "max",
        unet: dict | None = None,
        unet3d: dict | None = None,
        late: bool = False,
    ) -> None:
        super().__init__()
        self.c_dim, self.pooling = c_dim, pooling
        self.unet_dtype: torch.dtype | None = None
        if not late:
            self.fc_pos = nn.Linear(dim, 2 * hidden_dim)
        self.blocks = nn.ModuleList(
            ResnetBlock(2 * hidden_dim, hidden_dim) for _ in range(n_blocks)
        )
        self.fc_c = nn.Linear(hidden_dim, c_dim)
        self.unet = None if unet is None else UNet2D(c_dim, c_dim, **unet)
        self.unet3d = None if unet3d is None else UNet3D(**unet3d)
        if late:
            self.fc_pos = nn.Linear(dim, 2 * hidden_dim)

    def point_features(self, position: Tensor, cells: Sequence[Tensor]) -> Tensor:
        """(P, dim) positions, and (P,) cells for each kind of feature, to (P, c_dim) features."""
        groups = [groups_of(cell) for cell in cells]
        net = self.blocks[0](self.fc_pos(position))  # P h
        for block in self.blocks[1:]:
            pooled = total([self._pool(net, group) for group in groups])  # P h
            net = block(torch.cat([net, pooled], dim=1))
        return self.fc_c(net)

    def _pool(self, net: Tensor, group: Tensor) -> Tensor:
        """(P, h) features to (P, h): the maximum or mean over the points of each one's group."""
        if self.pooling == "mean":
            return scatter_mean(net, group, len(net))[group]
        index = group[:, None].expand_as(net)
        empty = net.new_full(net.shape, -torch.inf)
        return empty.scatter_reduce(0, index, net, "amax")[group]

    def forward(
        self, position: Tensor, cells: dict[str, Tensor], sides: dict[str, int]
    ) -> dict[str, Tensor]:
        """(B, N, dim) positions and, per kind of feature, (B, N) cells of `sides` along each axis.

        Returns (B, C, side, side[, side]) per kind, the first coordinate last. The cell after the
        last one is nowhere: its points are left out.
        """
        b = len(position)
        batch = torch.arange(b, device=position.device)[:, None]
        rows = {kind: sides[kind] ** len(AXES[kind]) + 1 for kind in cells}
        flat = {kind: (cell + batch * rows[kind]).reshape(-1) for kind, cell in cells.items()}
        points = self.point_features(position.flatten(0, 1), list(flat.values()))  # P c
        features = {}
        for kind, cell in flat.items():
            table = scatter_mean(points, cell, b * rows[kind]).view(b, rows[kind], self.c_dim)
            features[kind] = _mixed(self, kind, table[:, :-1], sides[kind])
        return features


def _mixed(
    encoder: LocalPoolPointnet | LocalVoxelEncoder, kind: str, table: Tensor, side: int
) -> Tensor:
    """(B, cells, C) rows to (B, C, side, side[, side]), passed through the kind's U-Net."""
    image = table.unflatten(1, (side,) * len(AXES[kind])).movedim(-1, 1)
    unet = encoder.unet3d if kind == "grid" else encoder.unet
    if unet is None:
        return image
    if encoder.unet_dtype is None:
        return unet(image)
    with torch.autocast(image.device.type, encoder.unet_dtype):
        return unet(image).float()


class LocalVoxelEncoder(nn.Module):
    """A convolution over a voxel grid, spread onto planes or a grid (supplementary, section 2).

    Voxels fill the unit cube with their centres from face to face; a cell's feature is the mean
    over its voxels.
    """

    def __init__(
        self,
        c_dim: int,
        kernel_size: int = 3,
        unet: dict | None = None,
        unet3d: dict | None = None,
    ) -> None:
        super().__init__()
        self.unet_dtype: torch.dtype | None = None
        padding = 0 if kernel_size == 1 else 1
        self.conv_in = nn.Conv3d(1, c_dim, kernel_size, padding=padding)
        self.unet = None if unet is None else UNet2D(c_dim, c_dim, **unet)
        self.unet3d = None if unet3d is None else UNet3D(**unet3d)

    def forward(
        self, voxels: Tensor, cells: dict[str, Tensor], sides: dict[str, int]
    ) -> dict[str, Tensor]:
        """(B, n, n, n) occupancies, 0 or 1, and per kind the (n^3,) cells of the voxels.

        Returns (B, C, side, side[, side]) per kind.
        """
        b = len(voxels)
        points = self.conv_in(voxels[:, None].float()).relu().flatten(2)  # B c n^3
        features = {}
        for kind, cell in cells.items():
            rows = sides[kind] ** len(AXES[kind])
            flat = (cell + torch.arange(b, device=cell.device)[:, None] * rows).reshape(-1)
            table = scatter_mean(points.transpose(1, 2).flatten(0, 1), flat, b * rows)
            features[kind] = _mixed(self, kind, table.view(b, rows, -1), sides[kind])
        return features


def voxel_centres(voxels: Tensor) -> Tensor:
    """(B, nx, ny, nz) voxels to the (nx ny nz, 3) centres that they stand for in the unit cube."""
    axes = [torch.linspace(-0.5, 0.5, n, device=voxels.device) for n in voxels.shape[1:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).view(-1, 3)
