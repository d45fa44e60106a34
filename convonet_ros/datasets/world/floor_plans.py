"""Floor plans: where the rooms of a building lie, its doorways, and a walk through all of them.

The frame is the building's: its origin on the lowest floor in the middle of the outline, z up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from convonet_ros.datasets.world.furniture import Rng

WALK_M = 0.3  # half the width of the strip that the walk keeps free

_MIN_SIDE_M = 1.9  # of a room
_ROOMY_M2 = 14.0  # rooms beyond it are divided more often than not
_STEP_ASIDE_M = 1.15  # from a doorway into a room, beyond the reach of an open leaf

Rect = np.ndarray  # (2, 2): low and high corner, metres


@dataclass(slots=True)
class Cell:
    """One room: its floor, heights, the lane on which one walks through it, what blocks its floor.

    `lane` (2, 2) are the ends of a line in the plane, equal ones for a room that is crossed by its
    middle.
    """

    floor: Rect
    z: float
    height: float
    storey: int
    lane: np.ndarray
    blocked: list[Rect] = field(default_factory=list)

    @property
    def box(self) -> np.ndarray:
        """(2, 3) low and high corner of the room's empty space."""
        low, high = self.floor
        return np.array([[*low, self.z], [*high, self.z + self.height]])


@dataclass(frozen=True, slots=True)
class Doorway:
    """An opening between the cells `a` and `b`, through a wall across `axis` (0: x, 1: y).

    It reaches from `begin` (in a) to `end` (in b) along the axis and from -half to half around
    `middle` along the wall, up to `top` above the floor.
    """

    a: int
    b: int
    axis: int
    begin: float
    end: float
    middle: float
    half: float
    top: float

    def point(self, along: float) -> np.ndarray:
        """(2,) the point in the middle of the opening at that coordinate of the axis."""
        return np.array([along, self.middle] if self.axis == 0 else [self.middle, along])

    def zone(self, into_a: bool, depth: float) -> Rect:
        """The floor before the opening, `depth` deep."""
        edge, sign = (self.begin, -1) if into_a else (self.end, 1)
        ends = np.array([edge, edge + sign * depth])
        rect = np.empty((2, 2))
        rect[:, self.axis] = ends.min(), ends.max()
        rect[:, 1 - self.axis] = self.middle - self.half, self.middle + self.half
        return rect


def divided(rect: Rect, rng: Rng, most: int) -> list[Rect]:
    """A rectangle cut into at most `most` rooms with walls between them."""
    sides = rect[1] - rect[0]
    axis = int(sides.argmax()) if rng.random() < 0.8 else int(rng.integers(2))
    thick = float(rng.uniform(0.08, 0.25))
    room = sides[axis] - thick - 2 * _MIN_SIDE_M
    if most < 2 or room < 0 or (sides.prod() < _ROOMY_M2 and rng.random() < 0.6):
        return [rect]
    cut = rect[0, axis] + _MIN_SIDE_M + room * rng.uniform(0.1, 0.9)
    low, high = rect.copy(), rect.copy()
    low[1, axis], high[0, axis] = cut, cut + thick
    share = (cut - rect[0, axis]) / sides[axis]
    first = int(np.clip(round(most * share), 1, most - 1))
    return [*divided(low, rng, first), *divided(high, rng, most - first)]


def doorways(cells: Sequence[Cell], rng: Rng, first: int) -> list[Doorway] | None:
    """Openings that connect all cells of one storey, those of the cell `first` before others.

    Indices count from `first`'s sequence; None where the cells cannot be connected.
    """
    ways: list[Doorway] = []
    order = sorted(
        ((i, j) for i in range(len(cells)) for j in range(i)),
        key=lambda pair: (first not in pair, rng.random()),
    )
    group = list(range(len(cells)))
    for i, j in order:
        apart = group[i] != group[j]
        if not apart and rng.random() > 0.3:
            continue
        way = _doorway(cells, i, j, rng)
        if way is None or (not apart and any(_close(way, other) for other in ways)):
            continue
        ways.append(way)
        group = [group[i] if g == group[j] else g for g in group]
    return ways if len(set(group)) == 1 else None


