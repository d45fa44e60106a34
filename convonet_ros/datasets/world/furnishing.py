"""Where things stand and hang in a room: doors, windows, and furniture that does not collide."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

import numpy as np

from convonet_ros.datasets.world import assortment, clutter, fittings, furniture
from convonet_ros.datasets.world.frames import wire_chair
from convonet_ros.datasets.world.furniture import Piece, Rng
from convonet_ros.datasets.world.primitives import Primitive, Transform, rotation_x, rotation_z
from convonet_ros.datasets.world.solids import extent
from convonet_ros.datasets.world.walls import Niche, wall_length, wall_pose

_INTO_M = 0.06  # how far a part may stick into a wall or the ceiling: less than any is thick


class Furnisher:
    """Fills a room of one size: openings and things on the walls first, then furniture.

    Its frame has the origin on the room's floor, in the middle. `count` numbers the pieces.
    """

    def __init__(self, rng: Rng, size: np.ndarray, rich: bool = False, count: int = 0) -> None:
        self.rng = rng
        self.size = size
        self.rich = rich
        self.count = count
        self.primitives: list[Primitive] = []
        self.niches: list[Niche] = []  # to be carved into the walls
        self.openings: list[tuple[int, float, float]] = []  # wall, and where on it nothing hangs
        self.low: dict[int, float] = {}  # height of walls below a slope
        self.taken: list[np.ndarray] = []  # footprints on the floor: (2, 2) low and high corner

    def fit_out(self) -> None:
        """All of a single room: a door, windows in the other walls, furniture."""
        door_wall = int(self.rng.integers(4))
        self.add_door(door_wall)
        others = [wall for wall in range(4) if wall != door_wall]
        self.furnish(windows=others, skirting=others)

    def furnish(self, windows: Collection[int], skirting: Collection[int]) -> None:
        """All but doors; windows come into some of the given walls."""
        rng = self.rng
        if self.rich:
            self.add_slopes()
            windows = [wall for wall in windows if wall not in self.low]
        for wall in range(4):
            if wall in windows and rng.random() < 0.5:
                self.add_window(wall)
            if rng.random() < 0.5:
                self.hang_things(wall)
        if rng.random() < 0.5:
            self.add_skirting(skirting)
        if rng.random() < 0.6:
            self.add_ceiling_lamp()
        if rng.random() < 0.3:
            self.add_rug()
        nearly_empty = rng.random() < 0.06
        area = self.size[0] * self.size[1]
        wanted = rng.integers(0, 4) if nearly_empty else rng.integers(8, 10 + int(area / 2.8))
        at_wall, in_room = furniture.AT_WALL, furniture.IN_ROOM
        if self.rich:
            at_wall, in_room = assortment.AT_WALL, assortment.IN_ROOM
        for _ in range(wanted):
            if rng.random() < 0.6:
                self.place_at_wall(furniture.draw(rng, at_wall))
            else:
                self.place_in_room(furniture.draw(rng, in_room))
        if self.rich:
            self.add_fittings()
            for _ in range(rng.integers(0, 4)):
                self.place_in_room(furniture.draw(rng, assortment.ON_FLOOR))

    def add(self, name: str, parts: Iterable[Primitive], pose: Transform) -> None:
        self.count += 1
        name = f"{name}_{self.count}"
        placed = [part.moved(*pose, name) for part in parts]
        self.primitives += [held for part in placed if (held := self._held(part))]

    def _held(self, part: Primitive) -> Primitive | None:
        """The part, but none where it would come out of the ceiling or a wall of a building.

        Pillars and inner walls, made to reach through any ceiling, end there.
        """
        if not self.rich:
            return part
        reach = extent(part)
        if part.name.startswith(("pillar", "wall_stub")):
            low = part.centre[2] - part.half[2]
            high = min(part.centre[2] + part.half[2], self.size[2] + _INTO_M)
            centre, half = part.centre.copy(), part.half.copy()
            centre[2], half[2] = (low + high) / 2, (high - low) / 2
            return replace(part, centre=centre, half=half)
        over = np.abs(part.centre[:2]) + reach[:2] - self.size[:2] / 2
        beyond_wall = over.max() > _INTO_M and not part.name.startswith(("door", "window", "sill"))
        above = part.centre[2] + reach[2] > self.size[2] + _INTO_M
        return None if beyond_wall or above else part

    def carve(self, niche: Niche) -> None:
        self.niches.append(niche)
        self.openings.append((niche.wall, niche.x0, niche.x1))

    def claim(
        self, footprint: tuple[float, float], pose: Transform, ignore: int | None = None
    ) -> bool:
        """Take the floor under a piece; False where another piece (but `ignore`) stands."""
        half = np.abs(pose[0][:2, :2]) @ (np.array(footprint) / 2)
        area = np.stack([pose[1][:2] - half, pose[1][:2] + half])
        others = [other for i, other in enumerate(self.taken) if i != ignore]
        if others:
            low, high = np.stack(others, axis=1)
            overlap = np.minimum(area[1], high) - np.maximum(area[0], low)
            if (overlap.min(axis=1) > 0.03).any():
                return False
        self.taken.append(area)
        return True

    def with_load(self, piece: Piece) -> Piece:
        """The piece with things on its free top."""
        if not piece.top_m:
            return piece
        count = int(self.rng.integers(0, 6))
        w, d = 0.85 * np.array(piece.footprint)
        if not self.rich:
            load = furniture.things(self.rng, w, d, piece.top_m, 0.4, count)
        elif piece.name == "table" and min(w, d) > 0.4 and self.rng.random() < 0.05:
            turn = rotation_z(self.rng.uniform(-np.pi, np.pi))  # a chair on the table
            if self.rng.random() < 0.6:
                turn = turn @ rotation_x(np.pi)
            load = [part.moved(turn, np.zeros(3), "") for part in furniture.chair(self.rng).parts]
            low = min(part.centre[2] - extent(part)[2] for part in load)
            lift = np.array([0.0, 0.0, piece.top_m - low])
            load = [part.moved(np.eye(3), lift, "") for part in load]
        else:
            load = clutter.load(self.rng, w, d, piece.top_m, 0.55, count + 1)
        return replace(piece, parts=[*piece.parts, *load])

    def place_at_wall(self, piece: Piece) -> None:
        rng = self.rng
        piece = self.with_load(piece)
        width, depth = piece.footprint
        for _ in range(8):
            wall = int(rng.integers(4))
            room = wall_length(wall, self.size) - width
            if room < 0.1 or _height(piece) > self.low.get(wall, np.inf):
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
            if piece.name in assortment.TURNED_ANYHOW:
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
            chair = furniture.chair(rng) if not self.rich or rng.random() < 0.6 else wire_chair(rng)
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
        self.carve(Niche(wall, x - half, x + half, 0.0, top, depth))
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
        self.carve(Niche(wall, x - half, x + half, sill, top, depth))
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
                build = clutter.load if self.rich else furniture.things
                parts += build(rng, 2 * half, d, 0.025, 0.35, int(rng.integers(0, 5)))
            else:
                name, d = "hanging_cupboard", rng.uniform(0.25, 0.4)
                parts = [furniture.box((x - half, 0, z), (x + half, d, min(z + 0.7, 2.2)))]
            here = ((x0, x1) for w, x0, x1 in self.openings if w == wall)
            if not any(x0 < x + half and x - half < x1 for x0, x1 in here):  # not before a window
                self.add(name, parts, at)

    def add_skirting(self, walls: Collection[int]) -> None:
        """Skirting boards along walls that have no door."""
        t, h = self.rng.uniform(0.01, 0.025), self.rng.uniform(0.05, 0.12)
        for wall in sorted(walls):
            half = wall_length(wall, self.size) / 2
            parts = [furniture.box((-half, 0, 0), (half, t, h))]
            self.add("skirting", parts, wall_pose(wall, self.size))

    def add_slopes(self) -> None:
        """Slanted ceilings above walls without openings, as under a roof."""
        if self.rng.random() < 0.8:
            return
        first = int(self.rng.integers(4))
        for wall in (first, (first + 2) % 4)[: self.rng.integers(1, 3)]:
            if all(wall != w for w, _, _ in self.openings):
                solid, self.low[wall] = fittings.slope(self.rng, self.size, wall)
                half = wall_length(wall, self.size) / 2
                self.openings.append((wall, -half, half))
                self.add("slope", [solid], (np.eye(3), np.zeros(3)))

    def add_fittings(self) -> None:
        """Beams, pipes and cables."""
        rng, still = self.rng, (np.eye(3), np.zeros(3))
        if rng.random() < 0.12:
            self.add("beams", fittings.beams(rng, self.size), still)
        if rng.random() < 0.25:
            self.add("pipes", fittings.pipes(rng, self.size), still)
        for _ in range(rng.integers(0, 3)):
            self.add("cable", fittings.floor_cable(rng, self.size), still)
        if rng.random() < 0.15 and self.size[2] > 2.1:
            self.add("line", fittings.hanging_cable(rng, self.size), still)

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


def _height(piece: Piece) -> float:
    return max(float(part.centre[2] + extent(part)[2]) for part in piece.parts)
