"""Procedural indoor rooms from a seed, with exact analytic occupancy and a mesh for ray casting.

The room frame has its origin on the floor in the middle of the room, z up, walls along x and y.
`T_map_room` turns and shifts it, since the walls of real rooms do not follow the map's axes.
A building (`buildings.py`) is a `Room` too, with more empty boxes; its frame lies on the lowest
floor, in the middle of its outline.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from convonet_ros.datasets.world.furnishing import Furnisher
from convonet_ros.datasets.world.hollows import Hollows
from convonet_ros.datasets.world.primitives import Primitive, joined, rotation_z
from convonet_ros.datasets.world.solids import occupied
from convonet_ros.datasets.world.walls import niche_box

_FINE, _COARSE = 0.0006, 0.0015  # metres: how far a round surface may lie outside of its mesh
_MANY = 350  # primitives, from which on the mesh is coarse


@dataclass(frozen=True, slots=True)
class Room:
    """Empty boxes in solid space without end, and furniture in them.

    `size` (3,) metres of the interior, `T_map_room` (4, 4), `primitives` with poses in the room
    frame; the primitives of one piece of furniture share its name. `hollows` in the room frame: the
    rooms themselves, niches, doorways, stairwells. `route` (W, 3) points on the floor in the room
    frame: one walk through every room that keeps clear of things; W is 1 for a single room.
    """

    seed: int
    size: np.ndarray
    T_map_room: np.ndarray
    primitives: tuple[Primitive, ...]
    hollows: Hollows
    route: np.ndarray
    _bounds: np.ndarray = field(init=False, repr=False, compare=False)  # (P, 2, 3) of primitives

    def __post_init__(self) -> None:
        centre = np.array([p.centre for p in self.primitives]).reshape(-1, 3)
        reach = np.array([p.half_extent for p in self.primitives]).reshape(-1, 3) + 1e-9
        object.__setattr__(self, "_bounds", np.stack([centre - reach, centre + reach], axis=1))

    def to_room(self, points_map: np.ndarray) -> np.ndarray:
        """(N, 3) points in the map frame -> (N, 3) points in the room frame."""
        return (points_map - self.T_map_room[:3, 3]) @ self.T_map_room[:3, :3]

    def to_map(self, points_room: np.ndarray) -> np.ndarray:
        """(N, 3) points in the room frame -> (N, 3) points in the map frame."""
        return points_room @ self.T_map_room[:3, :3].T + self.T_map_room[:3, 3]

    def occupied(self, points_map: np.ndarray) -> np.ndarray:
        """(N, 3) points in the map frame, metres -> (N,) bool: in a wall or in a primitive.

        Raises ValueError for another shape and points that are not finite.
        """
        points_map = np.asarray(points_map, dtype=np.float64)
        if points_map.ndim != 2 or points_map.shape[1] != 3:
            raise ValueError(f"points_map: expected shape (N, 3), got {points_map.shape}")
        if not np.isfinite(points_map).all():
            raise ValueError("points_map: expected finite coordinates, got others")
        points = self.to_room(points_map)
        solid = ~self.hollows.inside(points)
        empty = np.flatnonzero(~solid)
        solid[empty] = occupied(self._near(points[empty], 0.0), points[empty])
        return solid

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (V, 3) float32 in the map frame, metres, and triangles (T, 3) int32.

        Walls face into the room, furniture faces out; pieces overlap, so the mesh is for ray
        casting and pictures and is not one closed surface.
        """
        chord_m = _FINE if len(self.primitives) < _MANY else _COARSE
        parts = [self.hollows.mesh(), *(p.mesh(chord_m) for p in self.primitives)]
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
        low, high = self.hollows.boxes.transpose(1, 0, 2)
        sides = np.maximum(high - low - 2 * clearance_m, 0.0)[:, :2]
        floor = self.T_map_room[2, 3]
        reached = (low[:, 2] + floor < z_range[1]) & (high[:, 2] + floor > z_range[0])
        area = sides.prod(axis=1) * reached
        found: list[np.ndarray] = []
        count = 0
        for _ in range(200 if area.any() else 0):
            tries = 4 * n + 16
            xyz = np.zeros((tries, 3))
            box = rng.choice(len(area), tries, p=area / area.sum())
            middle = (low[box, :2] + high[box, :2]) / 2
            xyz[:, :2] = middle + rng.uniform(-0.5, 0.5, (tries, 2)) * sides[box]
            points = self.to_map(xyz)
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
        clear = self.hollows.clear(points, clearance_m)
        for primitive in self._near(points[clear], clearance_m):
            reach = primitive.half_extent + clearance_m
            near = clear & np.all(np.abs(points - primitive.centre) < reach, axis=1)
            index = np.flatnonzero(near)
            clear[index] = primitive.distance(points[index]) >= clearance_m
        return clear

    def _near(self, points: np.ndarray, margin_m: float) -> list[Primitive]:
        """The primitives whose bounding box comes that close to the box around (N, 3) points."""
        if len(points) == 0:
            return []
        low, high = points.min(axis=0) - margin_m, points.max(axis=0) + margin_m
        near = np.all((self._bounds[:, 0] <= high) & (self._bounds[:, 1] >= low), axis=1)
        return [self.primitives[k] for k in np.flatnonzero(near)]


def make_room(seed: int, furnished: bool = True, rich: bool = False) -> Room:
    """The room of a seed: always the same for the same seed.

    A `rich` one also has what is hard to map: thin, open, slanted and stacked things.
    """
    rng = np.random.default_rng(seed)
    size = np.array([rng.uniform(3.0, 6.5), rng.uniform(3.0, 6.5), rng.uniform(2.3, 3.0)])
    T_map_room = drawn_pose(rng)
    builder = Furnisher(rng, size, rich)
    if furnished:
        builder.fit_out()
    main = np.stack([np.append(-size[:2] / 2, 0.0), np.append(size[:2] / 2, size[2])])
    hollows = Hollows(np.stack([main, *(niche_box(niche, size) for niche in builder.niches)]))
    return Room(seed, size, T_map_room, tuple(builder.primitives), hollows, np.zeros((1, 3)))


def drawn_pose(rng: np.random.Generator) -> np.ndarray:
    """(4, 4) T_map_room: turned about z in any way, with its origin near the map's."""
    T_map_room = np.eye(4)
    T_map_room[:3, :3] = rotation_z(rng.uniform(-np.pi, np.pi))
    T_map_room[:3, 3] = [*rng.uniform(-0.5, 0.5, 2), rng.uniform(-0.03, 0.03)]
    return T_map_room
