"""Poses of short sequences: a robot that drives, a hand that sweeps, a close scan of one thing."""

from __future__ import annotations

import numpy as np

from convonet_ros.datasets.sensing.poses import look_along, look_at
from convonet_ros.datasets.world.rooms import Room

_ROBOT_RADIUS_M = 0.2
_STEP_M = 0.06  # along lines of sight


def sample_views(room: Room, rng: np.random.Generator, n: int) -> list[np.ndarray]:
    """`n` poses T_map_camera (4, 4) in free space that overlap.

    A third each: on a robot, hand-held in a room, hand-held around one thing at close range.
    """
    kind = rng.integers(3)
    if kind == 0:
        return robot_views(room, rng, n)
    return close_views(room, rng, n) if kind == 1 else hand_held_views(room, rng, n)


def robot_views(
    room: Room,
    rng: np.random.Generator,
    n: int,
    heights_m: tuple[float, float] = (0.3, 1.8),
) -> list[np.ndarray]:
    """`n` poses on a drive at one height with one pitch, from one far view to the next."""
    for _ in range(20):
        eye, height = _place(room, rng, _ROBOT_RADIUS_M, heights_m)
        if _passable(room, eye[None], height)[0]:
            break
    pitch = np.radians(rng.uniform(-25.0 - 12.0 * height, 10.0))  # from higher up further down
    pace = rng.uniform(0.05, 0.4)
    aside = rng.uniform(-np.pi, np.pi) if rng.random() < 0.3 else rng.normal(0.0, 0.3)
    spin = np.radians(rng.normal(0.0, 20.0)) if rng.random() < 0.25 else 0.0
    goal_yaw, ahead_m = _way(room, rng, eye, height, None)
    yaw = goal_yaw
    views: list[np.ndarray] = []
    while len(views) < n:
        look = yaw + aside + rng.normal(0.0, 0.07)
        views.append(look_along(eye, look, pitch + rng.normal(0.0, 0.01), rng.normal(0.0, 0.01)))
        aside += spin
        turn = (goal_yaw - yaw + np.pi) % (2 * np.pi) - np.pi
        largest = np.radians(rng.uniform(20.0, 40.0))
        yaw += np.clip(turn, -largest, largest)
        if abs(turn) > largest:
            continue  # it turns where it stands
        step = min(pace * rng.uniform(0.6, 1.4), ahead_m)
        further = eye + step * np.array([np.cos(goal_yaw), np.sin(goal_yaw), 0.0])
        if step > 0.0 and _passable(room, further[None], height)[0]:
            eye, ahead_m = further, ahead_m - step
        else:
            ahead_m = 0.0
        if ahead_m < 0.05:
            goal_yaw, ahead_m = _way(room, rng, eye, height, yaw)
    return views


def hand_held_views(room: Room, rng: np.random.Generator, n: int) -> list[np.ndarray]:
    """`n` poses around one place of interest, 0.8 to 3.5 m away from it, with a free view of it."""
    focus, height = _place(room, rng, 0.05, (0.1, 1.5))
    arc = rng.uniform(0.3, 2 * np.pi)  # a sweep or all around
    azimuth = rng.uniform(-np.pi, np.pi) + rng.uniform(-0.5, 0.5, 500) * arc
    away = directions(azimuth, np.radians(rng.uniform(-20.0, 55.0, 500)))
    eyes = focus + rng.uniform(0.8, 3.5, (500, 1)) * away
    above_floor = eyes[:, 2] - focus[2] + height
    eyes = eyes[(above_floor > 0.4) & (above_floor < 1.8)]
    eyes = _seeing(room, eyes, focus, 0.2)
    if not len(eyes):
        return robot_views(room, rng, n)
    return _swept(eyes, focus, rng, n, target_sigma_m=0.25)


def close_views(room: Room, rng: np.random.Generator, n: int) -> list[np.ndarray]:
    """`n` poses at 0.4 to 1.5 m around a spot on a thing, as one scans a desk or a chair.

    Some look up at it from below, some along it, most down on it.
    """
    for _ in range(4):
        focus = _spot(room, rng)
        if focus is None:
            continue
        arc = rng.uniform(np.radians(50.0), 2 * np.pi)
        middle = rng.uniform(-np.pi, np.pi)
        low, high = sorted(rng.uniform(-35.0, 70.0, 2))
        near = rng.uniform(0.4, 1.1)
        azimuth = middle + rng.uniform(-0.5, 0.5, 600) * arc
        elevation = np.radians(rng.uniform(low - 5.0, high + 5.0, 600))
        away = directions(azimuth, elevation)
        eyes = focus + rng.uniform(near, near + 0.4, (600, 1)) * away
        eyes = _seeing(room, eyes, focus, 0.1)
        if len(eyes) >= 4:
            return _swept(eyes, focus, rng, n, target_sigma_m=rng.uniform(0.03, 0.2))
    return hand_held_views(room, rng, n)


