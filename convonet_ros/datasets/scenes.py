"""The training world: by the seed a room or a building."""

from __future__ import annotations

import numpy as np

from convonet_ros.datasets.buildings import make_building
from convonet_ros.datasets.rooms import Room, make_room


def make_scene(seed: int) -> Room:
    """The scene of a seed: about half are single rooms, the rest buildings and plain rooms."""
    draw = np.random.default_rng([seed, 0x5CE]).random()
    if draw < 0.42:
        return make_room(seed, rich=True)
    if draw < 0.52:
        return make_room(seed)
    return make_building(seed, storeys=1 if draw < 0.77 else 2)
