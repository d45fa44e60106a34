"""What stands in a rich room: the common furniture, and what is hard to map."""

from __future__ import annotations

from collections.abc import Callable

from convonet_ros.datasets.world import clutter, frames, furniture, leaning, vessels
from convonet_ros.datasets.world.furniture import Piece, Rng
from convonet_ros.datasets.world.solids import extent

Kinds = list[tuple[Callable[[Rng], Piece], float]]  # builders and their weights


def _model(rng: Rng) -> Piece:
    """One closed mesh on the floor."""
    parts = clutter.model(rng, 0.6, 1.2)
    across = 2 * extent(parts[0])
    return Piece("model", parts, (float(across[0]), float(across[1])))


AT_WALL: Kinds = [
    *furniture.AT_WALL,
    (frames.slim_table, 2), (frames.wire_chair, 1), (frames.bicycle, 0.8), (frames.wire_rack, 1),
    (frames.bookcase, 2), (_model, 0.8),
    (frames.garment_rack, 0.6), (frames.crib, 0.4), (frames.arc_lamp, 0.4),
    (vessels.open_box, 1), (vessels.basket, 1), (vessels.bathtub, 0.5), (vessels.sink_row, 1),
    (vessels.toilet, 0.4), (vessels.tub_chair, 0.5),
    (leaning.leaning, 2), (leaning.lectern, 0.4), (leaning.pallet, 0.4), (leaning.stack, 0.8),
    (leaning.ramp, 0.4), (leaning.steps, 0.4),
]  # fmt: skip
IN_ROOM: Kinds = [
    *furniture.IN_ROOM,
    (frames.slim_table, 3), (frames.wire_chair, 2), (frames.bar_stool, 1), (frames.tripod, 0.8),
    (frames.clothes_horse, 0.8), (frames.step_ladder, 0.5), (frames.crib, 0.3),
    (frames.screen, 0.5),
    (vessels.open_box, 1.5), (vessels.basket, 1.2), (vessels.tub_chair, 1),
    (vessels.curved_shelf, 0.4), (_model, 1.5),
    (leaning.ramp, 0.4), (leaning.steps, 0.3), (leaning.stack, 0.5),
    (leaning.lectern, 0.3), (leaning.pallet, 0.4),
]  # fmt: skip
ON_FLOOR: Kinds = [
    (vessels.open_box, 1), (vessels.basket, 1), (furniture.clutter, 2), (_model, 3),
]  # fmt: skip
TURNED_ANYHOW = frozenset(
    [
        "chair", "office_chair", "boxes", "bag", "roll", "wire_chair", "bar_stool", "tripod",
        "step_ladder", "screen", "open_box", "basket", "tub_chair", "clothes_horse", "stack",
        "curved_shelf", "model",
    ]
)  # fmt: skip
