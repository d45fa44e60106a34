"""Small worlds for tests: analytic shapes and simulated rooms, seen by a simulated sensor."""

from __future__ import annotations

import numpy as np

from convonet_ros.datasets.sensing.camera import DepthCamera
from convonet_ros.datasets.sensing.noise import add_noise
from convonet_ros.datasets.sensing.poses import look_at
from convonet_ros.datasets.sensing.walks import drive
from convonet_ros.datasets.world.rooms import Room, make_room
from convonet_ros.mapping.mapper import MapUpdate
from convonet_ros.mapping.meshing import Mesh
from convonet_ros.mapping.volume import CropIndex
from convonet_ros.sensors import Intrinsics, Scan, points_from_depth

CAMERA = Intrinsics(width=120, height=90, fx=105.0, fy=105.0, cx=59.5, cy=44.5)


def scans_of_room(
    room: Room, poses: list[np.ndarray], noisy: bool = True, first_stamp_ns: int = 0
) -> list[Scan]:
    """One scan per pose of a small depth camera, 0.1 s apart."""
    camera = DepthCamera(room, CAMERA)
    rng = np.random.default_rng(room.seed)
    scans = []
    for i, T_map_camera in enumerate(poses):
        depth = camera.render(T_map_camera)
        if noisy:
            depth = add_noise(depth, CAMERA, rng)
        points = points_from_depth(depth, CAMERA)
        scans.append(Scan(points, T_map_camera, first_stamp_ns + i * 100_000_000))
    return scans


def drive_scans(seed: int, count: int, noisy: bool = True) -> tuple[Room, list[Scan]]:
    """A room and the scans of a drive through it."""
    room = make_room(seed)
    return room, scans_of_room(room, drive(room, count), noisy)


def sphere_scans(centre: np.ndarray, radius: float, views: int = 40) -> list[Scan]:
    """Scans of a sphere in empty space from directions spread evenly over all sides."""
    k = np.arange(views) + 0.5
    polar, azimuth = np.arccos(1 - 2 * k / views), np.pi * (1 + 5**0.5) * k
    sides = np.stack(
        [np.cos(azimuth) * np.sin(polar), np.sin(azimuth) * np.sin(polar), np.cos(polar)], axis=1
    )
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width]
    rays = np.stack(
        [(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones_like(u, float)], axis=-1
    ).reshape(-1, 3)
    scans = []
    for i, side in enumerate(sides):
        T_map_camera = look_at(centre + side * (radius + 1.0), centre)
        offset = T_map_camera[:3, :3].T @ (centre - T_map_camera[:3, 3])
        # |s rays - offset|^2 = radius^2
        a, b = (rays**2).sum(axis=1), rays @ offset
        under = b**2 - a * (offset @ offset - radius**2)
        hit = under > 0
        s = (b[hit] - np.sqrt(under[hit])) / a[hit]
        scans.append(Scan(rays[hit] * s[:, None], T_map_camera, i * 100_000_000))
    return scans


def keep(meshes: dict[CropIndex, Mesh], update: MapUpdate) -> None:
    """What a viewer does with an update."""
    if update.cleared:
        meshes.clear()
    for crop in update.left:
        meshes.pop(crop, None)
    for crop, mesh in update.meshes.items():
        if mesh.empty:
            meshes.pop(crop, None)
        else:
            meshes[crop] = mesh


def wall(x_m: tuple[float, float], y_m: float) -> np.ndarray:
    """(N, 3) points of a wall along x, around the height 0."""
    x, z = np.meshgrid(np.linspace(*x_m, 300), np.linspace(-0.5, 0.5, 60))
    return np.stack([x.ravel(), np.full(x.size, y_m), z.ravel()], axis=1)
