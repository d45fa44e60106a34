"""Procedural indoor rooms from a seed, with exact analytic occupancy and a mesh for ray casting.

The room frame has its origin on the floor in the middle of the room, z up, walls along x and y.
`T_map_room` turns and shifts it, since the walls of real rooms do not follow the map's axes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from convonet_ros.datasets.furnishing import Furnisher
from convonet_ros.datasets.primitives import Primitive, joined, rotation_z
from convonet_ros.datasets.solids import occupied
from convonet_ros.datasets.walls import Niche, niche_box, shell_mesh


@dataclass(frozen=True, slots=True)
class Room:
    """A room: an empty box in solid space without end, niches in its walls, and furniture.

    `size` (3,) metres of the interior, `T_map_room` (4, 4), `primitives` with poses in the room
    frame; the primitives of one piece of furniture share its name.
    """

    seed: int
    size: np.ndarray
    T_map_room: np.ndarray
    primitives: tuple[Primitive, ...]
    niches: tuple[Niche, ...]

    def to_room(self, points_map: np.ndarray) -> np.ndarray:
        """(N, 3) points in the map frame -> (N, 3) points in the room frame."""
        return (points_map - self.T_map_room[:3, 3]) @ self.T_map_room[:3, :3]

    def to_map(self, points_room: np.ndarray) -> np.ndarray:
        """(N, 3) points in the room frame -> (N, 3) points in the map frame."""
        return points_room @ self.T_map_room[:3, :3].T + self.T_map_room[:3, 3]

    def occupied(self, points_map: np.ndarray) -> np.ndarray:
        """(N, 3) points in the map frame, metres -> (N,) bool: in a wall or in a primitive."""
        points_map = np.asarray(points_map, dtype=np.float64)
        if points_map.ndim != 2 or points_map.shape[1] != 3:
            raise ValueError(f"points_map: expected shape (N, 3), got {points_map.shape}")
        points = self.to_room(points_map)
        x, y, z = np.ascontiguousarray(points.T)
        half_x, half_y, height = self.size[0] / 2, self.size[1] / 2, self.size[2]
        solid = (np.abs(x) > half_x) | (np.abs(y) > half_y) | (z < 0.0) | (z > height)
        for niche in self.niches:
            lo, hi = niche_box(niche, self.size)
            inside = (x >= lo[0]) & (x <= hi[0]) & (y >= lo[1]) & (y <= hi[1])
            solid &= ~(inside & (z >= lo[2]) & (z <= hi[2]))
        empty = np.flatnonzero(~solid)
        solid[empty] = occupied(self.primitives, points[empty])
        return solid

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (V, 3) float32 in the map frame, metres, and triangles (T, 3) int32.

        Walls face into the room, furniture faces out; pieces overlap, so the mesh is for ray
        casting and pictures and is not one closed surface.
        """
        parts = [shell_mesh(self.size, self.niches), *(p.mesh() for p in self.primitives)]
        vertices, triangles = joined(parts)
        return self.to_map(vertices).astype(np.float32), triangles

    def names(self) -> list[str]:
        """The names of the pieces of furniture, in the order in which they were placed."""
        return list(dict.fromkeys(primitive.name for primitive in self.primitives))

    def without(self, name: str) -> Room:
        """The same room with one piece of furniture removed."""
        if name not in self.names():
            raise ValueError(f"name: expected one of {self.names()}, got {name!r}")
        return replace(self, primitives=tuple(p for p in self.primitives if p.name != name))

    def with_box(self, centre_map: np.ndarray, half: np.ndarray, name: str) -> Room:
        """The same room with one more box along the map's axes: centre and half sizes, (3,) m."""
        if name in self.names():
            raise ValueError(f"name: expected a new name, got {name!r} which the room has")
        rotation_room_map = self.T_map_room[:3, :3].T
        centre = self.to_room(np.asarray(centre_map, dtype=np.float64)[None])[0]
        half = np.asarray(half, dtype=np.float64)
        box = Primitive("box", name, centre, rotation_room_map, half)
        return replace(self, primitives=(*self.primitives, box))

    def free_positions(
        self, rng: np.random.Generator, n: int, clearance_m: float, z_range: tuple[float, float]
    ) -> np.ndarray:
        """Draw (n, 3) positions in the map frame at least `clearance_m` from anything solid.

        `z_range` are heights in the map frame, metres. Raises ValueError if there is no such place.
        """
        found: list[np.ndarray] = []
        count = 0
        for _ in range(200):
            tries = 4 * n + 16
            xy = rng.uniform(-0.5, 0.5, (tries, 2)) * (self.size[:2] - 2 * clearance_m)
            points = self.to_map(np.concatenate([xy, np.zeros((tries, 1))], axis=1))
            points[:, 2] = rng.uniform(*z_range, tries)
            points = points[self.is_clear(points, clearance_m)]
            found.append(points)
            count += len(points)
            if count >= n:
                return np.concatenate(found)[:n]
        raise ValueError(
            f"clearance_m: expected free space of {clearance_m} m at z in {z_range}, "
            f"got {count} of {n} positions in the room of seed {self.seed}"
        )

    def is_clear(self, points_map: np.ndarray, clearance_m: float) -> np.ndarray:
        """(N, 3) points in the map frame -> (N,) bool: at least that far from anything solid."""
        points = self.to_room(points_map)
        middle = np.array([0.0, 0.0, self.size[2] / 2])
        clear = np.all(np.abs(points - middle) <= self.size / 2 - clearance_m, axis=1)
        for primitive in self.primitives:
            reach = primitive.half_extent + clearance_m
            near = clear & np.all(np.abs(points - primitive.centre) < reach, axis=1)
            index = np.flatnonzero(near)
            clear[index] = primitive.distance(points[index]) >= clearance_m
        return clear


def make_room(seed: int, furnished: bool = True) -> Room:
    """The room of a seed: always the same for the same seed."""
    rng = np.random.default_rng(seed)
    size = np.array([rng.uniform(3.0, 6.5), rng.uniform(3.0, 6.5), rng.uniform(2.3, 3.0)])
    T_map_room = np.eye(4)
    T_map_room[:3, :3] = rotation_z(rng.uniform(-np.pi, np.pi))
    T_map_room[:3, 3] = [*rng.uniform(-0.5, 0.5, 2), rng.uniform(-0.03, 0.03)]
    if not furnished:
        return Room(seed, size, T_map_room, (), ())
    builder = Furnisher(rng, size)
    builder.fit_out()
    return Room(seed, size, T_map_room, tuple(builder.primitives), tuple(builder.niches))
