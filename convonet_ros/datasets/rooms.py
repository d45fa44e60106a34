"""Procedural indoor rooms from a seed, with exact analytic occupancy and a mesh for ray casting.

The room frame has its origin on the floor in the middle of the room, z up, walls along x and y.
`T_map_room` turns and shifts it, since the walls of real rooms do not follow the map's axes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from convonet_ros.datasets import furniture
from convonet_ros.datasets.furniture import Piece, Rng
from convonet_ros.datasets.primitives import Primitive, rotation_z

Transform = tuple[np.ndarray, np.ndarray]  # rotation (3, 3), translation (3,)


@dataclass(frozen=True, slots=True)
class Niche:
    """A recess carved into one wall: a rectangle in the wall's plane and a depth, metres.

    `wall` is 0 to 3; x runs along the wall from its middle, z up from the floor.
    """

    wall: int
    x0: float
    x1: float
    z0: float
    z1: float
    depth: float


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
        order = np.argsort(points[:, 0])  # so that a primitive looks at a slab of x only
        points = np.take(points, order, axis=0)
        x, y, z = np.ascontiguousarray(points.T)

        half_x, half_y, height = self.size[0] / 2, self.size[1] / 2, self.size[2]
        solid = (np.abs(x) > half_x) | (np.abs(y) > half_y) | (z < 0.0) | (z > height)
        for niche in self.niches:
            lo, hi = _niche_box(niche, self.size)
            slab = slice(np.searchsorted(x, lo[0], "left"), np.searchsorted(x, hi[0], "right"))
            inside = (y[slab] >= lo[1]) & (y[slab] <= hi[1])
            solid[slab] &= ~(inside & (z[slab] >= lo[2]) & (z[slab] <= hi[2]))

        for primitive in self.primitives:
            centre, half = primitive.centre, primitive.half_extent
            begin, end = np.searchsorted(x, (centre[0] - half[0], centre[0] + half[0]))
            if begin == end:
                continue
            near = np.abs(y[begin:end] - centre[1]) <= half[1]
            near &= np.abs(z[begin:end] - centre[2]) <= half[2]
            index = begin + np.flatnonzero(near)
            index = index[~solid[index]]
            if len(index):
                solid[index] = primitive.contains(np.take(points, index, axis=0))

        result = np.empty(len(points), dtype=bool)
        result[order] = solid
        return result

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (V, 3) float32 in the map frame, metres, and triangles (T, 3) int32.

        Walls face into the room, furniture faces out; pieces overlap, so the mesh is for ray
        casting and pictures and is not one closed surface.
        """
        parts = [_shell_mesh(self.size, self.niches), *(p.mesh() for p in self.primitives)]
        starts = np.cumsum([0] + [len(vertices) for vertices, _ in parts])
        vertices = self.to_map(np.concatenate([vertices for vertices, _ in parts]))
        triangles = np.concatenate([t + s for (_, t), s in zip(parts, starts, strict=False)])
        return vertices.astype(np.float32), triangles.astype(np.int32)

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
        self, rng: Rng, n: int, clearance_m: float, z_range: tuple[float, float]
    ) -> np.ndarray:
        """Draw (n, 3) positions in the map frame at least about `clearance_m` from anything solid.

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
        """(N, 3) points in the map frame -> (N,) bool: free, and so are 28 points around each."""
        offsets = np.concatenate([np.zeros((1, 3)), 0.5 * _AROUND, _AROUND]) * clearance_m
        around = points_map[:, None, :] + offsets  # (N, 29, 3)
        return ~self.occupied(around.reshape(-1, 3)).reshape(len(points_map), -1).any(axis=1)


_CORNERS = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), axis=-1).reshape(-1, 3) / np.sqrt(3.0)
_AROUND = np.concatenate([np.eye(3), -np.eye(3), _CORNERS])  # (14, 3) unit vectors


def make_room(seed: int, furnished: bool = True) -> Room:
    """The room of a seed: always the same for the same seed."""
    rng = np.random.default_rng(seed)
    size = np.array([rng.uniform(3.0, 6.5), rng.uniform(3.0, 6.5), rng.uniform(2.3, 3.0)])
    T_map_room = np.eye(4)
    T_map_room[:3, :3] = rotation_z(rng.uniform(-np.pi, np.pi))
    T_map_room[:3, 3] = [*rng.uniform(-0.5, 0.5, 2), rng.uniform(-0.03, 0.03)]
    if not furnished:
        return Room(seed, size, T_map_room, (), ())
    builder = _Furnisher(rng, size)
    builder.fit_out()
    return Room(seed, size, T_map_room, tuple(builder.primitives), tuple(builder.niches))


class _Furnisher:
    """Fills a room of one size: openings and things on the walls first, then furniture."""

    def __init__(self, rng: Rng, size: np.ndarray) -> None:
        self.rng = rng
        self.size = size
        self.primitives: list[Primitive] = []
        self.niches: list[Niche] = []
        self.taken: list[np.ndarray] = []  # footprints on the floor: (2, 2) low and high corner
        self.count = 0

    def fit_out(self) -> None:
        rng = self.rng
        door_wall = int(rng.integers(4))
        self.add_door(door_wall)
        for wall in range(4):
            if wall != door_wall and rng.random() < 0.5:
                self.add_window(wall)
            if rng.random() < 0.5:
                self.hang_things(wall)
        if rng.random() < 0.5:
            self.add_skirting(door_wall)
        if rng.random() < 0.6:
            self.add_ceiling_lamp()
        if rng.random() < 0.3:
            self.add_rug()
        nearly_empty = rng.random() < 0.06
        area = self.size[0] * self.size[1]
        wanted = rng.integers(0, 4) if nearly_empty else rng.integers(8, 10 + int(area / 2.8))
        for _ in range(wanted):
            if rng.random() < 0.6:
                self.place_at_wall(furniture.draw(rng, furniture.AT_WALL))
            else:
                self.place_in_room(furniture.draw(rng, furniture.IN_ROOM))

    def add(self, name: str, parts: Iterable[Primitive], pose: Transform) -> None:
        self.count += 1
        name = f"{name}_{self.count}"
        self.primitives += [part.moved(*pose, name) for part in parts]

    def claim(
        self, footprint: tuple[float, float], pose: Transform, ignore: int | None = None
    ) -> bool:
        """Take the floor under a piece; False where another piece (but `ignore`) stands."""
        half = np.abs(pose[0][:2, :2]) @ (np.array(footprint) / 2)
        area = np.stack([pose[1][:2] - half, pose[1][:2] + half])
        for i, other in enumerate(self.taken):
            overlap = np.minimum(area[1], other[1]) - np.maximum(area[0], other[0])
            if i != ignore and overlap.min() > 0.03:
                return False
        self.taken.append(area)
        return True

    def with_load(self, piece: Piece) -> Piece:
        """The piece with things on its free top."""
        if not piece.top_m:
            return piece
        count = int(self.rng.integers(0, 6))
        w, d = piece.footprint
        load = furniture.things(self.rng, 0.85 * w, 0.85 * d, piece.top_m, 0.4, count)
        return replace(piece, parts=[*piece.parts, *load])

    def place_at_wall(self, piece: Piece) -> None:
        rng = self.rng
        piece = self.with_load(piece)
        width, depth = piece.footprint
        for _ in range(8):
            wall = int(rng.integers(4))
            room = _wall_length(wall, self.size) - width
            if room < 0.1:
                continue
            corner = rng.random() < 0.3
            x = (rng.choice([-0.5, 0.5]) if corner else rng.uniform(-0.5, 0.5)) * room
            gap = 0.0 if rng.random() < 0.4 else rng.uniform(0.0, 0.12)
            rotation, origin = _wall_pose(wall, self.size)
            position = origin + rotation @ np.array([x, depth / 2 + gap, 0.0])
            jitter = rng.normal(0.0, 0.03) if rng.random() < 0.6 else 0.0
            pose = rotation @ rotation_z(jitter), position
            if self.claim(piece.footprint, pose):
                self.add(piece.name, piece.parts, pose)
                return

    def place_in_room(self, piece: Piece) -> None:
        rng = self.rng
        piece = self.with_load(piece)
        for _ in range(8):
            yaw = rng.integers(4) * np.pi / 2 + rng.normal(0.0, 0.12)
            if piece.name in ("chair", "office_chair", "boxes", "bag", "roll"):
                yaw = rng.uniform(-np.pi, np.pi)
            inner = np.maximum(self.size[:2] - max(piece.footprint) - 0.1, 0.0)
            position = np.array([*(rng.uniform(-0.5, 0.5, 2) * inner), 0.0])
            pose = rotation_z(yaw), position
            if self.claim(piece.footprint, pose):
                self.add(piece.name, piece.parts, pose)
                if piece.name == "table" and piece.top_m > 0.6:
                    self.seat_around(piece, pose)
                return

    def seat_around(self, piece: Piece, pose: Transform) -> None:
        """Chairs that face a table, pushed under it or drawn back."""
        rng = self.rng
        w, d = piece.footprint
        table = len(self.taken) - 1
        for side in range(4):
            if rng.random() < 0.4:
                continue
            chair = furniture.chair(rng)
            away = (d if side % 2 == 0 else w) / 2 + rng.uniform(-0.05, 0.35)
            rotation = pose[0] @ rotation_z(side * np.pi / 2)
            position = pose[1] + rotation @ np.array([rng.normal(0.0, 0.05), -away, 0.0])
            turned = rotation @ rotation_z(rng.normal(0.0, 0.15))
            inside = np.all(np.abs(position[:2]) < self.size[:2] / 2 - 0.3)
            if inside and self.claim(chair.footprint, (turned, position), ignore=table):
                self.add(chair.name, chair.parts, (turned, position))

    def add_door(self, wall: int) -> None:
        """A door set back in its wall, with a frame."""
        rng = self.rng
        half, top = rng.uniform(0.38, 0.5), rng.uniform(1.95, 2.1)
        x = rng.uniform(-0.5, 0.5) * (_wall_length(wall, self.size) - 2 * half - 0.3)
        depth = rng.uniform(0.05, 0.2)
        self.niches.append(Niche(wall, x - half, x + half, 0.0, top, depth))
        t, w = rng.uniform(0.01, 0.03), rng.uniform(0.05, 0.1)
        frame = [
            furniture.box((x - half - w, 0.0, 0.0), (x - half, t, top + w)),
            furniture.box((x + half, 0.0, 0.0), (x + half + w, t, top + w)),
            furniture.box((x - half, 0.0, top), (x + half, t, top + w)),
        ]
        y, handle_x = -depth, x + half - 0.08
        frame.append(furniture.box((handle_x - 0.1, y + 0.04, 1.0), (handle_x, y + 0.06, 1.02)))
        frame.append(furniture.box((handle_x - 0.02, y, 1.0), (handle_x, y + 0.05, 1.02)))
        pose = _wall_pose(wall, self.size)
        self.add("door", frame, pose)
        self.claim((2 * half + 0.1, 1.0), (pose[0], pose[1] + pose[0] @ np.array([x, 0.5, 0.0])))

    def add_window(self, wall: int) -> None:
        """A window recess with a sill, often a radiator below, sometimes curtains."""
        rng = self.rng
        half, sill = rng.uniform(0.35, 1.0), rng.uniform(0.7, 1.0)
        top = min(sill + rng.uniform(0.9, 1.5), self.size[2] - 0.1)
        x = rng.uniform(-0.5, 0.5) * (_wall_length(wall, self.size) - 2 * half - 0.5)
        pose, box = _wall_pose(wall, self.size), furniture.box
        depth = rng.uniform(0.05, 0.2)
        self.niches.append(Niche(wall, x - half, x + half, sill, top, depth))
        if rng.random() < 0.6:
            out = rng.uniform(0.02, 0.15)
            self.add("sill", [box((x - half, -depth, sill - 0.03), (x + half, out, sill))], pose)
        if rng.random() < 0.6:  # window frame and cross
            y0, y1 = -depth, -depth + 0.04
            middles = (x - half + 0.03, x, x + half - 0.03)
            bars = [box((m - 0.03, y0, sill), (m + 0.03, y1, top)) for m in middles]
            bars.append(box((x - half, y0, top - 0.06), (x + half, y1, top)))
            self.add("window", bars, pose)
        if rng.random() < 0.6:  # radiator: a plate with fins
            r, z0, z1 = half * rng.uniform(0.6, 1.0), 0.12, sill - 0.12
            fins = [box((x - r, 0.03, z0), (x + r, 0.07, z1))]
            fins += [
                box((f - 0.015, 0.06, z0 + 0.02), (f + 0.015, 0.12, z1 - 0.02))
                for f in np.arange(x - r + 0.03, x + r - 0.02, 0.07)
            ]
            self.add("radiator", fins, pose)
        if rng.random() < 0.35:  # curtains: rows of folds
            z0, z1 = rng.choice([0.05, sill - 0.1]), top + 0.08
            folds = [
                furniture.cylinder(x + side * (half + 0.02 + 0.07 * k), 0.1, z0, z1, 0.045)
                for side in (-1, 1)
                for k in range(int(rng.integers(2, 6)))
            ]
            rod = furniture.lying_cylinder(x, 0.1, z1, 0.012, 2 * half + 0.8)
            self.add("curtains", [*folds, rod], pose)

    def hang_things(self, wall: int) -> None:
        """Pictures, a screen, a board with things on it, or a hanging cupboard on a wall."""
        rng = self.rng
        pose, length = _wall_pose(wall, self.size), _wall_length(wall, self.size)
        for _ in range(rng.integers(1, 4)):
            half, z = rng.uniform(0.12, 0.6), rng.uniform(1.2, 1.7)
            x = rng.uniform(-0.5, 0.5) * (length - 2 * half)
            style = rng.integers(5)
            if style <= 2:
                h, t = half * rng.uniform(0.5, 1.0), rng.uniform(0.015, 0.08)
                parts = [furniture.box((x - half, 0, z - h), (x + half, t, z + h))]
                self.add("picture", parts, pose)
            elif style == 3:
                d = rng.uniform(0.15, 0.3)
                parts = [furniture.box((-half, -d / 2, 0), (half, d / 2, 0.025))]
                parts += furniture.things(rng, 2 * half, d, 0.025, 0.35, int(rng.integers(0, 5)))
                self.add("board", parts, (pose[0], pose[1] + pose[0] @ np.array([x, d / 2, z])))
            else:
                d = rng.uniform(0.25, 0.4)
                parts = [furniture.box((x - half, 0, z), (x + half, d, min(z + 0.7, 2.2)))]
                self.add("hanging_cupboard", parts, pose)

    def add_skirting(self, door_wall: int) -> None:
        """Skirting boards along the walls that have no door."""
        t, h = self.rng.uniform(0.01, 0.025), self.rng.uniform(0.05, 0.12)
        for wall in range(4):
            if wall != door_wall:
                half = _wall_length(wall, self.size) / 2
                parts = [furniture.box((-half, 0, 0), (half, t, h))]
                self.add("skirting", parts, _wall_pose(wall, self.size))

    def add_ceiling_lamp(self) -> None:
        rng, top = self.rng, self.size[2]
        x, y = rng.uniform(-0.15, 0.15, 2) * self.size[:2]
        r = rng.uniform(0.12, 0.28)
        if rng.random() < 0.5:
            parts = [furniture.cylinder(x, y, top - rng.uniform(0.06, 0.15), top, r)]
        else:
            z = top - rng.uniform(0.35, 0.6)
            parts = [
                furniture.ellipsoid((x, y, z), (r, r, 0.8 * r)),
                furniture.cylinder(x, y, z, top, 0.01),
            ]
        self.add("ceiling_lamp", parts, (np.eye(3), np.zeros(3)))

    def add_rug(self) -> None:
        rng = self.rng
        x, y = rng.uniform(0.15, 0.35, 2) * self.size[:2]
        parts = [furniture.box((-x, -y, 0), (x, y, rng.uniform(0.006, 0.02)))]
        self.add("rug", parts, (rotation_z(rng.normal(0.0, 0.1)), np.zeros(3)))


def _wall_length(wall: int, size: np.ndarray) -> float:
    return float(size[0] if wall % 2 == 0 else size[1])


def _wall_pose(wall: int, size: np.ndarray) -> Transform:
    """Pose in the room frame of a wall's frame: x along it, y inwards, z up from the floor."""
    rotation = np.round(rotation_z(wall * np.pi / 2))  # exact quarter turns
    distance = size[1] / 2 if wall % 2 == 0 else size[0] / 2
    return rotation, rotation @ np.array([0.0, -distance, 0.0])