def in_sight(room: Room, eyes: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(N, 3) and (N, 3) map frame -> (N,) bool: nothing solid up to 6 cm before the end."""
    if not len(eyes):
        return np.zeros(0, dtype=bool)
    way = targets - eyes
    length = np.linalg.norm(way, axis=1)
    steps = int(np.ceil(length.max() / _STEP_M)) + 1
    reach = np.linspace(0.0, 1.0, steps)[None, :, None]
    shorter = np.maximum(1.0 - _STEP_M / np.maximum(length, 1e-9), 0.0)[:, None, None]
    points = eyes[:, None] + reach * shorter * way[:, None]
    solid = room.occupied(points.reshape(-1, 3)).reshape(len(eyes), steps)
    return np.logical_not(solid.any(axis=1))


def _seeing(room: Room, eyes: np.ndarray, focus: np.ndarray, clearance_m: float) -> np.ndarray:
    """Those of the eyes (N, 3) that stand free and see the focus (3,)."""
    if len(eyes):
        eyes = eyes[room.is_clear(eyes, clearance_m)]
    return eyes[in_sight(room, eyes, np.broadcast_to(focus, eyes.shape))]


def _swept(
    eyes: np.ndarray, focus: np.ndarray, rng: np.random.Generator, n: int, target_sigma_m: float
) -> list[np.ndarray]:
    """`n` poses at some of the eyes (N, 3), in the order in which one walks around the focus."""
    chosen = eyes[rng.integers(0, len(eyes), n)]
    away = chosen - focus
    start = rng.uniform(0.0, 2 * np.pi)
    chosen = chosen[np.argsort((np.arctan2(away[:, 1], away[:, 0]) - start) % (2 * np.pi))]
    targets = focus + rng.normal(0.0, target_sigma_m, (n, 3))
    rolls = rng.normal(0.0, np.radians(6.0), n)
    return [look_at(e, t, r) for e, t, r in zip(chosen, targets, rolls, strict=True)]


def directions(azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """(N,) and (N,) radians -> (N, 3) unit vectors."""
    flat = np.cos(elevation)
    return np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)], axis=1)


def _place(
    room: Room, rng: np.random.Generator, clearance_m: float, heights_m: tuple[float, float]
) -> tuple[np.ndarray, float]:
    """A free place (3,) in the map frame and its height above the floor, metres.

    Where the room has a route, it lies beside the route and in sight of it: any room, any storey.
    """
    if len(room.route) >= 2:
        for _ in range(8):
            floor = along_route(room.route, rng.random(24))
            heights = np.array([0.0, 0.0, 1.0]) * rng.uniform(*heights_m, (24, 1))
            aside = np.array([1.0, 1.0, 0.0]) * rng.normal(0.0, 1.5, (24, 3))
            on_route = room.to_map(floor + heights)
            places = room.to_map(floor + heights + aside)
            good = room.is_clear(places, clearance_m)
            good[good] = in_sight(room, on_route[good], places[good])
            if good.any():
                first = int(np.argmax(good))
                return places[first], float(heights[first, 2])
    floor_z = room.T_map_room[2, 3]
    z_range = (heights_m[0] + floor_z, heights_m[1] + floor_z)
    place = room.free_positions(rng, 1, clearance_m, z_range)[0]
    return place, float(place[2] - floor_z)


def along_route(route: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Waypoints (W, 3 + C) and (N,) shares of the way from 0 to 1 -> (N, 3 + C) points on it.

    The first three columns are places; the others are interpolated along with them.
    """
    steps = np.linalg.norm(np.diff(route[:, :3], axis=0), axis=1)
    way = np.concatenate([[0.0], np.cumsum(steps)])
    return np.stack([np.interp(share * way[-1], way, axis) for axis in route.T], axis=1)


def _spot(room: Room, rng: np.random.Generator) -> np.ndarray | None:
    """A point (3,) just before the surface of a thing that is neither wall, floor nor ceiling."""
    eye, height = _place(room, rng, 0.1, (0.5, 1.6))
    rays = directions(rng.uniform(-np.pi, np.pi, 96), np.radians(rng.uniform(-60.0, 5.0, 96)))
    reach = np.arange(0.1, 3.5, 0.05)
    points = eye + reach[None, :, None] * rays[:, None]
    solid = room.occupied(points.reshape(-1, 3)).reshape(points.shape[:2])
    hit = np.argmax(solid, axis=1)
    spots = eye + (reach[hit] - 0.05)[:, None] * rays
    above_floor = spots[:, 2] - eye[2] + height
    good = solid.any(axis=1) & (hit > 0) & (above_floor > 0.15) & (above_floor < 1.5)
    behind = spots + 0.12 * rays * np.array([1.0, 1.0, 0.0])
    low_thing = rng.random() < 0.7  # or else a cupboard too
    behind[:, 2] += 0.35 if low_thing else np.maximum(1.7 - above_floor, 0.3)
    good &= ~room.occupied(behind)  # above a thing it is free, in a wall it is not
    spots = spots[good]
    return spots[rng.integers(len(spots))] if len(spots) else None


def _passable(room: Room, eyes: np.ndarray, height_m: float) -> np.ndarray:
    """(N, 3) eyes at a height above the floor -> (N,) bool: a robot fits and stands on a floor."""
    below = eyes - [0.0, 0.0, height_m + 0.1]
    return room.is_clear(eyes, _ROBOT_RADIUS_M) & room.occupied(below)


def _way(
    room: Room, rng: np.random.Generator, eye: np.ndarray, height_m: float, yaw: float | None
) -> tuple[float, float]:
    """A heading, radians, and how far one drives there, metres: far ones first, seldom back.

    Far views are what leads through doors.
    """
    headings = rng.uniform(0.0, 2 * np.pi) + np.arange(32) * (2 * np.pi / 32)
    reach = np.arange(1, 26) * 0.15
    rays = directions(headings, np.zeros(32))
    points = eye + reach[None, :, None] * rays[:, None]
    free = _passable(room, points.reshape(-1, 3), height_m).reshape(32, len(reach))
    far = np.where(free.all(axis=1), len(reach), np.argmin(free, axis=1)) * 0.15
    weight = far**2 + 1e-6
    if yaw is not None:
        weight = weight * (1.05 + np.cos(headings - yaw))
    chosen = int(rng.choice(32, p=weight / weight.sum()))
    return float(headings[chosen]), float(far[chosen] * rng.uniform(0.4, 1.0))
