"""Rigid transforms, boxes and the fixed crop lattice.

Frames follow REP-105 (map: z up) and REP-103 (camera optical frame: x right, y down, z forward).
`T_a_b` maps coordinates of frame b to frame a; lengths are metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

# Poses are kept to a nanometre, so that one pose read from a matrix file and the same pose
# received as a quaternion over TF become bit-equal and give bit-equal maps.
_POSE_DECIMALS = 9


def canonical_pose(T: np.ndarray, name: str = "pose") -> np.ndarray:
    """The nearest rigid transform to T, (4, 4) float64, rounded to a nanometre.

    Raises ValueError when T is not (4, 4), not finite, or further than 1e-3 from rigid.
    """
    T = np.asarray(T, dtype=np.float64)
    if T.shape != (4, 4):
        raise ValueError(f"{name}: expected a (4, 4) matrix, got shape {T.shape}")
    if not np.isfinite(T).all():
        raise ValueError(f"{name}: expected finite numbers, got {T.tolist()}")
    u, _, vt = np.linalg.svd(T[:3, :3])
    rotation = u @ vt
    if np.linalg.det(rotation) < 0 or np.abs(rotation - T[:3, :3]).max() > 1e-3:
        raise ValueError(f"{name}: expected a rotation in T[:3, :3], got {T[:3, :3].tolist()}")
    result = np.eye(4)
    result[:3, :3] = rotation
    result[:3, 3] = T[:3, 3]
    return np.round(result, _POSE_DECIMALS)


def pose_from(translation: np.ndarray, quaternion_xyzw: np.ndarray) -> np.ndarray:
    """(3,) metres and (4,) quaternion (x, y, z, w; any length above 0) to a (4, 4) pose."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_quat(quaternion_xyzw).as_matrix()
    T[:3, 3] = translation
    return T


def quaternion_of(T: np.ndarray) -> np.ndarray:
    """(4,) unit quaternion (x, y, z, w) of the rotation in a (4, 4) pose."""
    return Rotation.from_matrix(T[:3, :3]).as_quat()


def interpolate_pose(T_0: np.ndarray, T_1: np.ndarray, alpha: float) -> np.ndarray:
    """The pose at alpha in [0, 1] between two (4, 4) poses: slerp and linear translation."""
    rotations = Rotation.from_matrix(np.stack([T_0[:3, :3], T_1[:3, :3]]))
    T = np.eye(4)
    T[:3, :3] = Slerp([0.0, 1.0], rotations)(alpha).as_matrix()
    T[:3, 3] = (1 - alpha) * T_0[:3, 3] + alpha * T_1[:3, 3]
    return T


def inverse(T: np.ndarray) -> np.ndarray:
    """The inverse of a rigid (4, 4) transform."""
    result = np.eye(4)
    result[:3, :3] = T[:3, :3].T
    result[:3, 3] = -T[:3, :3].T @ T[:3, 3]
    return result


def transform(T: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply a (4, 4) transform to (N, 3) points."""
    return points @ T[:3, :3].T + T[:3, 3]


def point_to_index(points: np.ndarray, cell_m: float) -> np.ndarray:
    """(N, 3) metres to (N, 3) int64 indices of the cells of side cell_m that hold them."""
    return np.floor(np.asarray(points, dtype=np.float64) / cell_m).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Lattice:
    """The fixed lattice in the map frame: voxels, the crops made of them, and their halo.

    A crop is a cube of `crop_voxels` voxels; the network sees it in its box, the crop plus
    `halo_voxels` on every side. The lattice is anchored at the map's origin for ever, so crops
    keep their identity while the robot moves. `SUB` sub-voxels per voxel side hold the points, the
    evidence of rays and the decoded values.
    """

    voxel_m: float = 0.05
    crop_voxels: int = 32
    halo_voxels: int = 8

    SUB = 2

    @property
    def box_voxels(self) -> int:
        return self.crop_voxels + 2 * self.halo_voxels

    @property
    def crop_m(self) -> float:
        return self.crop_voxels * self.voxel_m

    @property
    def sub_m(self) -> float:
        return self.voxel_m / self.SUB
