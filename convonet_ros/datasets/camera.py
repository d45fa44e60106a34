"""A simulated depth camera in a room: exact depth by ray casting, sensor noise, and poses.

The camera's optical frame has x to the right, y down and z forward.
"""

from __future__ import annotations

import numpy as np
import open3d as o3d

from convonet_ros.datasets.rooms import Room
from convonet_ros.sensors import Intrinsics

NEAR_M = 0.35
DISPARITY_STEP = 0.0028  # depth step over depth squared, 1/m: 2.8 mm at 1 m, 25 mm at 3 m


class DepthCamera:
    """Renders what an ideal depth camera sees in one room."""

    def __init__(self, room: Room, intrinsics: Intrinsics) -> None:
        vertices, triangles = room.mesh()
        self.intrinsics = intrinsics
        self._scene = o3d.t.geometry.RaycastingScene()
        self._scene.add_triangles(
            o3d.core.Tensor.from_numpy(vertices),
            o3d.core.Tensor.from_numpy(triangles.astype(np.uint32)),
        )
        k = intrinsics
        x = (np.arange(k.width, dtype=np.float32) - k.cx) / k.fx
        y = (np.arange(k.height, dtype=np.float32) - k.cy) / k.fy
        rays = np.ones((k.height, k.width, 3), dtype=np.float32)
        rays[..., 0], rays[..., 1] = x[None, :], y[:, None]
        self._rays_camera = rays  # directions with z = 1, so that ray length is depth

    def render(self, T_map_camera: np.ndarray) -> np.ndarray:
        """Pose (4, 4) -> (H, W) float32 depth along the optical axis in metres, 0 = nothing."""
        rotation = T_map_camera[:3, :3].astype(np.float32)
        rays = np.empty((*self._rays_camera.shape[:2], 6), dtype=np.float32)
        rays[..., :3] = T_map_camera[:3, 3]
        rays[..., 3:] = self._rays_camera @ rotation.T
        depth = self._scene.cast_rays(o3d.core.Tensor.from_numpy(rays))["t_hit"].numpy()
        return np.where(np.isfinite(depth), depth, np.float32(0.0))


def add_noise(
    depth_m: np.ndarray,
    intrinsics: Intrinsics,
    rng: np.random.Generator,
    max_range_m: float | None = None,
) -> np.ndarray:
    """What a Kinect-like sensor would report for an ideal depth image, (H, W) float32, 0 = invalid.

    Lateral jitter, axial noise that grows with the square of depth and is partly correlated between
    pixels, disparity steps, holes at depth edges, at grazing incidence and in random blobs, and a
    limited range (the far end is drawn from 3.5 to 5 m where `max_range_m` is not given).
    """
    shape = depth_m.shape
    far_m = rng.uniform(3.5, 5.0) if max_range_m is None else max_range_m
    depth = _jitter(depth_m, rng, sigma_px=rng.uniform(0.4, 0.7))
    sigma = 0.0012 + 0.0019 * (depth - 0.4) ** 2
    white = rng.standard_normal(shape, dtype=np.float32)
    noise = 0.75 * white + 0.66 * smooth_noise(rng, shape, cell_px=8)
    depth = depth + sigma * noise
    keep = (depth > NEAR_M) & (depth < far_m) & (depth_m > 0)
    phase = rng.random()
    disparity = np.round(1.0 / (np.maximum(depth, 0.05) * DISPARITY_STEP) + phase) - phase
    depth = 1.0 / (DISPARITY_STEP * np.maximum(disparity, 1.0))
    keep &= ~_edge_holes(depth_m, rng) & ~_grazing_holes(depth_m, intrinsics, rng)
    if rng.random() < 0.5:  # dark or shiny patches
        keep &= smooth_noise(rng, shape, cell_px=int(rng.integers(12, 40))) < rng.uniform(1.6, 2.6)
    keep &= rng.random(shape, dtype=np.float32) > 0.002
    return np.where(keep, depth, 0.0).astype(np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell_px: int) -> np.ndarray:
    """Noise of variance one (H, W) float32 with a correlation length of about `cell_px` pixels."""
    rows, cols = (_spline_weights(n, cell_px, rng.random()) for n in shape)
    grid = rng.standard_normal((rows.shape[1], cols.shape[1]), dtype=np.float32)
    return rows @ grid @ cols.T


def _spline_weights(n: int, cell_px: int, phase: float) -> np.ndarray:
    """(n, K) float32: each pixel's weights on a coarse grid, with squares that sum to one."""
    position = np.arange(n) / cell_px + phase
    distance = np.abs(position[:, None] - np.arange(int(n / cell_px + phase) + 2)[None, :])
    weights = np.maximum(1.0 - distance, 0.0)
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)


def _jitter(depth_m: np.ndarray, rng: np.random.Generator, sigma_px: float) -> np.ndarray:
    """Take each pixel's depth from a place a random step away."""
    height, width = depth_m.shape
    step = np.round(rng.standard_normal((2, height, width), dtype=np.float32) * sigma_px)
    row = np.clip(np.arange(height)[:, None] + step[0].astype(np.int32), 0, height - 1)
    col = np.clip(np.arange(width)[None, :] + step[1].astype(np.int32), 0, width - 1)
    return depth_m[row, col]


