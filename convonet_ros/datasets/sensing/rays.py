"""Rays through a room: where they end, exactly. Every simulated sensor of the room shares them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import open3d as o3d

from convonet_ros.datasets.world.rooms import Room


class Hits(NamedTuple):
    """Where rays end, and how the surface lies there.

    distance: (...) float32 multiples of the rays' directions, inf where nothing is.
    normal: (..., 3) float32 unit normals in the map frame, facing either way.
    """

    distance: np.ndarray
    normal: np.ndarray


class RayScene:
    """The surface of one room, ready for ray casting. Built once per room."""

    def __init__(self, room: Room) -> None:
        vertices, triangles = room.mesh()
        self._scene = o3d.t.geometry.RaycastingScene()
        self._scene.add_triangles(
            o3d.core.Tensor.from_numpy(np.ascontiguousarray(vertices, np.float32)),
            o3d.core.Tensor.from_numpy(triangles.astype(np.uint32)),
        )

    def cast(self, T_map_sensor: np.ndarray, directions: np.ndarray) -> Hits:
        """Rays from the sensor's origin; pose (4, 4), `directions` (..., 3) in its frame."""
        rays = np.empty((*directions.shape[:-1], 6), dtype=np.float32)
        rays[..., :3] = T_map_sensor[:3, 3]
        rays[..., 3:] = directions @ T_map_sensor[:3, :3].T.astype(np.float32)
        hits = self._scene.cast_rays(o3d.core.Tensor.from_numpy(rays))
        return Hits(hits["t_hit"].numpy(), hits["primitive_normals"].numpy())
