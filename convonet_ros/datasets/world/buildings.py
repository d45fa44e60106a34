"""Buildings of one or two storeys from a seed: rooms, corridors, doorways, windows, stairs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from convonet_ros.datasets.world import stairs
from convonet_ros.datasets.world.doors import doorway_parts
from convonet_ros.datasets.world.floor_plans import (
    WALK_M,
    Cell,
    Doorway,
    Rect,
    divided,
    doorways,
    walk,
)
from convonet_ros.datasets.world.furnishing import Furnisher
from convonet_ros.datasets.world.furniture import Rng
from convonet_ros.datasets.world.hollows import Hollows
from convonet_ros.datasets.world.primitives import Primitive
from convonet_ros.datasets.world.rooms import Room, drawn_pose
from convonet_ros.datasets.world.walls import niche_box

_ATTEMPTS = 60
_HEADS_M = (0.25, 0.7, 1.2, 1.6)  # above the walk, where nothing may be in the way
_BODY_M = 0.22


@dataclass(slots=True)
class _Plan:
    """Cells of all storeys, doorways and stairs between them; indices count all cells."""

    outline: np.ndarray  # (2,) metres
    cells: list[Cell] = field(default_factory=list)
    ways: list[Doorway] = field(default_factory=list)
    climbs: list[tuple[int, int, np.ndarray]] = field(default_factory=list)
    holes: list[np.ndarray] = field(default_factory=list)  # (2, 3) boxes through slabs
    solids: list[Primitive] = field(default_factory=list)


def make_building(
    seed: int, storeys: int | None = None, size: tuple[float, float, float] | None = None
) -> Room:
    """The building of a seed, of one or two storeys (None: drawn).

    `size` is the least extent of its inside in metres, all storeys together; without it, it is
    drawn. Raises ValueError where `size` has no room for such a building.
    """
    rng = np.random.default_rng([seed, 0xB01D])
    if storeys is None:
        storeys = 2 if size is not None or rng.random() < 0.5 else 1
    for _ in range(_ATTEMPTS):
        plan = _planned(rng, storeys, size)
        if plan is not None:
            return _built(rng, seed, plan)
    raise ValueError(f"size: expected room for {storeys} storeys, got {size}")


def _planned(rng: Rng, storeys: int, size: tuple[float, float, float] | None) -> _Plan | None:
    """A plan, or None where it did not come out."""
    height, slab = float(rng.uniform(2.35, 2.75)), float(rng.uniform(0.2, 0.35))
    if size is None:
        outline = rng.uniform([5.0, 5.0], [12.0, 10.0])
    else:
        outline = np.array(size[:2]) + rng.uniform(0.0, 0.4, 2)
        height = max(height, (size[2] + 0.05 - (storeys - 1) * slab) / storeys)
    plan = _Plan(outline)
    turns, side = bool(rng.random() < 0.5), float(rng.uniform(0.82, 1.0))
    hall = stairs.hall_size(turns, height + slab, side)
    if storeys == 1:
        hall = (float(rng.uniform(1.1, 1.9)), 0.0)
    hall_width = hall[0] + (0.0 if turns and storeys == 2 else float(rng.uniform(0.0, 0.4)))
    has_hall = storeys == 2 or (outline.min() > 5.0 and rng.random() < 0.6)
    if has_hall and (outline[1] < hall[1] or outline[0] < hall_width + 2.3):
        return None
    hall_x = _hall_place(rng, outline[0], hall_width) if has_hall else None
    first = []  # cell of each storey: its hall, where there is one
    for storey in range(storeys):
        first.append(len(plan.cells))
        top = storey == storeys - 1
        z = storey * (height + slab)
        for k, rect in enumerate(_storey(rng, outline, hall_x)):
            cell = Cell(rect, z, _height(rng, height, top, k == 0), storey, _lane(rect))
            if has_hall and k == 0:
                cell.lane[:, 1] = rect[0, 1] + 0.6, rect[1, 1] - 0.6
            plan.cells.append(cell)
    if storeys == 2:
        _climb(rng, plan, first[0], first[1], turns, side)
    for k in first:
        storey = plan.cells[k].storey
        ways = doorways([cell for cell in plan.cells if cell.storey == storey], rng, 0)
        if not ways:
            return None
        plan.ways += [replace(way, a=way.a + k, b=way.b + k) for way in ways]
    return plan


def _height(rng: Rng, height: float, top: bool, first: bool) -> float:
    """Of one room: below its storey's `height` or that; under the roof also above it."""
    lower = 0.0 if first or rng.random() < 0.5 else rng.uniform(0.0, 0.35)
    higher = rng.uniform(0.0, 0.6) if top and rng.random() < 0.4 else 0.0
    return float(max(height - lower + higher, 2.15))


