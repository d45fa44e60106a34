"""Procedural rooms: exact occupancy, a mesh that agrees with it, and determinism."""

from __future__ import annotations

import numpy as np
import pytest

from convonet_ros.datasets.world.primitives import Primitive, rotation_x, rotation_z
from convonet_ros.datasets.world.rooms import Room, make_room


def points_around(room: Room, rng: np.random.Generator, n: int) -> np.ndarray:
    """Points (n, 3) in the map frame, in the room and up to 0.3 m beyond its walls."""
    unit = rng.uniform(-0.5, 0.5, (n, 3))
    points_room = unit * (room.size + 0.6) + [0.0, 0.0, room.size[2] / 2]
    return room.to_map(points_room)


def occupied_by_hand(room: Room, points_map: np.ndarray) -> np.ndarray:
    """The same as Room.occupied, written as plainly as possible."""
    inverse = np.linalg.inv(room.T_map_room)
    points = points_map @ inverse[:3, :3].T + inverse[:3, 3]
    free = np.zeros(len(points), dtype=bool)
    for low, high in room.hollows.boxes:
        free |= np.all((points >= low) & (points <= high), axis=1)
    for primitive in room.primitives:
        free &= ~primitive.contains(points)
    return ~free


@pytest.mark.parametrize("seed", range(5))
def test_pruned_occupancy_equals_the_plain_one(seed: int) -> None:
    room = make_room(seed)
    points_map = points_around(room, np.random.default_rng(seed), 20_000)
    occupied = room.occupied(points_map)
    np.testing.assert_array_equal(occupied, occupied_by_hand(room, points_map))
    assert 0.1 < occupied.mean() < 0.7


