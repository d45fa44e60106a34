"""Closed triangle meshes of made things: tubes, bowls, mugs, profiles, hoses, odd bodies.

Each is built from a generator, z up, with the sizes in metres that such a thing has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import trimesh
from trimesh import Trimesh
from trimesh.creation import annulus, box, capsule, cylinder, icosphere, revolve, torus

from convonet_ros.datasets.world.furniture import Rng

Points = Sequence[Sequence[float]] | np.ndarray


def _tube(rng: Rng) -> Trimesh:
    r = rng.uniform(0.03, 0.2)
    return annulus(r * rng.uniform(0.7, 0.95), r, rng.uniform(0.05, 1.0), sections=32)


def _bowl(rng: Rng) -> Trimesh:
    """A part of a spherical shell with a rounded inside."""
    r, t, open_ = (
        rng.uniform(0.06, 0.25),
        rng.uniform(0.004, 0.015),
        rng.uniform(0.35, 0.62) * np.pi,
    )
    angle = np.linspace(0.0, open_, 14)
    outer = np.stack([r * np.sin(angle), -r * np.cos(angle)], axis=1)
    inner = outer[::-1] * (r - t) / r
    return _turned(np.concatenate([outer, inner]))


def _vase(rng: Rng) -> Trimesh:
    """A turned vessel with a wall all the way down."""
    h, t = rng.uniform(0.12, 0.6), rng.uniform(0.004, 0.012)
    knots = rng.uniform(0.25, 1.0, 5) * rng.uniform(0.06, 0.2)
    z = np.linspace(0.0, h, 16)
    r = np.maximum(np.interp(z, np.linspace(0.0, h, 5), knots), 0.03)
    outer = np.stack([r, z], axis=1)
    floor = np.array([[np.interp(2 * t, z, r) - t, 2 * t], [0.0, 2 * t]])
    above = z > 2.5 * t
    inner = np.stack([r - t, z], axis=1)[above][::-1]
    return _turned(np.concatenate([[[0.0, 0.0]], outer, inner, floor]))


def _mug(rng: Rng) -> Trimesh:
    r, h, t = rng.uniform(0.035, 0.06), rng.uniform(0.07, 0.14), rng.uniform(0.003, 0.006)
    cup = _at(cylinder(r, h, sections=32), (0, 0, h / 2))
    handle = torus(0.3 * h, 0.09 * h, major_sections=20, minor_sections=10)
    handle.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0]))
    handle = _at(handle, (r, 0, h / 2))
    hollow = _at(cylinder(r - t, h, sections=32), (0, 0, h / 2 + 2 * t))
    return _less(_joined(cup, handle), hollow)


def _profile(rng: Rng) -> Trimesh:
    """A bar with an L, U or H for its section."""
    w, h, t, length = *rng.uniform(0.04, 0.2, 2), rng.uniform(0.004, 0.02), rng.uniform(0.2, 1.2)
    bar = box((length, w, h))
    style = rng.integers(3)
    cut = box((2 * length, w, h))
    if style == 0:
        return _less(bar, _at(cut, (0, t, t)))
    trough = box((2 * length, w - 2 * t, h))
    if style == 1:
        return _less(bar, _at(trough, (0, 0, t)))
    gap = box((2 * length, w - 2 * t, h / 2))
    return _less(bar, _at(gap, (0, 0, h / 4 + t / 2)), _at(gap, (0, 0, -h / 4 - t / 2)))


def _ring(rng: Rng) -> Trimesh:
    r = rng.uniform(0.05, 0.4)
    return torus(r, r * rng.uniform(0.06, 0.4), major_sections=40, minor_sections=14)


def _capsule(rng: Rng) -> Trimesh:
    return capsule(rng.uniform(0.1, 0.6), rng.uniform(0.03, 0.15), count=(20, 20))


def _arch(rng: Rng) -> Trimesh:
    """Half a ring on two feet."""
    r, deep = rng.uniform(0.1, 0.6), rng.uniform(0.05, 0.35)
    inner, foot = r * rng.uniform(0.6, 0.92), r * rng.uniform(0.0, 0.8)
    ring = annulus(inner, r, deep, sections=40)
    ring.apply_transform(trimesh.transformations.rotation_matrix(np.pi / 2, [1, 0, 0]))
    top = _less(ring, _at(box((3 * r, 2 * deep, r)), (0, 0, -r / 2)))
    if foot < 0.05:
        return top
    leg = box((r - inner, deep, foot + 0.01))
    x = (r + inner) / 2
    legs = [_at(leg, (side * x, 0, 0.005 - foot / 2)) for side in (-1, 1)]
    return _joined(top, *legs)


def _block(rng: Rng) -> Trimesh:
    """A box with holes through it."""
    size = rng.uniform(0.06, 0.5, 3)
    body = box(size)
    cuts = []
    for _ in range(int(rng.integers(1, 4))):
        axis = int(rng.integers(3))
        across = np.delete(size, axis)
        hole = cylinder(across.min() * rng.uniform(0.12, 0.4), 2 * size[axis], sections=24)
        hole.apply_transform(trimesh.geometry.align_vectors([0, 0, 1], np.eye(3)[axis]))
        shift = rng.uniform(-0.3, 0.3, 3) * size
        cuts.append(_at(hole, shift))
    return _less(body, *cuts)


def _shell(rng: Rng) -> Trimesh:
    """A seat like half an egg: a spherical shell with a piece cut off in front and above."""
    r, t = rng.uniform(0.25, 0.45), rng.uniform(0.012, 0.05)
    body = _less(icosphere(3, r), icosphere(3, r - t))
    tilt = trimesh.transformations.rotation_matrix(rng.uniform(-1.2, 0.0), [1, 0, 0])
    front = _at(box((3 * r, 3 * r, 3 * r)), (0, 1.5 * r + rng.uniform(-0.2, 0.4) * r, r))
    front.apply_transform(tilt)
    under = _at(box((3 * r, 3 * r, r)), (0, 0, -r * rng.uniform(1.25, 1.4)))
    return _less(body, front, under)


def _hose(rng: Rng) -> Trimesh:
    """A bent pipe: a coil, a loop or a wandering line."""
    style, r = rng.integers(3), rng.uniform(0.004, 0.03)
    s = np.linspace(0.0, 1.0, 60)
    if style == 0:
        wide, turns = rng.uniform(0.05, 0.2), rng.uniform(1.5, 4.5)
        rise = turns * 2.3 * r * rng.uniform(1.0, 2.0)
        a = 2 * np.pi * turns * s
        path = np.stack([wide * np.cos(a), wide * np.sin(a), rise * s], axis=1)
    else:
        bends = rng.normal(0, 0.12, (3, 2, 3)) * ([1, 1, 0.1] if style == 1 else [1, 1, 1])
        path = np.array([rng.uniform(0.3, 0.9), 0, 0]) * s[:, None]
        for k, (a, b) in enumerate(bends, start=1):
            path = (
                path + a * np.sin(np.pi * k * s)[:, None] + b * (np.cos(np.pi * k * s)[:, None] - 1)
            )
    apart = np.linalg.norm(path[:, None] - path, axis=2)
    way = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1)))
    way = np.abs(way[:, None] - way)
    while apart[way > 4 * r].min(initial=np.inf) < 2.1 * r:  # it may not meet itself
        r *= 0.8
    return _swept(path, r, 10)


def _star(rng: Rng) -> Trimesh:
    """A prism with a section like a gear or a star."""
    count, r = int(rng.integers(4, 14)), rng.uniform(0.05, 0.3)
    deep = rng.uniform(0.5, 0.9)
    radius = np.tile([r, r, r * deep, r * deep], count)
    angle = np.linspace(0, 2 * np.pi, 4 * count, endpoint=False)
    section = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    body = _prism(section, rng.uniform(0.03, 0.3))
    if rng.random() < 0.6:
        return _less(body, cylinder(r * deep * rng.uniform(0.2, 0.8), 2.0, sections=24))
    return body


def _odd(rng: Rng) -> Trimesh:
    """Boxes, cylinders and balls joined and cut out of each other at random."""
    size = rng.uniform(0.1, 0.5)
    body = box(size * rng.uniform(0.4, 1.0, 3))
    for _ in range(int(rng.integers(2, 6))):
        style = rng.integers(3)
        if style == 0:
            tool = box(size * rng.uniform(0.15, 0.7, 3))
        elif style == 1:
            tool = cylinder(
                size * rng.uniform(0.08, 0.35), size * rng.uniform(0.2, 1.2), sections=20
            )
        else:
            tool = icosphere(2, size * rng.uniform(0.12, 0.4))
        turn = trimesh.transformations.random_rotation_matrix(rng.random(3))
        tool.apply_transform(turn)
        tool = _at(tool, rng.uniform(*body.bounds))
        body = _joined(body, tool) if rng.random() < 0.55 else _less(body, tool)
    return max(body.split(only_watertight=True), key=lambda part: part.volume)


FAMILIES: dict[str, Callable[[Rng], Trimesh]] = {
    "arch": _arch, "block": _block, "bowl": _bowl, "capsule": _capsule, "hose": _hose, "mug": _mug,
    "odd": _odd, "profile": _profile, "ring": _ring, "shell": _shell, "star": _star, "tube": _tube,
    "vase": _vase,
}  # fmt: skip


def _at(mesh: Trimesh, shift: Sequence[float] | np.ndarray) -> Trimesh:
    moved = mesh.copy()
    moved.apply_translation(shift)
    return moved


def _less(body: Trimesh, *cuts: Trimesh) -> Trimesh:
    return trimesh.boolean.difference([body, *cuts], engine="manifold")


def _joined(*parts: Trimesh) -> Trimesh:
    return trimesh.boolean.union(parts, engine="manifold")


def _turned(profile: np.ndarray) -> Trimesh:
    """A closed profile (P, 2) of (radius, z), counter-clockwise, turned about z."""
    if profile[0, 0] > 0:
        profile = np.concatenate([profile, profile[:1]])
    mesh = revolve(profile, sections=32)
    if mesh.volume < 0:
        mesh.invert()
    return mesh


def _prism(section: np.ndarray, height: float) -> Trimesh:
    """An upright prism over a section (P, 2) around the origin that is seen from there whole."""
    n = len(section)
    low = np.append(section, np.zeros((n, 1)), axis=1)
    vertices = np.concatenate([low, low + np.array([0, 0, height]), [[0, 0, 0], [0, 0, height]]])
    i = np.arange(n)
    j = (i + 1) % n
    floor, roof = np.full(n, 2 * n), np.full(n, 2 * n + 1)
    faces = [(i, j, n + j), (i, n + j, n + i), (j, i, floor), (n + i, n + j, roof)]
    return Trimesh(vertices, np.concatenate([np.stack(face, axis=1) for face in faces]))


def _swept(path: np.ndarray, radius: float, sides: int) -> Trimesh:
    """A pipe of that radius along a path (P, 3), with flat ends."""
    ahead = np.gradient(path, axis=0)
    ahead /= np.linalg.norm(ahead, axis=1, keepdims=True)
    normal = np.zeros_like(path)
    normal[0] = np.cross(ahead[0], np.eye(3)[np.abs(ahead[0]).argmin()])
    for k in range(1, len(path)):  # carried along without twist
        normal[k] = normal[k - 1] - (normal[k - 1] @ ahead[k]) * ahead[k]
        normal[k] /= np.linalg.norm(normal[k])
    normal[0] /= np.linalg.norm(normal[0])
    other = np.cross(ahead, normal)
    angle = np.arange(sides) * 2 * np.pi / sides
    c, s = np.cos(angle)[None, :, None], np.sin(angle)[None, :, None]
    rings = path[:, None] + radius * (c * normal[:, None] + s * other[:, None])
    n = len(path) * sides
    vertices = np.concatenate([rings.reshape(-1, 3), path[:1], path[-1:]])
    i = np.arange(sides)
    j = (i + 1) % sides
    faces = [np.stack([j, i, np.full(sides, n)], axis=1)]
    for k in range(len(path) - 1):
        a, b = k * sides, (k + 1) * sides
        faces += [np.stack([a + i, a + j, b + j], axis=1), np.stack([a + i, b + j, b + i], axis=1)]
    last = (len(path) - 1) * sides
    faces.append(np.stack([last + i, last + j, np.full(sides, n + 1)], axis=1))
    return Trimesh(vertices, np.concatenate(faces))
