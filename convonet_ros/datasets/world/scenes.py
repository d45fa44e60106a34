"""The training world: by the seed a room or a building."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from convonet_ros.datasets.world.buildings import make_building
from convonet_ros.datasets.world.rooms import Room, make_room


def make_scene(seed: int) -> Room:
    """The scene of a seed: about half are single rooms, the rest buildings, some nearly empty.

    It depends on the models that are there (`meshes.catalogue`), and on nothing else.
    """
    rng = np.random.default_rng([seed, 0x5CE])
    draw = rng.random()
    if draw < 0.4:
        return make_room(seed, rich=True)
    if draw < 0.47:
        return make_room(seed)
    if draw < 0.55:
        return _thinned(make_room(seed, rich=True), rng)
    return make_building(seed, storeys=1 if draw < 0.78 else 2)


def _thinned(room: Room, rng: np.random.Generator) -> Room:
    """The room with few of its pieces."""
    share = rng.uniform(0.1, 0.4)
    kept = {name for name in room.names() if rng.random() < share}
    return replace(room, primitives=tuple(p for p in room.primitives if p.name in kept))
