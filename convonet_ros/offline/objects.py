"""A cloud, mesh or voxels to the surface of what they show, by a network of the unit cube.

The surface is extracted as in Mescheder et al. (CVPR 2019), section 3.3, and Peng et al. (ECCV
2020): the octree of `mise`, marching cubes, and, where wanted, simplification, refinement of the
vertices and normals from the network's gradient.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from convonet_ros.mapping.meshing import closed_surface
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.model.onet import VoxelEncoder
from convonet_ros.offline.clouds import Cloud
from convonet_ros.offline.implicit import Implicit, evaluating
from convonet_ros.offline.mise import evaluate
from convonet_ros.offline.surfaces import Surface, simplified

_MAX_SIDE = 512  # cells; octree and surface take some 40 bytes for each one of the cube
_Y_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # (x, y, z) -> (x, z, -y)


def surface_of(
    network: OccupancyNetwork,
    inputs: Tensor,
    resolution: int = 32,
    steps: int = 2,
    threshold: float = 0.2,
    *,
    normals: bool = False,
    refine_steps: int = 0,
    simplify_to: int | None = None,
) -> Surface:
    """The watertight surface of one object or scene, in the frame of the unit cube.

    inputs: (1, N, 3) points or (1, n, n, n) voxels in [-0.5, 0.5]^3, as the network takes them.
    resolution, steps: of the octree (see `Mise`); without steps resolution^3 lattice points, both
    ends of the box included, are all evaluated. The box is the unit cube with the network's
    padding. threshold: probability at the surface. simplify_to: triangles to reduce the mesh to
    (quadric error metrics); refine_steps: of the vertices' optimisation; both give up the
    guarantee that the surface has no hole and does not cross itself.

    Lattice, queries and vertices are those of upstream's generator (src/conv_onet/generation.py).
    Crop networks see the whole cube as one box. Raises ValueError for settings that make no
    lattice, inputs of another shape and logits that are not finite.
    """
    _check(network, inputs, resolution, steps, threshold, refine_steps, simplify_to)
    level = float(np.log(threshold) - np.log(1 - threshold))
    with evaluating(network):
        shape = Implicit(network, inputs)
        values = _values(shape, resolution, steps, level)
        vertices, triangles = closed_surface(values, level)
        vertices = (1 + network.padding) * (vertices / (np.array(values.shape) - 1) - 0.5)
        if simplify_to is not None and len(triangles) > simplify_to:
            simple = simplified(Surface(vertices, triangles), simplify_to)
            vertices, triangles = simple.vertices, simple.triangles
        if refine_steps and len(triangles):
            vertices = shape.refined(vertices, triangles, threshold, refine_steps)
        # Upstream estimates normals before it simplifies and refines, and loses them there.
        found = shape.normals(vertices, triangles) if normals else None
    return Surface(vertices, triangles, found)


def reconstruct(
    source: Cloud | np.ndarray,
    network: nn.Module,
    resolution: int = 32,
    steps: int = 2,
    threshold: float = 0.2,
    *,
    normals: bool = False,
    refine_steps: int = 0,
    simplify_to: int | None = None,
    points: int | None = None,
    up: Literal["y", "z"] = "y",
    standing: bool = False,
    seed: int = 0,
) -> Surface:
    """The surface of a cloud, in the cloud's own frame, or of (n, n, n) voxels, in the unit cube.

    A cloud is turned (up: the axis that points up in its frame; the published networks know y),
    brought into the unit cube (see `unit_cube`; `standing` for networks of rooms), and `points` of
    its points are drawn without replacement: as many as the network was trained with by default
    (None), all where there are fewer. Its colours go to the nearest vertices. The other arguments
    are those of `surface_of`. An empty surface means that nothing is above the threshold.

    Raises ValueError as `surface_of` does and for a network that takes something else.
    """
    if not isinstance(network, OccupancyNetwork):
        raise ValueError(
            "network: expected one of objects or scenes in the unit cube, got the map's crop "
            "network; see 'convonet models'"
        )
    if up not in ("y", "z"):
        raise ValueError(f"up: expected y or z, got {up!r}")
    if network.takes_voxels == isinstance(source, Cloud):
        wanted = "voxels (a .binvox file)" if network.takes_voxels else "a cloud or mesh"
        raise ValueError(f"network: it takes {wanted}, got the other; choose another network")
    options: dict[str, Any] = {
        "normals": normals, "refine_steps": refine_steps, "simplify_to": simplify_to,
    }  # fmt: skip
    if not isinstance(source, Cloud):
        inputs = torch.from_numpy(np.ascontiguousarray(source, np.float32))[None]
        return surface_of(network, inputs, resolution, steps, threshold, **options)

    turn = _Y_UP if up == "z" else np.eye(3)
    turned = source.points.astype(np.float64) @ turn.T
    scale, centre = unit_cube(turned, standing)
    if points is None:
        points = int(network.config.get("data", {}).get("pointcloud_n") or len(turned))
    if points < 1:
        raise ValueError(f"points: expected at least 1, got {points}")
    if points < len(turned):
        turned = turned[np.random.default_rng(seed).choice(len(turned), points, replace=False)]
    inputs = torch.from_numpy((turned - centre) / scale).float()[None]
    found = surface_of(network, inputs, resolution, steps, threshold, **options)
    vertices = (found.vertices * scale + centre) @ turn
    colours = None
    if source.colours is not None:
        nearest = cKDTree(source.points).query(vertices)[1] if len(vertices) else []
        colours = source.colours[np.asarray(nearest, np.int64)]
    facing = None if found.normals is None else found.normals @ turn
    return replace(found, vertices=vertices, normals=facing, colours=colours)


def unit_cube(points: np.ndarray, standing: bool = False) -> tuple[float, np.ndarray]:
    """Scale and centre (3,) for which (points - centre) / scale has upstream's normalisation.

    The longest side of the bounding box becomes 1 and its middle the origin (ShapeNet); standing:
    its bottom comes to lie on y = -0.5 (the synthetic rooms). Raises ValueError for points that
    all are the same.
    """
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    scale = float((high - low).max())
    if not 0 < scale < np.inf:
        raise ValueError(f"points: expected an extent above 0, got {scale:g}")
    centre = (low + high) / 2
    if standing:
        centre[1] = low[1] + scale / 2
    return scale, centre


def _check(
    network: OccupancyNetwork,
    inputs: Tensor,
    resolution: int,
    steps: int,
    threshold: float,
    refine_steps: int,
    simplify_to: int | None,
) -> None:
    if not 0 < threshold < 1:
        raise ValueError(f"threshold: expected a probability between 0 and 1, got {threshold}")
    if steps < 0 or resolution < (1 if steps else 2):
        raise ValueError(
            f"resolution, steps: expected at least 1 cell (2 points without steps) and no less "
            f"than 0 steps, got {resolution} and {steps}"
        )
    if resolution << steps > _MAX_SIDE:
        raise ValueError(
            f"resolution, steps: expected at most {_MAX_SIDE} cells a side, "
            f"got {resolution << steps}; take fewer steps"
        )
    if refine_steps < 0:
        raise ValueError(f"refine_steps: expected at least 0, got {refine_steps}")
    if simplify_to is not None and simplify_to < 4:
        raise ValueError(f"simplify_to: expected at least 4 triangles, got {simplify_to}")
    wanted = "(1, n, n, n) voxels" if network.takes_voxels else "(1, N, 3) points"
    fits = inputs.ndim == (4 if network.takes_voxels else 3) and len(inputs) == 1
    if not fits or (not network.takes_voxels and inputs.shape[2] != 3) or inputs.numel() == 0:
        raise ValueError(f"inputs: expected {wanted}, got shape {tuple(inputs.shape)}")
    if isinstance(network.encoder, VoxelEncoder) and tuple(inputs.shape[1:]) != (32, 32, 32):
        raise ValueError(f"inputs: expected 32 voxels a side, got {tuple(inputs.shape[1:])}")


def _values(shape: Implicit, resolution: int, steps: int, level: float) -> np.ndarray:
    """(n, n, n) float64 logits over the box."""
    box = 1 + shape.network.padding
    if not steps:
        axis = torch.linspace(-0.5, 0.5, resolution)
        return shape.logits(box * torch.cartesian_prod(axis, axis, axis)).reshape((resolution,) * 3)

    def occupancy(points: np.ndarray) -> np.ndarray:
        places = box * (points / (resolution << steps) - 0.5)
        return shape.logits(torch.from_numpy(places).float())

    return evaluate(occupancy, resolution, steps, level)
