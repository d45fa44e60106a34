"""Rooms as one sees them in a dolls' house: walls and floor are slabs, and there is no ceiling.

The paper's synthetic rooms are such: they stand free, with nothing beyond their walls.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from convonet_ros.datasets import furniture
from convonet_ros.datasets.primitives import Primitive
from convonet_ros.datasets.rooms import Room
from convonet_ros.datasets.solids import extent
from convonet_ros.datasets.walls import wall_length, wall_pose


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
    height = float(room.size[2])
    for wall in range(4):
        pose = wall_pose(wall, room.size)
        half = wall_length(wall, room.size) / 2 + thick
        niches = [niche for niche in room.niches if niche.wall == wall]
        for x0, x1 in pairwise(
            np.unique([-half, half, *(x for n in niches for x in (n.x0, n.x1))])
        ):
            here = [niche for niche in niches if niche.x0 < (x0 + x1) / 2 < niche.x1]
            edges = np.unique([0.0, height, *(z for n in here for z in (n.z0, n.z1))])
            for z0, z1 in pairwise(edges):
                depths = [n.depth for n in here if n.z0 < (z0 + z1) / 2 < n.z1]
                depth = min(max(depths, default=0.0), 0.6 * thick)
                box = furniture.box((x0, -thick, z0), (x1, -depth, z1))
                yield box.moved(*pose, "wall")


def _held_in(solid: Primitive, outer: np.ndarray, thick: float) -> Primitive:
    """A solid that does not stick out of the walls' outer faces or of the floor.

    Pillars and inner walls, made to reach through any ceiling, end where the walls end.
    """
    centre, half = solid.centre.copy(), solid.half.copy()
    if solid.name.startswith(("pillar", "wall_stub")):
        low = max(centre[2] - half[2], -thick / 2)
        high = min(centre[2] + half[2], outer[2])
        centre[2], half[2] = (low + high) / 2, (high - low) / 2
    reach = extent(Primitive(solid.kind, solid.name, centre, solid.rotation, half))
    room = np.maximum(outer[:2] - reach[:2], 0.0)
    centre[:2] = np.clip(centre[:2], -room, room)
    centre[2] = max(centre[2], reach[2] - thick)
    return Primitive(solid.kind, solid.name, centre, solid.rotation, half)
