"""Rooms as one sees them in a dolls' house: walls and floor are slabs, and there is no ceiling.

The paper's synthetic rooms are such: they stand free, with nothing beyond their walls.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from convonet_ros.datasets.world import furniture
from convonet_ros.datasets.world.hollows import Hollows, remainder
from convonet_ros.datasets.world.primitives import Primitive
from convonet_ros.datasets.world.rooms import Room
from convonet_ros.datasets.world.solids import extent


def dolls_house(room: Room) -> list[Primitive]:
    """Floor, walls with their recesses, and what stands and hangs in the room."""
    rng = np.random.default_rng([room.seed, 0x51AB])
    thick = max(rng.uniform(0.02, 0.04) * room.size.max(), 0.09)
    outer = np.array([*(room.size[:2] / 2 + thick), room.size[2]])
    floor = furniture.box((-outer[0], -outer[1], -thick), (outer[0], outer[1], 0.0))
    solids = [floor.moved(np.eye(3), np.zeros(3), "floor"), *_walls(room, thick)]
    for solid in room.primitives:
        if not solid.name.startswith("ceiling_lamp"):  # nothing to hang on
            solids.append(_held_in(solid, outer, thick))
    return solids


def _walls(room: Room, thick: float) -> Iterator[Primitive]:
    """Boxes that make up the four walls; a recess leaves at least 0.4 of a wall's thickness."""
    half, height = room.size[:2] / 2, float(room.size[2])
    reach = np.append(half + 0.6 * thick, height)
    empty = np.clip(room.hollows.boxes, [-reach[0], -reach[1], 0.0], reach)
    outer = np.append(half + thick, height)
    for low, high in remainder(np.append(-outer[:2], 0.0), outer, Hollows(empty)):
        yield Primitive("box", "wall", (low + high) / 2, np.eye(3), (high - low) / 2)


def _held_in(solid: Primitive, outer: np.ndarray, thick: float) -> Primitive:
    """A solid that does not stick out of the walls' outer faces or of the floor.

    Pillars and inner walls, made to reach through any ceiling, end where the walls end.
    """
    centre, half = solid.centre.copy(), solid.half.copy()
    if solid.name.startswith(("pillar", "wall_stub")):
        low = max(centre[2] - half[2], -thick / 2)
        high = min(centre[2] + half[2], outer[2])
        centre[2], half[2] = (low + high) / 2, (high - low) / 2
    reach = extent(replace(solid, half=half))
    room = np.maximum(outer[:2] - reach[:2], 0.0)
    centre[:2] = np.clip(centre[:2], -room, room)
    centre[2] = max(centre[2], reach[2] - thick)
    return replace(solid, centre=centre, half=half)
