"""Solid primitives (box, cylinder, ...) with a pose: exact inside test and triangle mesh."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

import numpy as np

Kind = Literal["box", "cylinder", "ellipsoid", "cone", "wedge", "mesh"]
Transform = tuple[np.ndarray, np.ndarray]  # rotation (3, 3), translation (3,)

_CHORD_M = 0.0006  # how far a round surface may lie outside of its mesh


@dataclass(frozen=True, slots=True)
class Primitive:
    """A solid with a pose in some parent frame (a piece of furniture, then the room).

    `centre` (3,) metres and `rotation` (3, 3) take the primitive's axes to the parent frame. `half`
    (3,) metres are half sizes along its own axes; a cylinder's axis is its own z. A cone is a
    cylinder whose top is narrower by the share `taper`, 1 for a point. A wedge is the half of a box
    below its diagonal: full height at low x, none at high x.
    """

    kind: Kind
    name: str
    centre: np.ndarray
    rotation: np.ndarray
    half: np.ndarray
    taper: float = 0.0
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
        if self.kind == "cone":
            radius = 1.0 - self.taper * (local[:, 2] + 1.0) / 2
            round_enough = local[:, 0] ** 2 + local[:, 1] ** 2 <= radius**2
            return (np.abs(local[:, 2]) <= 1.0) & round_enough
        if self.kind == "wedge":
            within = np.abs(local).max(axis=1, initial=0.0) <= 1.0
            return within & (local[:, 0] + local[:, 2] <= 0.0)
        return np.einsum("ij,ij->i", local, local) <= 1.0

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points in the parent frame -> (N,) metres to the solid, 0 inside.

        Exact, but for ellipsoids: there never too large.
        """
        local = (points - self.centre) @ self.rotation
        if self.kind == "ellipsoid":
            scaled = np.linalg.norm(local / self.half, axis=1)
            return np.maximum(scaled - 1.0, 0.0) * self.half.min()
        if self.kind == "cone":
            x, _, z = self.half
            radial = np.hypot(local[:, 0], local[:, 1])
            profile = np.array([[0, -z], [x, -z], [x * (1 - self.taper), z], [0, z]])
            return _beyond(profile, np.stack([radial, local[:, 2]], axis=1))
        if self.kind == "wedge":
            x, y, z = self.half
            profile = np.array([[-x, -z], [x, -z], [-x, z]])
            aside = np.maximum(np.abs(local[:, 1]) - y, 0.0)
            return np.hypot(_beyond(profile, local[:, [0, 2]]), aside)
        beyond = np.abs(local) - self.half
        if self.kind == "cylinder":
            radial = np.linalg.norm(local[:, :2], axis=1) - self.half[0]
            beyond = np.stack([radial, beyond[:, 2]], axis=1)
        return np.linalg.norm(np.maximum(beyond, 0.0), axis=1)

    def moved(self, rotation: np.ndarray, translation: np.ndarray, name: str) -> Primitive:
        """The same solid in the frame that `rotation` (3, 3) and `translation` (3,) lead to."""
        centre = rotation @ self.centre + translation
        return replace(self, name=name, centre=centre, rotation=rotation @ self.rotation)

    def mesh(self, chord_m: float = _CHORD_M) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (V, 3) float64 in the parent frame and triangles (T, 3) int32, facing out.

        A round surface lies outside of its mesh by `chord_m` at most.
        """
        radius = float(self.half.max() if self.kind == "ellipsoid" else self.half[0])
        sides = 8 * int(np.ceil(np.pi * np.sqrt(radius / (2 * chord_m)) / 8 + 1))
        flat = self.kind in ("box", "wedge")
        vertices, triangles = _unit_mesh(self.kind, 0 if flat else sides)
        if self.kind == "cone":
            shrink = 1.0 - self.taper * (vertices[:, 2:] + 1.0) / 2
            vertices = vertices * np.concatenate([shrink, shrink, np.ones_like(shrink)], axis=1)
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


def _beyond(profile: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(N, 2) points -> (N,) distance to a convex polygon, (P, 2) counter-clockwise, 0 inside."""
    inside = np.ones(len(points), dtype=bool)
    square = np.full(len(points), np.inf)
    for a, b in zip(profile, np.roll(profile, -1, axis=0), strict=True):
        edge, offset = b - a, points - a
        length = edge @ edge
        if length == 0.0:
            continue  # a point of a cone
        inside &= edge[0] * offset[:, 1] - edge[1] * offset[:, 0] >= 0.0
        share = np.clip(offset @ edge / length, 0.0, 1.0)
        away = offset - share[:, None] * edge
        square = np.minimum(square, np.einsum("ij,ij->i", away, away))
    return np.where(inside, 0.0, np.sqrt(square))


@cache
def _unit_mesh(kind: Kind, sides: int) -> tuple[np.ndarray, np.ndarray]:
    """The mesh of the primitive with half sizes one; round ones get `sides` sides."""
    if kind == "box":
        return _unit_box()
    if kind == "wedge":
        return _unit_wedge()
    if kind in ("cylinder", "cone"):
        return _turned(np.array([[0.0, -1.0], [1.0, -1.0], [1.0, 1.0], [0.0, 1.0]]), sides)
    angle = np.linspace(-np.pi / 2, np.pi / 2, sides // 2 + 1)
    return _turned(np.stack([np.cos(angle), np.sin(angle)], axis=1), sides)


def _unit_box() -> tuple[np.ndarray, np.ndarray]:
    axis = np.array([-1.0, 1.0])
    vertices = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    triangles = [t for a, b, c, d in quads for t in ([a, b, c], [a, c, d])]
    return vertices, np.array(triangles, dtype=np.int32)


def _unit_wedge() -> tuple[np.ndarray, np.ndarray]:
    profile = [(-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0)]
    vertices = np.array([(x, y, z) for y in (-1.0, 1.0) for x, z in profile])
    triangles = [[0, 1, 2], [3, 5, 4]]
    for a, b in ((0, 1), (1, 2), (2, 0)):
        triangles += [[a, a + 3, b + 3], [a, b + 3, b]]
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