def _lane(rect: Rect) -> np.ndarray:
    """The lane of a room that is crossed by its middle."""
    return np.stack([rect.mean(axis=0)] * 2)


def _hall_place(rng: Rng, width: float, hall: float) -> tuple[float, float]:
    """Where along x a hall lies: at a side or with rooms on both sides."""
    least = 2.2
    room = width - hall - 2 * least
    if room < 0 or rng.random() < 0.15:
        x0 = -width / 2 if rng.random() < 0.5 else width / 2 - hall
    else:
        x0 = -width / 2 + least + rng.random() * room
    return x0, x0 + hall


def _storey(rng: Rng, outline: np.ndarray, hall_x: tuple[float, float] | None) -> list[Rect]:
    """The rooms of one storey; a hall comes first."""
    half = outline / 2
    whole = np.stack([-half, half])
    most = int(np.clip(rng.integers(2, 7), 2, max(2, outline.prod() / 7)))
    if outline.prod() > 110:
        most = max(most, int(outline.prod() / 22))
    if hall_x is None:
        for _ in range(20):
            rects = divided(whole, rng, most)
            if len(rects) > 1:
                break
        return rects
    x0, x1 = hall_x
    rects = [np.array([[x0, -half[1]], [x1, half[1]]])]
    for low, high in (
        (-half[0], x0 - rng.uniform(0.08, 0.25)),
        (x1 + rng.uniform(0.08, 0.25), half[0]),
    ):
        if high - low > 1.5:
            share = (high - low) / (outline[0] - (x1 - x0))
            side = np.array([[low, -half[1]], [high, half[1]]])
            rects += divided(side, rng, max(1, round((most - 1) * share)))
    return rects


def _climb(rng: Rng, plan: _Plan, lower: int, upper: int, turns: bool, side: float) -> None:
    """Put stairs into the hall and cut the slab."""
    hall, above = plan.cells[lower], plan.cells[upper]
    rise = above.z - hall.z
    sides = hall.floor[1] - hall.floor[0]
    flight = (stairs.turning if turns else stairs.straight)(rng, sides, rise, side)
    rotation, shift = np.eye(3), np.append(hall.floor[0], hall.z)
    if rng.random() < 0.5:
        rotation, shift = np.diag([-1.0, -1.0, 1.0]), np.append(hall.floor[1], hall.z)
    plan.solids += [part.moved(rotation, shift, "stairs") for part in flight.parts]

    def placed(rect: Rect) -> Rect:
        corners = rect @ rotation[:2, :2].T + shift[:2]
        return np.stack([corners.min(axis=0), corners.max(axis=0)])

    hole = placed(flight.hole)
    plan.holes.append(np.array([[*hole[0], hall.z + hall.height], [*hole[1], above.z]]))
    hall.blocked.append(placed(flight.blocked))
    above.blocked.append(hole)
    plan.climbs.append((lower, upper, flight.way @ rotation.T + shift))
    for cell in (hall, above):
        if turns:
            front = cell.floor.copy()
            if rotation[0, 0] > 0:
                front[1, 1] = hole[0, 1]
            else:
                front[0, 1] = hole[1, 1]
            y0, y1 = front[:, 1]
            cell.lane[:, 1] = y0 + 0.6, y1 - 0.6
        else:
            free = (hole[1, 0], cell.floor[1, 0])
            if rotation[0, 0] < 0:
                free = (cell.floor[0, 0], hole[0, 0])
            cell.lane[:, 0] = sum(free) / 2