def _edge_holes(depth_m: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W) bool: pixels lost beside depth jumps, a wider band on the shadow side (left)."""
    holes = np.zeros(depth_m.shape, dtype=bool)
    jump = np.diff(depth_m, axis=1) / np.maximum(depth_m[:, 1:], 0.1)
    holes[:, :-1] |= jump < -0.04  # a near thing begins to the right: its shadow lies here
    holes[:, :-2] |= holes[:, 1:-1]
    holes[:, 1:] |= jump > 0.04
    vertical = np.abs(np.diff(depth_m, axis=0)) / np.maximum(depth_m[1:], 0.1) > 0.04
    holes[1:] |= vertical
    return holes & (rng.random(depth_m.shape, dtype=np.float32) < rng.uniform(0.5, 0.95))


def _grazing_holes(
    depth_m: np.ndarray, intrinsics: Intrinsics, rng: np.random.Generator
) -> np.ndarray:
    """(H, W) bool: pixels lost where the surface is nearly parallel to the ray."""
    slope_x = np.zeros_like(depth_m)
    slope_y = np.zeros_like(depth_m)
    slope_x[:, 1:-1] = (depth_m[:, 2:] - depth_m[:, :-2]) * (0.5 * intrinsics.fx)
    slope_y[1:-1] = (depth_m[2:] - depth_m[:-2]) * (0.5 * intrinsics.fy)
    tangent = np.hypot(slope_x, slope_y) / np.maximum(depth_m, 0.1)  # of the incidence angle
    lost = np.clip((tangent - 4.0) / 6.0, 0.0, 0.97)  # begins at 76 degrees, all but sure at 84
    return rng.random(depth_m.shape, dtype=np.float32) < lost


def look_at(eye_map: np.ndarray, target_map: np.ndarray, roll: float = 0.0) -> np.ndarray:
    """(4, 4) T_map_camera from `eye_map` (3,) to `target_map` (3,), upright but for `roll`."""
    forward = np.asarray(target_map, dtype=np.float64) - eye_map
    length = np.linalg.norm(forward)
    if length < 1e-9:
        raise ValueError(f"target_map: expected a point away from the eye, got {target_map}")
    forward /= length
    up = np.array([0.0, 0.0, 1.0]) if abs(forward[2]) < 0.9999 else np.array([0.0, 1.0, 0.0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    T_map_camera = np.eye(4)
    T_map_camera[:3, :3] = np.stack([c * right + s * down, c * down - s * right, forward], axis=1)
    T_map_camera[:3, 3] = eye_map
    return T_map_camera


def look_along(eye_map: np.ndarray, yaw: float, pitch: float, roll: float = 0.0) -> np.ndarray:
    """(4, 4) T_map_camera looking along a heading; `pitch` is positive upwards, radians."""
    flat = np.cos(pitch)
    direction = np.array([flat * np.cos(yaw), flat * np.sin(yaw), np.sin(pitch)])
    return look_at(eye_map, np.asarray(eye_map) + direction, roll)


def sample_views(room: Room, rng: np.random.Generator, n: int) -> list[np.ndarray]:
    """`n` poses T_map_camera (4, 4) in free space that overlap, hand-held or like on a robot."""
    if rng.random() < 0.5:
        return _robot_views(room, rng, n)
    return _hand_held_views(room, rng, n)


def _robot_views(room: Room, rng: np.random.Generator, n: int) -> list[np.ndarray]:
    """A short smooth path at one height with one pitch, turning now and then."""
    height, pitch = rng.uniform(0.3, 1.5), np.radians(rng.uniform(-30.0, 10.0))
    z = (height - 0.01, height + 0.01)
    eye = room.free_positions(rng, 1, 0.2, z)[0]
    towards = room.T_map_room[:2, 3] - eye[:2]
    yaws = np.arctan2(towards[1], towards[0]) + rng.normal(0.0, 1.2, 8)
    ahead = 0.6 * np.stack([np.cos(yaws), np.sin(yaws), np.zeros(8)], axis=1)
    yaw = yaws[np.argmin(room.occupied(eye + ahead))]  # the first that does not face a wall
    turn = np.radians(rng.normal(0.0, 20.0))
    sideways = rng.uniform(-np.pi, np.pi) if rng.random() < 0.3 else rng.normal(0.0, 0.3)
    views = [look_along(eye, yaw, pitch)]
    while len(views) < n:
        yaw += turn + np.radians(rng.normal(0.0, 5.0))
        step = rng.uniform(0.05, 0.4)
        heading = yaw + sideways
        further = eye + step * np.array([np.cos(heading), np.sin(heading), 0.0])
        if room.is_clear(further[None], 0.2)[0]:
            eye = further
        views.append(look_along(eye, yaw, pitch + rng.normal(0.0, 0.01), rng.normal(0.0, 0.01)))
    return views


def _hand_held_views(room: Room, rng: np.random.Generator, n: int) -> list[np.ndarray]:
    """Eyes around one place of interest, 0.8 to 3.5 m away from it."""
    focus = room.free_positions(rng, 1, 0.05, (0.1, 1.5))[0]
    pool = room.free_positions(rng, 200, 0.2, (0.4, 1.8))
    away = pool - focus
    distance = np.linalg.norm(away, axis=1)
    pitch = np.degrees(np.arcsin(-away[:, 2] / np.maximum(distance, 1e-6)))
    good = (distance > 0.8) & (distance < 3.5) & (pitch > -55.0) & (pitch < 20.0)
    good &= ~room.occupied(pool - 0.6 * away / np.maximum(distance, 1e-6)[:, None])
    pool = pool[good] if good.any() else pool
    spread = rng.uniform(0.3, 3.0)  # metres around the first eye: a sweep or all around
    pool = pool[np.linalg.norm(pool - pool[0], axis=1) < spread]
    eyes = pool[rng.integers(0, len(pool), n)]
    targets = focus + rng.normal(0.0, 0.25, (n, 3))
    rolls = rng.normal(0.0, np.radians(6.0), n)
    return [look_at(e, t, r) for e, t, r in zip(eyes, targets, rolls, strict=True)]


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
