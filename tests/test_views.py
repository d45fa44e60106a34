"""Sequences of views: in free space, with a free view of what they look at, through doors."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from convonet_ros.datasets.sensing.camera import DepthCamera
from convonet_ros.datasets.sensing.poses import look_along
from convonet_ros.datasets.sensing.rays import RayScene
from convonet_ros.datasets.sensing.views import (
    close_views,
    hand_held_views,
    in_sight,
    robot_views,
    sample_views,
)
from convonet_ros.datasets.sensing.walks import drive, walk
from convonet_ros.datasets.world.hollows import Hollows
from convonet_ros.datasets.world.primitives import Primitive
from convonet_ros.datasets.world.rooms import Room, make_room
from convonet_ros.sensors import Intrinsics

INTRINSICS = Intrinsics(width=120, height=90, fx=110.0, fy=110.0, cx=59.5, cy=44.5)
AHEAD = Intrinsics(width=3, height=3, fx=60.0, fy=60.0, cx=1.0, cy=1.0)


def eyes_of(views: list[np.ndarray]) -> np.ndarray:
    """(n, 3) places of the poses."""
    return np.array([T[:3, 3] for T in views])


def pitches_of(views: list[np.ndarray]) -> np.ndarray:
    """(n,) degrees above the horizon."""
    return np.degrees(np.arcsin([T[2, 2] for T in views]))


def room_with_partition() -> Room:
    """Two rooms with a doorway 0.9 m wide and 2 m high between them, at x = 0 in their frame."""
    room = make_room(3, furnished=False)
    half = room.size / 2
    side = (half[1] - 0.45) / 2

    def wall(name: str, y: float, z: float, half_y: float, half_z: float) -> Primitive:
        return Primitive(
            "box", name, np.array([0, y, z]), np.eye(3), np.array([0.06, half_y, half_z])
        )

    walls = (
        wall("left", 0.45 + side, half[2], side, half[2]),
        wall("right", -0.45 - side, half[2], side, half[2]),
        wall("lintel", 0.0, (2.0 + room.size[2]) / 2, 0.45, (room.size[2] - 2.0) / 2),
    )
    return replace(room, primitives=walls)


def test_a_wall_blocks_sight_and_a_doorway_does_not() -> None:
    room = room_with_partition()
    places = np.array([[-1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [-1.0, 1.2, 1.0], [1.0, 1.2, 1.0]])
    a, b, c, d = room.to_map(places)
    np.testing.assert_array_equal(
        in_sight(room, np.array([a, c, a, b]), np.array([b, d, c, d])), [True, False, True, True]
    )
    assert in_sight(room, np.empty((0, 3)), np.empty((0, 3))).shape == (0,)


def test_views_stand_in_free_space_and_overlap() -> None:
    pitches, heights = [], []
    for seed in range(30):
        room = make_room(seed)
        views = sample_views(room, np.random.default_rng(seed), 6)
        again = sample_views(room, np.random.default_rng(seed), 6)
        np.testing.assert_array_equal(views, again)
        eyes = eyes_of(views)
        assert eyes.shape == (6, 3)
        assert room.is_clear(eyes, 0.09).all()
        assert np.linalg.norm(eyes - eyes[0], axis=1).max() < 7.0
        pitches += list(pitches_of(views))
        heights += list(eyes[:, 2])
    assert 0.0 < np.min(heights) < 0.7 < 1.3 < np.max(heights) < 2.4
    inside = (np.array(pitches) > -70) & (np.array(pitches) < 30)
    assert inside.mean() > 0.9


def test_hand_held_and_close_views_see_one_place_from_many_sides() -> None:
    spread, lowest, highest = [], [], []
    for seed in range(12):
        room = make_room(seed)
        scene = RayScene(room)
        for kind, near, far in ((hand_held_views, 0.5, 4.2), (close_views, 0.3, 2.2)):
            views = kind(room, np.random.default_rng(seed), 12)
            ahead = [DepthCamera(scene, AHEAD).render(T)[1, 1] for T in views]
            assert np.median(ahead) > near
            if kind is close_views:
                assert np.percentile(ahead, 30) < far
                lowest.append(pitches_of(views).min())
                highest.append(pitches_of(views).max())
                spread.append(np.linalg.norm(np.ptp(eyes_of(views), axis=0)))
    assert np.median(spread) > 0.5
    assert min(lowest) < -45  # down on it
    assert max(highest) > 5  # and up at it


def test_a_robot_keeps_its_height_and_goes_through_doors() -> None:
    room = room_with_partition()
    crossed = 0
    for seed in range(20):
        views = robot_views(room, np.random.default_rng(seed), 30)
        eyes = eyes_of(views)
        assert np.ptp(eyes[:, 2]) < 1e-9
        assert 0.3 <= eyes[0, 2] - room.T_map_room[2, 3] <= 1.8
        assert room.is_clear(eyes, 0.19).all()
        assert in_sight(room, eyes[:-1], eyes[1:]).all()
        assert np.ptp(pitches_of(views)) < 8.0
        x = room.to_room(eyes)[:, 0]
        crossed += bool(x.min() < -0.3 and x.max() > 0.3)
    assert crossed >= 4


def test_a_robot_does_not_drive_over_the_edge() -> None:
    room = make_room(3, furnished=False)
    half = room.size / 2
    pit = np.array([[0.3, -half[1], -2.0], [1.2, half[1], 0.0]])  # all across the room
    room = replace(room, hollows=Hollows(np.concatenate([room.hollows.boxes, pit[None]])))
    places = []
    for seed in range(6):
        eyes = room.to_room(eyes_of(robot_views(room, np.random.default_rng(seed), 30)))
        assert len({x > 0.75 for x in eyes[:, 0]}) == 1
        places.append(eyes)
    x = np.concatenate(places)[:, 0]
    assert not np.any((x > 0.3) & (x < 1.2))


def walled(seed: int) -> Room:
    """The two rooms with a way through both."""
    room = room_with_partition()
    half = room.size[:2] / 2 - 0.7
    way = [
        [-half[0], -half[1]],
        [-half[0], half[1]],
        [-0.8, 0],
        [0.8, 0],
        half,
        [half[0], -half[1]],
    ]
    return replace(room, seed=seed, route=np.array([[x, y, 0.0] for x, y in way]))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_walk_is_smooth_and_free_and_looks_around(seed: int) -> None:
    room = walled(seed)
    poses = walk(room, 200)
    np.testing.assert_array_equal(poses, walk(room, 200))
    assert len(poses) == 200
    eyes = eyes_of(poses)
    assert room.is_clear(eyes, 0.1).all()
    assert in_sight(room, eyes[:-1], eyes[1:]).all()
    height = room.to_room(eyes)[:, 2]
    assert np.all((height > 1.29) & (height < 1.61))
    steps = np.linalg.norm(np.diff(eyes, axis=0), axis=1)
    length = np.linalg.norm(np.diff(room.route, axis=0), axis=1).sum()
    assert steps.max() < 1.6 * length / 200
    assert steps.sum() > 0.8 * length
    for waypoint in room.to_map(room.route + np.array([0.0, 0.0, 1.45])):
        assert np.linalg.norm(eyes - waypoint, axis=1).min() < 0.6
    pitches = pitches_of(poses)
    assert -35.1 < pitches.min() < -30.0
    assert 0.0 < pitches.max() < 5.1
    forward = np.array([T[:3, 2] for T in poses])
    turn = np.einsum("ij,ij->i", forward[1:], forward[:-1])
    assert np.degrees(np.arccos(np.minimum(turn, 1.0))).max() < 26.0


def test_a_walk_ducks_below_what_hangs_low() -> None:
    room = walled(0)
    beam = Primitive("box", "beam", np.array([-1.0, 0, 1.5]), np.eye(3), np.array([0.2, 2.0, 0.35]))
    room = replace(room, primitives=(*room.primitives, beam))
    eyes = eyes_of(walk(room, 150))
    assert not room.occupied(eyes).any()
    assert in_sight(room, eyes[:-1], eyes[1:]).all()


def test_a_room_without_a_route_is_driven_through() -> None:
    room = make_room(4)
    np.testing.assert_array_equal(walk(room, 30), drive(room, 30))


@pytest.mark.parametrize("seed", [0, 4, 11])
def test_a_drive_is_smooth_closed_free_and_sees_the_room(seed: int) -> None:
    room = make_room(seed)
    poses = drive(room, 240)
    np.testing.assert_array_equal(poses, drive(room, 240))
    eyes = np.array([T[:3, 3] for T in poses])
    forward = np.array([T[:3, 2] for T in poses])
    assert room.is_clear(eyes, 0.2).all()
    assert np.all((eyes[:, 2] > 0.95) & (eyes[:, 2] < 1.25))
    assert np.linalg.norm(eyes - np.roll(eyes, 1, axis=0), axis=1).max() < 0.1
    turn = np.einsum("ij,ij->i", forward, np.roll(forward, 1, axis=0))
    assert np.degrees(np.arccos(turn)).max() < 12.0

    # What the drive sees of the surface that an onlooker in the middle of the room sees.
    camera = DepthCamera(room, INTRINSICS)

    def cells(T_map_camera: np.ndarray) -> set[tuple[int, ...]]:
        depth = camera.render(T_map_camera)
        depth[depth > 4.5] = 0.0
        points = camera.points_map(depth, T_map_camera)[depth > 0]
        points = points[points[:, 2] < 2.0]
        return set(map(tuple, np.floor(points / 0.1).astype(int).tolist()))

    seen: set[tuple[int, ...]] = set().union(*map(cells, poses[::2]))
    eye = room.free_positions(np.random.default_rng(0), 1, 0.3, (1.0, 1.6))[0]
    reference = set().union(
        *(cells(look_along(eye, yaw, -0.3)) for yaw in np.arange(0.0, 2 * np.pi, 0.5))
    )
    assert len(reference & seen) / len(reference) > 0.85