def _built(rng: Rng, seed: int, plan: _Plan) -> Room:
    """The building of a plan, furnished."""
    route = walk(plan.cells, [*plan.ways, *plan.climbs], 0)
    boxes = [cell.box for cell in plan.cells] + plan.holes
    solids = list(plan.solids)
    count = 0
    strips = _strips(route)
    fixed = len(solids)
    for way in plan.ways:
        a = plan.cells[way.a]
        low, high = np.zeros(3), np.zeros(3)
        low[:2], high[:2] = way.point(way.begin), way.point(way.end)
        low[1 - way.axis] -= way.half
        high[1 - way.axis] += way.half
        low[2], high[2] = a.z, a.z + way.top
        boxes.append(np.stack([low, high]))
        count += 1
        solids += doorway_parts(rng, way, plan.cells, strips, f"doorway_{count}")
    doors = len(solids)
    outdoors = int(rng.integers(len(plan.cells)))
    for k, cell in enumerate(plan.cells):
        builder = Furnisher(rng, cell.box[1] - cell.box[0], rich=True, count=count)
        origin = np.append(cell.floor.mean(axis=0), cell.z)
        outer = [w for w in range(4) if _is_outer(cell, w, plan.outline)]
        _open(builder, plan, k, origin[:2], strips, solids[fixed:doors])
        if k == outdoors and cell.storey == 0 and outer and not cell.blocked:
            builder.add_door(outer.pop(int(rng.integers(len(outer)))))
        plain = [w for w in range(4) if all(w != opening[0] for opening in builder.openings)]
        builder.furnish(outer, plain)
        solids += [p.moved(np.eye(3), origin, p.name) for p in builder.primitives]
        boxes += [niche_box(niche, builder.size) + origin for niche in builder.niches]
        count = builder.count
    fixed_solids, loose = solids[:fixed], solids[fixed:]
    solids = fixed_solids + _out_of_the_way(loose, route)
    size = np.append(plan.outline, max(cell.box[1, 2] for cell in plan.cells))
    return Room(seed, size, drawn_pose(rng), tuple(solids), Hollows(np.stack(boxes)), route)


def _is_outer(cell: Cell, wall: int, outline: np.ndarray) -> bool:
    """Whether a wall of a cell, numbered as in `walls.py`, is one of the building's outer ones."""
    axis = 1 - wall % 2
    edge = cell.floor[0 if wall in (0, 3) else 1, axis]
    return bool(abs(abs(edge) - outline[axis] / 2) < 1e-9)


def _open(
    builder: Furnisher,
    plan: _Plan,
    k: int,
    middle: np.ndarray,
    strips: np.ndarray,
    leaves: list[Primitive],
) -> None:
    """Tell the furnisher of a cell about its doorways, the walk, stairs and open leaves."""
    cell = plan.cells[k]
    for way in plan.ways:
        if k not in (way.a, way.b):
            continue
        wall = ((1, 3), (2, 0))[way.axis][0 if k == way.a else 1]
        along = way.middle - middle[1 - way.axis]
        x = along * (-1 if wall in (2, 3) else 1)
        builder.openings.append((wall, x - way.half - 0.12, x + way.half + 0.12))
        builder.taken.append(way.zone(k == way.a, 0.7) - middle)
    builder.taken += [rect - middle for rect in cell.blocked]
    here = np.abs(strips[:, 0, 2] - cell.z) < 0.05
    builder.taken += [strip[:, :2] - middle for strip in strips[here]]
    for leaf in leaves:
        if abs(leaf.centre[2] - leaf.half[2] - cell.z) < 0.1 and leaf.half_extent[:2].max() > 0.25:
            low, high = leaf.centre - leaf.half_extent, leaf.centre + leaf.half_extent
            builder.taken.append(np.stack([low[:2], high[:2]]) - middle)


def _strips(route: np.ndarray) -> np.ndarray:
    """(S, 2, 3) boxes along the walk, without height: floor that is to stay free."""
    aside = np.array([WALK_M, WALK_M, 0.0])
    points = along(route, 0.25)
    return np.stack([points - aside, points + aside], axis=1)


def along(route: np.ndarray, step_m: float) -> np.ndarray:
    """(N, 3) points along the lines between (W, 3) waypoints, `step_m` apart at most."""
    parts = [route[:1]]
    for a, b in pairwise(route):
        count = max(1, int(np.ceil(np.linalg.norm(b - a) / step_m)))
        parts.append(a + np.linspace(0.0, 1.0, count + 1)[1:, None] * (b - a))
    return np.concatenate(parts)


def _out_of_the_way(solids: list[Primitive], route: np.ndarray) -> list[Primitive]:
    """Without the pieces that someone who walks the route would run into."""
    points = np.unique(np.round(along(route, 0.15), 3), axis=0)
    body = (points[:, None] + [[0.0, 0.0, z] for z in _HEADS_M]).reshape(-1, 3)
    bad = set()
    for solid in solids:
        if solid.name in bad:
            continue
        near = np.all(np.abs(body - solid.centre) < solid.half_extent + _BODY_M, axis=1)
        if near.any() and (solid.distance(body[near]) < _BODY_M).any():
            bad.add(solid.name)
    return [solid for solid in solids if solid.name not in bad]
