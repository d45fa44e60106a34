"""Solid primitives (box, cylinder, ellipsoid) with a pose: exact inside test and triangle mesh."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Literal

import numpy as np

Kind = Literal["box", "cylinder", "ellipsoid"]
Transform = tuple[np.ndarray, np.ndarray]  # rotation (3, 3), translation (3,)

_CHORD_M = 0.0006  # how far a round surface may lie outside of its mesh


@dataclass(frozen=True, slots=True)
class Primitive:
    """A solid with a pose in some parent frame (a piece of furniture, then the room).

    `centre` (3,) metres and `rotation` (3, 3) take the primitive's axes to the parent frame. `half`
    (3,) metres are half sizes along its own axes; a cylinder's axis is its own z.
    """

    kind: Kind
    name: str
    centre: np.ndarray
    rotation: np.ndarray
    half: np.ndarray
    half_extent: np.ndarray = field(init=False)  # (3,) of a bounding box along the parent's axes

    def __post_init__(self) -> None:
        object.__setattr__(self, "half_extent", np.abs(self.rotation) @ self.half)

    def contains(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points in the parent frame -> (N,) bool, True inside or on the surface."""
        local = ((points - self.centre) @ self.rotation) / self.half
        if self.kind == "box":
            return np.abs(local).max(axis=1, initial=0.0) <= 1.0
        if self.kind == "cylinder":
            return (np.abs(local[:, 2]) <= 1.0) & (local[:, 0] ** 2 + local[:, 1] ** 2 <= 1.0)
        return np.einsum("ij,ij->i", local, local) <= 1.0

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points in the parent frame -> (N,) metres to the solid, 0 inside.

        Exact for boxes and cylinders, never too large for ellipsoids.
        """
        local = (points - self.centre) @ self.rotation
        if self.kind == "ellipsoid":
            scaled = np.linalg.norm(local / self.half, axis=1)
            return np.maximum(scaled - 1.0, 0.0) * self.half.min()
        beyond = np.abs(local) - self.half
        if self.kind == "cylinder":
            radial = np.linalg.norm(local[:, :2], axis=1) - self.half[0]
            beyond = np.stack([radial, beyond[:, 2]], axis=1)
        return np.linalg.norm(np.maximum(beyond, 0.0), axis=1)

    def moved(self, rotation: np.ndarray, translation: np.ndarray, name: str) -> Primitive:
        """The same solid in the frame that `rotation` (3, 3) and `translation` (3,) lead to."""
        centre = rotation @ self.centre + translation
        return Primitive(self.kind, name, centre, rotation @ self.rotation, self.half)

    def mesh(self) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (V, 3) float64 in the parent frame and triangles (T, 3) int32, facing out."""
        radius = float(self.half.max() if self.kind == "ellipsoid" else self.half[0])
        sides = 8 * int(np.ceil(np.pi * np.sqrt(radius / (2 * _CHORD_M)) / 8 + 1))
        vertices, triangles = _unit_mesh(self.kind, 0 if self.kind == "box" else sides)
        return (vertices * self.half) @ self.rotation.T + self.centre, triangles


def joined(meshes: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """One mesh of vertices (V, 3) and triangles (T, 3) of several, side by side."""
    parts = list(meshes)
    starts = np.cumsum([0] + [len(vertices) for vertices, _ in parts])
    triangles = [t + start for (_, t), start in zip(parts, starts, strict=False)]
    vertices = np.concatenate([vertices for vertices, _ in parts])
    return vertices, np.concatenate(triangles).astype(np.int32)


def rotation_z(yaw: float) -> np.ndarray:
    """(3, 3) rotation about z by `yaw` radians."""
    c, s = np.cos(yaw), np.sin(yaw)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def rotation_x(angle: float) -> np.ndarray:
    """(3, 3) rotation about x by `angle` radians."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])


@cache
def _unit_mesh(kind: Kind, sides: int) -> tuple[np.ndarray, np.ndarray]:
    """The mesh of the primitive with half sizes one; round ones get `sides` sides."""
    if kind == "box":
        return _unit_box()
    if kind == "cylinder":
        return _turned(np.array([[0.0, -1.0], [1.0, -1.0], [1.0, 1.0], [0.0, 1.0]]), sides)
    angle = np.linspace(-np.pi / 2, np.pi / 2, sides // 2 + 1)
    return _turned(np.stack([np.cos(angle), np.sin(angle)], axis=1), sides)


def _unit_box() -> tuple[np.ndarray, np.ndarray]:
    axis = np.array([-1.0, 1.0])
    vertices = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    triangles = [t for a, b, c, d in quads for t in ([a, b, c], [a, c, d])]
    return vertices, np.array(triangles, dtype=np.int32)


def _turned(profile: np.ndarray, sides: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn a profile (P, 2) of (radius, z), from bottom to top, about the z axis."""
    angle = np.arange(sides) * (2 * np.pi / sides)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    vertices = np.concatenate(
        [
            np.concatenate([radius * ring, np.full((sides, 1), z)], axis=1)  # (sides, 3)
            for radius, z in profile
        ]
    )
    i = np.arange(sides)
    j = (i + 1) % sides
    triangles = []
    for row in range(len(profile) - 1):
        low, high = row * sides, (row + 1) * sides
        triangles.append(np.stack([low + i, low + j, high + j], axis=1))
        triangles.append(np.stack([low + i, high + j, high + i], axis=1))
    return vertices, np.concatenate(triangles).astype(np.int32)
