"""Poses of simulated sensors: where they look, and the errors of their localisation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

_LIMIT_M = 0.03
_LIMIT_RAD = float(np.radians(2.0))


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


def level(T_map_camera: np.ndarray) -> np.ndarray:
    """(4, 4) pose of a level sensor, x forward and z up, with a camera's place and heading."""
    forward = T_map_camera[:3, 2]
    yaw = np.arctan2(forward[1], forward[0])
    c, s = np.cos(yaw), np.sin(yaw)
    T_map_sensor = np.eye(4)
    T_map_sensor[:2, :2] = [[c, -s], [s, c]]
    T_map_sensor[:3, 3] = T_map_camera[:3, 3]
    return T_map_sensor


@dataclass(frozen=True, slots=True)
class PoseNoise:
    """Errors of the poses of one sequence: standard deviations per axis, metres and radians.

    `drift` is the share of the variance that changes slowly, within about `memory` views; the rest
    is drawn anew for every view. No error exceeds 3 cm or 2 degrees.
    """

    sigma_m: float = 0.0
    sigma_rad: float = 0.0
    drift: float = 0.0
    memory: float = 10.0

    @classmethod
    def draw(cls, rng: np.random.Generator) -> PoseNoise:
        """A third of the sequences have exact poses, and most of the others good ones."""
        if rng.random() < 1 / 3:
            return cls()
        sigma_m = float(np.exp(rng.uniform(np.log(0.001), np.log(0.015))))
        sigma_deg = float(np.exp(rng.uniform(np.log(0.05), np.log(1.0))))
        return cls(sigma_m, np.radians(sigma_deg), rng.uniform(0.0, 0.9), rng.uniform(4.0, 30.0))

    def applied(
        self, poses: Iterable[np.ndarray], rng: np.random.Generator
    ) -> Iterator[np.ndarray]:
        """The true poses (4, 4) of one sequence -> the poses (4, 4) that localisation reports."""
        keep = np.exp(-1.0 / self.memory)
        slow = rng.standard_normal(6)
        for T_map_sensor in poses:
            fast = rng.standard_normal(6)
            error = np.sqrt(self.drift) * slow + np.sqrt(1.0 - self.drift) * fast
            slow = keep * slow + np.sqrt(1.0 - keep**2) * rng.standard_normal(6)
            if self == PoseNoise():
                yield T_map_sensor
                continue
            result = T_map_sensor.copy()
            turn = Rotation.from_rotvec(_clipped(self.sigma_rad * error[3:], _LIMIT_RAD))
            result[:3, :3] = T_map_sensor[:3, :3] @ turn.as_matrix()
            result[:3, 3] += _clipped(self.sigma_m * error[:3], _LIMIT_M)
            yield result


def _clipped(vector: np.ndarray, longest: float) -> np.ndarray:
    return vector * min(1.0, longest / max(float(np.linalg.norm(vector)), 1e-12))
