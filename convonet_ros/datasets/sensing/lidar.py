"""A simulated LiDAR: rings of rays, range noise that does not depend on range."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from convonet_ros.datasets.sensing.noise import Patches
from convonet_ros.datasets.sensing.rays import RayScene

_MAX_RAYS = 60_000


@dataclass(frozen=True, slots=True)
class Lidar:
    """`rings` x `columns` rays over `elevation_deg` (low, high) and `azimuth_deg` in all.

    `sigma_m` is the range noise, `bias_m` that of a whole ring, constant in time. `dropped` is the
    share of rays lost by chance, `flying` that of rays at edges that end between near and far;
    where `patches` exceed `dark` nothing returns.
    """

    mount: ClassVar[str] = "level"

    rings: int
    columns: int
    elevation_deg: tuple[float, float]
    azimuth_deg: float
    sigma_m: float
    bias_m: np.ndarray
    near_m: float
    far_m: float
    dropped: float
    flying: float
    patches: Patches
    dark: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Lidar:
        rings = int(rng.choice([16, 32, 32, 64]))
        azimuth = 360.0 if rng.random() < 0.8 else rng.uniform(70.0, 120.0)  # or solid state
        if azimuth < 360.0:
            rings *= 2
        step = float(np.exp(rng.uniform(np.log(0.2), np.log(1.0))))
        field, up = rng.uniform(30.0, 90.0), rng.uniform(0.35, 0.6)
        return cls(
            rings,
            min(int(azimuth / step), _MAX_RAYS // rings),
            (-field * (1.0 - up), field * up),
            azimuth,
            sigma_m=rng.uniform(0.005, 0.03),
            bias_m=rng.normal(0.0, rng.uniform(0.0, 0.006), rings).astype(np.float32),
            near_m=rng.uniform(0.1, 0.5),
            far_m=rng.uniform(8.0, 40.0),
            dropped=rng.uniform(0.0, 0.05),
            flying=rng.uniform(0.0, 0.4) if rng.random() < 0.6 else 0.0,
            patches=Patches.draw(rng),
            dark=rng.uniform(1.6, 2.6) if rng.random() < 0.5 else np.inf,
        )

    def directions(self, phase: float = 0.0) -> np.ndarray:
        """(rings, columns, 3) float32 unit rays in the sensor frame, x forward and z up."""
        elevation = np.radians(np.linspace(*self.elevation_deg, self.rings))[:, None]
        steps = (np.arange(self.columns) + phase) / self.columns - 0.5
        azimuth = np.radians(self.azimuth_deg * steps)[None, :]
        flat = np.cos(elevation)
        rays = (flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation) + 0 * azimuth)
        return np.stack(rays, axis=-1).astype(np.float32)

    def ranges(
        self, scene: RayScene, T_map_sensor: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ranges (rings, columns) float32 metres, 0 = nothing returned, and their rays (.., 3)."""
        rays = self.directions(rng.random())
        exact, normal = scene.cast(T_map_sensor, rays)
        keep = (exact > self.near_m) & (exact < self.far_m)
        exact = np.where(keep, exact, np.float32(0.0))
        T = T_map_sensor.astype(np.float32)
        rays_map = rays @ T[:3, :3].T
        facing = np.abs(np.einsum("ijk,ijk->ij", rays_map, normal))
        lost = np.clip(1.0 - facing / 0.12, 0.0, 0.98)  # begins at 83 degrees
        keep &= rng.random(exact.shape, dtype=np.float32) >= lost
        keep &= rng.random(exact.shape, dtype=np.float32) >= self.dropped
        if np.isfinite(self.dark):
            keep &= self.patches.at(rays_map * exact[..., None] + T[:3, 3]) < self.dark
        ranges = self._mixed(exact, rng)
        noise = self.sigma_m * rng.standard_normal(exact.shape, dtype=np.float32)
        return np.where(keep, ranges + noise + self.bias_m[:, None], np.float32(0.0)), rays

    def _mixed(self, exact: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Ranges where a share of the beams that meet two surfaces ends between them."""
        other = np.roll(exact, 1, axis=1)
        edge = (exact > 0) & (other > 0) & (np.abs(other - exact) > 0.06 * exact)
        edge &= rng.random(exact.shape, dtype=np.float32) < self.flying
        between = exact + rng.random(exact.shape, dtype=np.float32) * (other - exact)
        return np.where(edge, between, exact)

    def measure(
        self,
        scene: RayScene,
        T_map_sensor: np.ndarray,
        rng: np.random.Generator,
        max_points: int = 100_000,
    ) -> np.ndarray:
        """Pose (4, 4), x forward and z up -> (N, 3) float32 points in the sensor frame, metres."""
        ranges, rays = self.ranges(scene, T_map_sensor, rng)
        stride = max(1, -(-ranges.size // max_points))
        points = (rays * ranges[..., None])[:, ::stride].reshape(-1, 3)
        return points[ranges[:, ::stride].reshape(-1) > 0]
