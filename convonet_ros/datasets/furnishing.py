"""Where things stand and hang in a room: doors, windows, and furniture that does not collide."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from convonet_ros.datasets import furniture
from convonet_ros.datasets.furniture import Piece, Rng
from convonet_ros.datasets.primitives import Primitive, Transform, rotation_z
from convonet_ros.datasets.walls import Niche, wall_length, wall_pose


class Furnisher:
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
            room = wall_length(wall, self.size) - width
            if room < 0.1:
                continue
            corner = rng.random() < 0.3
            x = (rng.choice([-0.5, 0.5]) if corner else rng.uniform(-0.5, 0.5)) * room
            gap = 0.0 if rng.random() < 0.4 else rng.uniform(0.0, 0.12)
            rotation, origin = wall_pose(wall, self.size)
            position = origin + rotation @ np.array([x, depth / 2 + gap, 0.0])
            jitter = float(rng.normal(0.0, 0.03)) if rng.random() < 0.6 else 0.0
            pose = rotation @ rotation_z(jitter), position
            if self.claim(piece.footprint, pose):
                self.add(piece.name, piece.parts, pose)
                return

    def place_in_room(self, piece: Piece) -> None:
        rng = self.rng
        piece = self.with_load(piece)
        for _ in range(8):
            yaw = float(rng.integers(4) * np.pi / 2 + rng.normal(0.0, 0.12))
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
        x = rng.uniform(-0.5, 0.5) * (wall_length(wall, self.size) - 2 * half - 0.3)
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
        pose = wall_pose(wall, self.size)
        self.add("door", frame, pose)
        self.claim((2 * half + 0.1, 1.0), (pose[0], pose[1] + pose[0] @ np.array([x, 0.5, 0.0])))

    def add_window(self, wall: int) -> None:
        """A window recess with a sill, often a radiator below, sometimes curtains."""
        rng = self.rng
        half, sill = rng.uniform(0.35, 1.0), rng.uniform(0.7, 1.0)
        top = min(sill + rng.uniform(0.9, 1.5), self.size[2] - 0.1)
        x = rng.uniform(-0.5, 0.5) * (wall_length(wall, self.size) - 2 * half - 0.5)
        pose, box = wall_pose(wall, self.size), furniture.box
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
        pose, length = wall_pose(wall, self.size), wall_length(wall, self.size)
        for _ in range(rng.integers(1, 4)):
            half, z = rng.uniform(0.12, 0.6), rng.uniform(1.2, 1.7)
            x = rng.uniform(-0.5, 0.5) * (length - 2 * half)
            style = rng.integers(5)
            at = pose
            if style <= 2:
                name, h, t = "picture", half * rng.uniform(0.5, 1.0), rng.uniform(0.015, 0.08)
                parts = [furniture.box((x - half, 0, z - h), (x + half, t, z + h))]
            elif style == 3:
                name, d = "board", rng.uniform(0.15, 0.3)
                at = pose[0], pose[1] + pose[0] @ np.array([x, d / 2, z])
                parts = [furniture.box((-half, -d / 2, 0), (half, d / 2, 0.025))]
                parts += furniture.things(rng, 2 * half, d, 0.025, 0.35, int(rng.integers(0, 5)))
            else:
                name, d = "hanging_cupboard", rng.uniform(0.25, 0.4)
                parts = [furniture.box((x - half, 0, z), (x + half, d, min(z + 0.7, 2.2)))]
            here = (niche for niche in self.niches if niche.wall == wall)
            if not any(n.x0 < x + half and x - half < n.x1 for n in here):  # not before a window
                self.add(name, parts, at)

    def add_skirting(self, door_wall: int) -> None:
        """Skirting boards along the walls that have no door."""
        t, h = self.rng.uniform(0.01, 0.025), self.rng.uniform(0.05, 0.12)
        for wall in range(4):
            if wall != door_wall:
                half = wall_length(wall, self.size) / 2
                parts = [furniture.box((-half, 0, 0), (half, t, h))]
                self.add("skirting", parts, wall_pose(wall, self.size))

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
