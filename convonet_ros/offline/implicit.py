"""What a network says about one input: logits anywhere, and what follows from their slope.

Normals and refinement of a mesh are those of Mescheder et al. (CVPR 2019), section 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import trimesh
from torch import Tensor

from convonet_ros.model.network import OccupancyNetwork

_QUERIES = 100_000  # decoded at once, as upstream does
_GRADIENTS = 20_000  # likewise where what the gradient needs is kept
_DISTANCES = 20_000_000  # likewise, of queries to input points (PointConv)
_REFINE_LR = 1e-4
_REFINE_NORMALS = 0.01  # weight of the normals in the refinement's loss


@contextmanager
def evaluating(network: OccupancyNetwork) -> Iterator[None]:
    """The network in evaluation mode, as long as it is used here."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


class Implicit:
    """A network and its features of one input, (1, N, 3) points or (1, n, n, n) voxels."""

    def __init__(self, network: OccupancyNetwork, inputs: Tensor) -> None:
        self.network = network
        self.device = next(network.parameters()).device
        # no_grad and not inference_mode: the gradients of the decoder need the features
        with (
            torch.no_grad(),
            torch.random.fork_rng([self.device] if self.device.type == "cuda" else []),
        ):
            torch.manual_seed(0)  # PointNet++ draws its first points
            self.features = network.encode(inputs.to(self.device))

    def logits(self, points: Tensor) -> np.ndarray:
        """(N, 3) float32 points on the CPU to (N,) float64 logits."""
        with torch.inference_mode():
            parts = [
                self.network.decode(self.features, part[None].to(self.device))[0].cpu()
                for part in points.split(_QUERIES)
            ]
        return torch.cat(parts).numpy().astype(np.float64)

    def normals(self, vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
        """(V, 3) float64: where the logit falls fastest; the triangles' own where it is flat."""
        gradients = [np.empty((0, 3))]
        for part in torch.from_numpy(vertices).float().split(self._portion()):
            points = part[None].to(self.device).requires_grad_()
            (gradient,) = torch.autograd.grad(
                self.network.decode(self.features, points).sum(), points
            )
            gradients.append(gradient[0].double().cpu().numpy())
        normals = -np.concatenate(gradients)
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        flat = ~(length[:, 0] > 0)
        if flat.any():
            mesh = trimesh.Trimesh(vertices, triangles, process=False)
            normals[flat] = mesh.vertex_normals[flat]
            length[flat] = 1.0
        return normals / length

    def refined(
        self, vertices: np.ndarray, triangles: np.ndarray, threshold: float, steps: int
    ) -> np.ndarray:
        """(V, 3) float64 vertices, moved so that random points of the triangles have the
        threshold's occupancy and the triangles' normals are the network's.

        Interpolation in a grid or plane has no second derivative in PyTorch (upstream's refinement
        fails there), nor has the distance of PointConv: for all but ONet the direction that a
        normal is drawn to is held fixed in each step.
        """
        device, draw, batch = self.device, np.random.default_rng(0), self._portion()
        moved = torch.from_numpy(vertices).float().to(device).requires_grad_()
        faces = torch.from_numpy(triangles).long().to(device)
        twice = "c" in self.features
        optimizer = torch.optim.RMSprop([moved], lr=_REFINE_LR)
        for _ in range(steps):
            shares = torch.from_numpy(draw.dirichlet((0.5,) * 3, len(faces))).float().to(device)
            moved.grad = torch.zeros_like(moved)
            for face, share in zip(faces.split(batch), shares.split(batch), strict=True):
                corners = moved[face]  # F 3 3
                points = (corners * share[:, :, None]).sum(dim=1)
                a, b, c = corners.unbind(1)
                facing = _unit(torch.linalg.cross(b - a, c - b))
                logits = self.network.decode(self.features, points[None])[0]
                (gradient,) = torch.autograd.grad(
                    logits.sum(), points, create_graph=twice, retain_graph=True
                )
                misses = (logits.sigmoid() - threshold) ** 2
                turns = ((facing - _unit(-gradient)) ** 2).sum(dim=1)
                loss = (misses + _REFINE_NORMALS * turns).sum() / len(faces)
                moved.grad += torch.autograd.grad(loss, moved)[0]  # the weights' stay untouched
            optimizer.step()
        return moved.detach().double().cpu().numpy()

    def _portion(self) -> int:
        """Queries whose gradient is taken at once."""
        if "points" in self.features:
            return min(_GRADIENTS, max(1, _DISTANCES // self.features["points"].shape[1]))
        return _GRADIENTS


def _unit(vectors: Tensor) -> Tensor:
    return vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-10)
