"""Long ways through a whole room or building."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from convonet_ros.datasets.sensing.poses import look_along
from convonet_ros.datasets.sensing.rays import RayScene
from convonet_ros.datasets.sensing.views import along_route, directions
from convonet_ros.datasets.world.rooms import Room

_TURN_VIEWS, _TURN_RAD = 6, np.radians(100.0)  # in that many views the gaze turns so far at most
_AZIMUTHS, _FIELD = 60, 9  # directions all around, and those in one view
_SEEN_M, _CELL_M = 4.0, 0.2


def drive(room: Room, n: int, height_m: float = 1.1) -> list[np.ndarray]:
    """`n` poses T_map_camera (4, 4) of one smooth closed drive through the room that sees it all.

    The camera follows the largest ellipse of free space at its height, turns slowly around itself
    and nods. The same room gives the same drive.
    """
    path = 2 * np.pi * np.arange(n) / n
    centre_room, radii = _free_ellipse(room, height_m)
    eyes = np.stack(
        [
            centre_room[0] + radii[0] * np.cos(path),
            centre_room[1] + radii[1] * np.sin(path),
            np.full(n, height_m),
        ],
        axis=1,
    )
    eyes_map = room.to_map(eyes)
    heading = np.arctan2(room.T_map_room[1, 0], room.T_map_room[0, 0])
    yaw = heading + path + np.pi / 2 + 3 * path
    pitch = np.radians(-13.0 + 24.0 * np.sin(11 * path))
    return [look_along(e, y, p) for e, y, p in zip(eyes_map, yaw, pitch, strict=True)]


def _free_ellipse(room: Room, height_m: float) -> tuple[np.ndarray, np.ndarray]:
    """Centre (2,) and radii (2,) in the room frame of a large ellipse with 0.25 m of free space."""
    angle = np.linspace(0.0, 2 * np.pi, 120, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)  # (120, 2)
    shifts = [(x, y) for x in np.linspace(-0.2, 0.2, 5) for y in np.linspace(-0.2, 0.2, 5)]
    shifts.sort(key=lambda s: abs(s[0]) + abs(s[1]))
    for scale in (0.3, 0.25, 0.2, 0.15, 0.1, 0.06, 0.03):
        for shift in shifts:
            centre, radii = np.array(shift) * room.size[:2], scale * room.size[:2]
            points = np.concatenate([centre + radii * circle, np.full((120, 1), height_m)], axis=1)
            if room.is_clear(room.to_map(points), 0.25).all():
                return centre, radii
    raise ValueError(f"room: expected free space to drive in, got none in seed {room.seed}")


def walk(
    room: Room, n: int, rng: np.random.Generator | None = None, height_m: float | None = None
) -> list[np.ndarray]:
    """`n` poses T_map_camera (4, 4) of one smooth walk along `room.route`, looking around.

    At eye height (1.3 to 1.6 m above the route), pitch from -35 to +5 degrees, never inside a
    solid. A room without a route is driven through. Without `rng` the room's seed decides.
    """
    if len(room.route) < 2:
        return drive(room, n)
    rng = np.random.default_rng([room.seed, 0x3A1C]) if rng is None else rng
    height = rng.uniform(1.3, 1.6) if height_m is None else height_m
    eyes = _smooth_way(room, n, height)
    t = np.arange(n)
    pitch = -15.0 + 20.0 * np.sin(2 * np.pi * t / rng.uniform(17.0, 29.0) + rng.uniform(0.0, 6.0))
    yaw = _gaze(RayScene(room), eyes)
    return [look_along(e, y, p) for e, y, p in zip(eyes, yaw, np.radians(pitch), strict=True)]


def _smooth_way(room: Room, n: int, height_m: float) -> np.ndarray:
    """Eyes (n, 3) in the map frame, evenly spaced on the rounded route.

    A corner is rounded less where rounding leads into something, and the head ducks below what
    hangs lower than it.
    """
    length = np.linalg.norm(np.diff(room.route, axis=0), axis=1).sum()
    count = max(n, int(length / 0.04) + 2)
    exact = along_route(room.route, np.linspace(0.0, 1.0, count))
    spacing = length / (count - 1)
    up = np.array([0.0, 0.0, height_m])
    way = exact
    for smooth_m in (0.1, 0.2, 0.35):
        rounded = ndimage.gaussian_filter1d(exact, smooth_m / spacing, axis=0, mode="nearest")
        free = room.is_clear(room.to_map(rounded + up), 0.1)
        # Fully there where it is free, and blended over the smoothing's reach.
        share = ndimage.minimum_filter1d(free.astype(float), int(4 * smooth_m / spacing) | 1)
        share = ndimage.gaussian_filter1d(share, smooth_m / spacing)[:, None]
        way = way + share * (rounded - way)
    eyes = way + up
    for duck_m in (0.1, 0.2, 0.35, 0.5, 0.7):
        blocked = ~room.is_clear(room.to_map(eyes), 0.1)
        eyes[blocked] = exact[blocked] + up - [0.0, 0.0, duck_m]
    eyes = room.to_map(eyes)
    if room.occupied(eyes).any():
        raise ValueError(f"room: expected a route free at eye height, got none in seed {room.seed}")
    return along_route(eyes, np.linspace(0.0, 1.0, n))


def _gaze(scene: RayScene, eyes: np.ndarray) -> np.ndarray:
    """Yaws (n,), radians: every few views it turns to where most is new, rather ahead than back."""
    azimuth = np.arange(_AZIMUTHS) * (2 * np.pi / _AZIMUTHS)
    elevation = np.radians(np.arange(-50.0, 20.0, 6.0))
    rays = directions(*map(np.ravel, np.meshgrid(azimuth, elevation, indexing="ij")))
    keys = np.unique(np.append(np.arange(0, len(eyes), _TURN_VIEWS), len(eyes) - 1))
    seen: dict[int, int] = {}  # cell -> how often
    yaw, yaws = None, []
    for key in keys:
        T_map_eye = np.eye(4)
        T_map_eye[:3, 3] = eyes[key]
        reach = np.minimum(scene.cast(T_map_eye, rays.astype(np.float32)).distance, _SEEN_M)
        cell = np.floor((eyes[key] + reach[:, None] * rays) / _CELL_M).astype(np.int64)
        cells = (cell @ [1 << 40, 1 << 20, 1]).reshape(_AZIMUTHS, -1)
        names, where = np.unique(cells, return_inverse=True)
        worth = np.array([0.6 ** seen.get(name, 0) for name in names.tolist()])[where]
        worth = np.where(reach < _SEEN_M, worth.ravel(), 0.0).reshape(cells.shape).sum(axis=1)
        ahead = eyes[min(key + _TURN_VIEWS, len(eyes) - 1)] - eyes[key]
        likes = 1.0 + 0.3 * np.cos(azimuth - np.arctan2(ahead[1], ahead[0]))
        value = likes * (0.1 + ndimage.uniform_filter1d(worth, _FIELD, mode="wrap"))
        if yaw is not None:
            value[np.cos(azimuth - yaw) < np.cos(_TURN_RAD)] = 0.0
        best = int(np.argmax(value))
        turn = 0.0 if yaw is None else azimuth[best] - yaw
        yaw = azimuth[best] if yaw is None else yaw + (turn + np.pi) % (2 * np.pi) - np.pi
        yaws.append(yaw)
        window = (best + np.arange(_FIELD) - _FIELD // 2) % _AZIMUTHS
        for name in np.unique(cells[window]).tolist():
            seen[name] = seen.get(name, 0) + 1
    smooth = np.interp(np.arange(len(eyes)), keys, yaws)
    return ndimage.gaussian_filter1d(smooth, _TURN_VIEWS / 3, mode="nearest")