def test_same_seed_same_room_and_other_seed_other_room() -> None:
    one, two, other = make_room(7), make_room(7), make_room(8)
    for a, b in zip(one.mesh(), two.mesh(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.names() == two.names()
    assert not np.array_equal(one.size, other.size)


def test_rooms_vary_within_their_limits() -> None:
    rooms = [make_room(seed) for seed in range(40)]
    size = np.array([room.size for room in rooms])
    assert np.all((size[:, :2] >= 3.0) & (size[:, :2] <= 6.5))
    assert np.all((size[:, 2] >= 2.3) & (size[:, 2] <= 3.0))
    offset = np.array([room.T_map_room[:3, 3] for room in rooms])
    assert np.abs(offset[:, :2]).max() <= 0.5
    assert np.abs(offset[:, 2]).max() <= 0.03
    kinds = {name.rsplit("_", 1)[0] for room in rooms for name in room.names()}
    assert kinds >= {"table", "chair", "sofa", "bed", "shelf", "cupboard", "lamp", "ball", "window"}
    assert {p.kind for room in rooms for p in room.primitives} == {"box", "cylinder", "ellipsoid"}


def test_everything_beyond_the_walls_is_solid_but_for_niches() -> None:
    room = make_room(3, furnished=False)
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((2000, 3))
    directions /= np.abs(directions / room.size).max(axis=1, keepdims=True) * 2  # onto the box
    middle = np.array([0.0, 0.0, room.size[2] / 2])
    assert room.occupied(room.to_map(middle + directions * 1.0001)).all()
    assert room.occupied(room.to_map(middle + directions * 100.0)).all()
    assert not room.occupied(room.to_map(middle + directions * 0.9999)).any()


def test_a_niche_is_free_and_the_wall_behind_it_is_solid() -> None:
    room = next(r for r in map(make_room, range(20)) if len(r.hollows.boxes) > 1)
    bare = Room(room.seed, room.size, room.T_map_room, (), room.hollows, room.route)
    low, high = room.hollows.boxes[1]
    axis = int(np.abs((low + high)[:2] / room.size[:2]).argmax())  # across the wall
    sign = np.sign((low + high)[axis])
    depth = high[axis] - low[axis]
    points = np.tile((low + high) / 2, (3, 1))
    points[:, axis] = sign * (room.size[axis] / 2 + np.array([0.01, 0.99, 1.01]) * depth)
    assert bare.occupied(bare.to_map(points)).tolist() == [False, False, True]


def test_a_box_comes_and_goes() -> None:
    room = make_room(4)
    centre_map = room.free_positions(np.random.default_rng(1), 1, 0.3, (0.5, 1.2))[0]
    half = np.array([0.1, 0.2, 0.15])
    fuller = room.with_box(centre_map, half, "crate")
    points_map = centre_map + np.random.default_rng(2).uniform(-0.4, 0.4, (5000, 3))
    inside = np.all(np.abs(points_map - centre_map) <= half, axis=1)
    np.testing.assert_array_equal(fuller.occupied(points_map), room.occupied(points_map) | inside)
    emptied = fuller.without("crate")
    np.testing.assert_array_equal(emptied.occupied(points_map), room.occupied(points_map))
    for a, b in zip(emptied.mesh(), room.mesh(), strict=True):
        np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="crate"):
        room.without("crate")
    with pytest.raises(ValueError, match="crate"):
        fuller.with_box(centre_map, half, "crate")


@pytest.mark.parametrize("seed", range(5))
def test_free_positions_keep_their_distance(seed: int) -> None:
    room = make_room(seed)
    rng = np.random.default_rng(seed)
    positions = room.free_positions(rng, 30, 0.2, (0.3, 1.8))
    assert positions.shape == (30, 3)
    assert np.all((positions[:, 2] >= 0.3) & (positions[:, 2] <= 1.8))
    around = rng.standard_normal((1000, 3))
    around *= 0.199 / np.linalg.norm(around, axis=1, keepdims=True)
    assert not room.occupied((positions[:, None] + around).reshape(-1, 3)).any()
    with pytest.raises(ValueError, match="clearance_m"):
        room.free_positions(rng, 1, 1.4, (0.3, 1.8))


def test_bad_points_are_refused() -> None:
    with pytest.raises(ValueError, match=r"points_map.*\(N, 3\).*\(4,\)"):
        make_room(0).occupied(np.zeros(4))


def test_a_rich_room_has_hard_things_and_keeps_to_its_box() -> None:
    rooms = [make_room(seed, rich=True) for seed in range(12)]
    kinds = {name.rsplit("_", 1)[0] for room in rooms for name in room.names()}
    assert kinds >= {"wire_chair", "bookcase", "open_box", "basket", "leaning", "cable", "slope"}
    assert {p.kind for room in rooms for p in room.primitives} >= {"cone", "wedge", "mesh"}
    for room in rooms[:4]:
        points_map = points_around(room, np.random.default_rng(room.seed), 5000)
        np.testing.assert_array_equal(room.occupied(points_map), occupied_by_hand(room, points_map))


@pytest.mark.parametrize("kind", ["box", "cylinder", "ellipsoid", "cone", "wedge"])
def test_a_primitives_mesh_is_closed_and_has_its_volume(kind: str) -> None:
    half = np.array([0.3, 0.3, 0.2])
    rotation = rotation_z(0.4) @ rotation_x(0.3)
    taper = 0.4 if kind == "cone" else 0.0
    centre = np.array([1.0, 2.0, 3.0])
    solid = Primitive(kind, "it", centre, rotation, half, taper)  # type: ignore[arg-type]
    vertices, triangles = solid.mesh()
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    volume = np.einsum("ij,ij->i", a - solid.centre, np.cross(b - a, c - a)).sum() / 6
    factors = {"box": 8.0, "cylinder": 2 * np.pi, "ellipsoid": 4 / 3 * np.pi, "wedge": 4.0}
    factor = factors.get(kind, 2 / 3 * np.pi * (1 + 0.6 + 0.6**2))
    assert volume == pytest.approx(factor * half.prod(), rel=0.01)  # positive: it faces out
    assert np.all(np.abs(vertices - solid.centre) <= solid.half_extent + 1e-9)
    middle = vertices.mean(axis=0)
    assert solid.contains(vertices + 1e-3 * (middle - vertices)).all()
    assert not solid.contains(vertices - 1e-3 * (middle - vertices)).any()
    outside = solid.centre + np.random.default_rng(0).uniform(-1, 1, (2000, 3))
    nearest = np.linalg.norm(outside[:, None] - vertices[None], axis=2).min(axis=1)
    assert np.all(solid.distance(outside) <= nearest + 1e-9)
    np.testing.assert_array_equal(solid.distance(outside) == 0, solid.contains(outside))


def test_only_finite_points_can_be_occupied() -> None:
    with pytest.raises(ValueError, match="finite"):
        make_room(0).occupied(np.full((1, 3), np.nan))