def _doorway(cells: Sequence[Cell], i: int, j: int, rng: Rng) -> Doorway | None:
    """An opening somewhere in the wall between two cells that are neighbours."""
    for a, b in ((i, j), (j, i)):
        one, two = cells[a], cells[b]
        gap = two.floor[0] - one.floor[1]
        for axis in (0, 1):
            if not 0.02 < gap[axis] < 0.4:
                continue
            other = 1 - axis
            low = max(one.floor[0, other], two.floor[0, other])
            high = min(one.floor[1, other], two.floor[1, other])
            half = float(rng.uniform(0.4, 0.5))
            top = float(rng.uniform(1.97, 2.12))
            if rng.random() < 0.15:  # a wide passage
                half = float(rng.uniform(0.6, 1.3))
                top = float(rng.uniform(2.05, 3.0))
            half = min(half, (high - low) / 2 - 0.12)
            if half < 0.38:
                continue
            top = min(top, one.height, two.height)
            for _ in range(12):
                room = (high - low) / 2 - half - 0.12
                middle = float((low + high) / 2 + rng.uniform(-1, 1) * room)
                edges = float(one.floor[1, axis]), float(two.floor[0, axis])
                way = Doorway(a, b, axis, *edges, middle, half, top)
                zones = ((one, way.zone(True, 0.8)), (two, way.zone(False, 0.8)))
                if not any(overlap(zone, r) for cell, zone in zones for r in cell.blocked):
                    return way
    return None


def _close(one: Doorway, two: Doorway) -> bool:
    """Whether the zones of two doorways overlap."""
    zones = [[way.zone(side, 0.9) for side in (True, False)] for way in (one, two)]
    return any(overlap(a, b) for a in zones[0] for b in zones[1])


def overlap(one: Rect, two: Rect) -> bool:
    return bool(np.all(one[0] < two[1]) and np.all(two[0] < one[1]))


def walk(
    cells: Sequence[Cell], ways: Sequence[Doorway | tuple[int, int, np.ndarray]], start: int
) -> np.ndarray:
    """(W, 3) points of a walk from `start` through every cell and back the way one came.

    `ways` are doorways, and stairs as (lower cell, upper cell, points (S, 3) upwards).
    """
    links: dict[int, list[tuple[int, np.ndarray]]] = {i: [] for i in range(len(cells))}
    for way in ways:
        if isinstance(way, Doorway):
            points = _through(cells, way)
            a, b = way.a, way.b
        else:
            a, b, points = way
        links[a].append((b, points))
        links[b].append((a, points[::-1]))
    seen = {start}

    def visit(cell: int, entry: np.ndarray) -> Iterator[np.ndarray]:
        """From the entry through all that lies behind the cell, and back to the entry."""
        here = entry
        middle = _on_lane(cells[cell], cells[cell].lane.mean(axis=0))
        yield from _across(cells[cell], here, middle)
        here = middle
        for other, points in links[cell]:
            if other not in seen:
                seen.add(other)
                yield from _across(cells[cell], here, points[0])
                yield from points
                yield from visit(other, points[-1])
                yield from points[::-1]
                here = points[0]
        yield from _across(cells[cell], here, entry)

    begin = _on_lane(cells[start], cells[start].lane.mean(axis=0))
    points = np.array([begin, *visit(start, begin)])
    moved = np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-6
    return points[np.concatenate([[True], moved])]


def _through(cells: Sequence[Cell], way: Doorway) -> np.ndarray:
    """(4, 3) points from cell a to cell b through the middle of a doorway."""
    points = []
    for cell, edge, sign in ((cells[way.a], way.begin, -1), (cells[way.b], way.end, 1)):
        depth = cell.floor[1, way.axis] - cell.floor[0, way.axis]
        stop = way.point(edge + sign * min(_STEP_ASIDE_M, depth / 2))
        lane = _on_lane(cell, stop)[:2]
        if np.ptp(cell.lane, axis=0).any() and abs(lane[way.axis] - edge) < _STEP_ASIDE_M:
            stop[way.axis] = lane[way.axis]  # in a corridor no farther than to its lane
        inner = [np.append(stop, cell.z), np.append(way.point(edge), cell.z)]
        points += inner if sign < 0 else inner[::-1]
    return np.array(points)


def _across(cell: Cell, begin: np.ndarray, end: np.ndarray) -> Iterator[np.ndarray]:
    """From one point (3,) of a cell by its lane to another; without the first."""
    if np.linalg.norm(end - begin) > 1e-6:
        yield from (_on_lane(cell, begin[:2]), _on_lane(cell, end[:2]), end)


def _on_lane(cell: Cell, point: np.ndarray) -> np.ndarray:
    """(3,) the point of the cell's lane next to a point (2,)."""
    begin, end = cell.lane
    way = end - begin
    share = np.clip((point - begin) @ way / max(way @ way, 1e-12), 0.0, 1.0)
    return np.append(begin + share * way, cell.z)
