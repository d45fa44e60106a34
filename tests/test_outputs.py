"""Updates that wait for their publication are merged into one that says the same."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy")

from convonet_ros.mapping.mapper import MapUpdate
from convonet_ros.mapping.meshing import Mesh, no_mesh
from convonet_ros.mapping.volume import CropIndex
from convonet_ros.ros.outputs import Pending

CROPS: list[CropIndex] = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]


def mesh(name: int) -> Mesh:
    return Mesh(
        np.full((3, 3), name, np.float32), np.array([[0, 1, 2]], np.int32), np.ones(3, bool)
    )


def shown(before: dict[CropIndex, float], update: MapUpdate) -> dict[CropIndex, float]:
    """What a viewer shows after an update."""
    after = {} if update.cleared else dict(before)
    for crop in update.left:
        after.pop(crop, None)
    for crop, new in update.meshes.items():
        if new.empty:
            after.pop(crop, None)
        else:
            after[crop] = float(new.vertices[0, 0])
    return after


UPDATES = st.lists(
    st.builds(
        lambda names, left, cleared: MapUpdate(
            1,
            {c: mesh(n) if n else no_mesh() for c, n in names.items() if c not in left},
            tuple(left),
            cleared,
        ),
        st.dictionaries(st.sampled_from(CROPS), st.integers(0, 9)),
        st.lists(st.sampled_from(CROPS), unique=True, max_size=2),
        st.sampled_from([False, False, False, True]),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(UPDATES, UPDATES)
def test_merged_updates_say_the_same(first: list[MapUpdate], second: list[MapUpdate]) -> None:
    one_by_one: dict[CropIndex, float] = {}
    merged: dict[CropIndex, float] = {}
    pending = Pending()
    for updates in (first, second):
        for update in updates:
            one_by_one = shown(one_by_one, update)
            pending.add(update)
        merged = shown(merged, pending.update())
        pending.clear()
        assert merged == one_by_one


def test_pending_is_true_only_with_news() -> None:
    pending = Pending()
    pending.add(MapUpdate(5, {}))
    assert not pending
    pending.add(MapUpdate(6, {}, cleared=True))
    assert pending
    pending.clear()
    assert not pending
    pending.add(MapUpdate(7, {(0, 0, 0): no_mesh()}))
    assert pending
    assert pending.update().stamp_ns == 7