def _niche_box(niche: Niche, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high corner, (3,) metres in the room frame, of what a niche carves out."""
    rotation, origin = _wall_pose(niche.wall, size)
    corners = np.array(
        [[niche.x0, -niche.depth, niche.z0], [niche.x1, 0.0, niche.z1]]
    ) @ rotation.T + origin  # fmt: skip
    return corners.min(axis=0), corners.max(axis=0)


def _shell_mesh(size: np.ndarray, niches: tuple[Niche, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Floor, ceiling and walls with their niches, facing in: vertices (V, 3) room frame, (T, 3)."""
    x, y, h = size[0] / 2, size[1] / 2, size[2]
    quads = [
        np.array([[-x, -y, 0], [x, -y, 0], [x, y, 0], [-x, y, 0]]),
        np.array([[-x, -y, h], [-x, y, h], [x, y, h], [x, -y, h]]),
    ]
    for wall in range(4):
        rotation, origin = _wall_pose(wall, size)
        half = _wall_length(wall, size) / 2
        for quad in _wall_quads(half, h, [n for n in niches if n.wall == wall]):
            quads.append(quad @ rotation.T + origin)
    vertices = np.concatenate(quads)
    first = 4 * np.arange(len(quads))[:, None, None]
    triangles = (first + np.array([[0, 1, 2], [0, 2, 3]])).reshape(-1, 3)
    return vertices, triangles


def _wall_quads(half: float, height: float, niches: list[Niche]) -> list[np.ndarray]:
    """One wall in its own frame as quads (4, 3) that face +y, and the insides of its niches."""
    xs = np.unique([-half, half, *(e for n in niches for e in (n.x0, n.x1))])
    zs = np.unique([0.0, height, *(e for n in niches for e in (n.z0, n.z1))])
    quads = []
    for x0, x1 in zip(xs[:-1], xs[1:], strict=True):
        for z0, z1 in zip(zs[:-1], zs[1:], strict=True):
            x, z = (x0 + x1) / 2, (z0 + z1) / 2
            y = -max((n.depth for n in niches if n.x0 < x < n.x1 and n.z0 < z < n.z1), default=0.0)
            quads.append(np.array([[x0, y, z0], [x0, y, z1], [x1, y, z1], [x1, y, z0]]))
    for n in niches:
        a, b, c, d, y = n.x0, n.x1, n.z0, n.z1, -n.depth
        quads.append(np.array([[a, y, c], [b, y, c], [b, 0, c], [a, 0, c]]))
        quads.append(np.array([[a, y, d], [a, 0, d], [b, 0, d], [b, y, d]]))
        quads.append(np.array([[a, y, c], [a, 0, c], [a, 0, d], [a, y, d]]))
        quads.append(np.array([[b, y, c], [b, y, d], [b, 0, d], [b, 0, c]]))
    return quads
