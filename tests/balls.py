"""A network that knows nothing but a ball, and clouds to give it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import trimesh
from torch import Tensor, nn

from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.offline.surfaces import Surface

RADIUS = 0.35
INPUTS = torch.zeros(1, 5, 3)


class Ball(OccupancyNetwork):
    """Occupied where less than RADIUS from the origin; 20 logits per unit."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), nn.Linear(1, 1), {}, {}, None)
        self.asked: list[Tensor] = []

    def encode(self, inputs: Any, box: Any = None) -> dict[str, Tensor]:
        assert not self.training
        return {}

    def decode(self, features: Any, queries: Any, box: Any = None) -> Tensor:
        assert queries.dtype == torch.float32
        self.asked.append(queries.detach()[0])
        return 20 * (RADIUS - queries.norm(dim=-1))


def as_mesh(surface: Surface) -> trimesh.Trimesh:
    return trimesh.Trimesh(surface.vertices, surface.triangles, process=False)


def off_ball(points: np.ndarray) -> np.ndarray:
    """Distance to the ball's surface."""
    return np.abs(np.linalg.norm(points, axis=1) - RADIUS)


def cloud_of(count: int = 500, seed: int = 0) -> np.ndarray:
    """(N, 3) points of a box of sides 1, 0.5 and 0.25 with corners on a lattice of 1/1024."""
    rng = np.random.default_rng(seed)
    points = rng.integers(-512, 513, (count, 3)) / 1024 * [1, 0.5, 0.25]
    points[:2] = [[-0.5, -0.25, -0.125], [0.5, 0.25, 0.125]]
    return points
