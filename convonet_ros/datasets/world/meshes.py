"""Solid objects from closed triangle meshes, with the same interface as a primitive.

Two sources: our own moulds, always, and the models of the package pybullet, where it is installed
(Python 3.10 and 3.11). A scene depends on what is there: `catalogue` says it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import open3d as o3d
import trimesh
from scipy.spatial import ConvexHull, QhullError

from convonet_ros.datasets.world.furniture import Rng
from convonet_ros.datasets.world.moulds import FAMILIES
from convonet_ros.datasets.world.primitives import Primitive

_VARIANTS = 16  # of each mould
_SLIT = 0.004  # share of a model's longest side that is closed between its parts
_MOST_TRIANGLES = 10_000  # of a model
_MOST_PARTS = 20  # that one consists of
_SCENES = 128  # kept for ray casting; about a thousand crash Open3D 0.20
_RAYS = 3  # that vote whether a point is inside
_OTHERS = (  # models of pybullet beside its thousand random ones
    "aliengo/meshes/hip.obj", "aliengo/meshes/trunk.obj", "bicycle/files/frame_scaled.stl",
    "bicycle/files/wheel_scaled.stl", "bunny.obj", "duck.obj", "gripper/meshes/WSG50_110.stl",
    "franka_panda/meshes/collision/link2.obj", "franka_panda/meshes/collision/link5.obj",
    "laikago/chassis_zup_lores.obj", "laikago/lower_leg3.obj", "laikago/upper_leg_left_vhacd.obj",
    "racecar/meshes/chassis.STL", "racecar/meshes/cone.obj", "racecar/meshes/left_rear_wheel.STL",
    "soccerball.obj", "teddy2_VHACD_CHs.obj", "torus/torus_textured.obj", "toys/concave_box.obj",
    "toys/shape_sorter.obj", "tray/tray_textured.obj", "tray/tray_textured2.obj",
    "xarm/xarm_description/meshes/xarm6/collision/link2_vhacd.obj",
    "xarm/xarm_description/meshes/xarm6/visual/link3.stl",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Model:
    """A closed mesh around the middle of its bounding box, whose longest side is 1.

    `vertices` (V, 3) float32 and `triangles` (T, 3) int32, facing out, without faces inside. `half`
    (3,) are half its sides, `size_m` is the natural range of the longest, and `rests` (R, 3, 3)
    turn it so that it lies on a flat side.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    half: np.ndarray
    size_m: tuple[float, float]
    rests: np.ndarray


@cache
def catalogue() -> tuple[str, ...]:
    """The names of all models on this machine, sorted by source: `mould/...`, `pybullet/...`."""
    names = [f"mould/{family}/{k:02d}" for family in FAMILIES for k in range(_VARIANTS)]
    folder = _pybullet_data()
    if folder is not None:
        found = [path.relative_to(folder) for path in sorted(folder.glob("random_urdfs/*/*.obj"))]
        found += [Path(name) for name in _OTHERS if (folder / name).is_file()]
        names += [f"pybullet/{name.as_posix()}" for name in found]
    return tuple(names)


@cache
def model(name: str) -> Model | None:
    """The model of that name, or None for one that is not closed. Read once per process."""
    source, _, rest = name.partition("/")
    if source == "mould":
        family, _, variant = rest.partition("/")
        rng = np.random.default_rng([int(variant), sorted(FAMILIES).index(family)])
        mesh = FAMILIES[family](rng)
        longest = float(mesh.extents.max())
        sizes = (0.8 * longest, 1.25 * longest)
        upright = True
    else:
        folder = _pybullet_data()
        if folder is None:
            raise ValueError(f"name: expected one of the catalogue's, got {name!r}")
        mesh = trimesh.load(folder / rest, force="mesh", skip_materials=True)
        sizes = (0.1, 0.9) if rest.startswith("random_urdfs") else (0.15, 0.9)
        upright = False
    mesh.merge_vertices(merge_tex=True, merge_norm=True)
    with np.errstate(divide="ignore", invalid="ignore"):  # for parts without volume
        if mesh.body_count > _MOST_PARTS:
            return None
        mesh = _united(mesh)
        if not mesh.is_volume or len(mesh.faces) > _MOST_TRIANGLES:
            return None
    low, high = mesh.bounds
    scale = 1.0 / (high - low).max()
    vertices = ((mesh.vertices - (low + high) / 2) * scale).astype(np.float32)
    rests = [np.eye(3)] if upright else []
    return Model(
        vertices,
        mesh.faces.astype(np.int32),
        (high - low) / 2 * scale,
        sizes,
        np.array(rests + _rests(vertices)),
    )


def drawn(rng: Rng) -> tuple[str, Model]:
    """A random model: our own and those of pybullet about equally often, where both are there."""
    names = catalogue()
    own = len(FAMILIES) * _VARIANTS
    for _ in range(100):
        begin, end = (0, own) if rng.random() < 0.5 or len(names) == own else (own, len(names))
        name = names[int(rng.integers(begin, end))]
        found = model(name)
        if found is not None:
            return name, found
    raise ValueError("catalogue: expected closed meshes, got none in a hundred")


@dataclass(frozen=True, slots=True)
class MeshSolid(Primitive):
    """A model with a pose: `half` are half its sides, `model_name` is one of the catalogue's."""

    model_name: str = ""

    @property
    def scale(self) -> float:
        """Metres of the model's longest side."""
        return float(2 * self.half.max())

    def contains(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points in the parent frame -> (N,) bool, True inside."""
        local = self._local(points)
        near = np.flatnonzero((np.abs(local) <= self.half / self.scale).all(axis=1))
        inside = np.zeros(len(local), dtype=bool)
        if len(near):
            query = o3d.core.Tensor.from_numpy(local[near])
            found = _scene(self.model_name).compute_occupancy(query, nthreads=1, nsamples=_RAYS)
            inside[near] = found.numpy() > 0
        return inside

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points in the parent frame -> (N,) metres to the solid, 0 inside."""
        query = o3d.core.Tensor.from_numpy(self._local(points))
        nearest = _scene(self.model_name).compute_distance(query, nthreads=1).numpy()
        nearest = (
            np.maximum(nearest.astype(np.float64) - 1e-6, 0.0) * self.scale
        )  # for all its float32 not too large
        return np.where(self.contains(points), 0.0, nearest)

    def mesh(self, chord_m: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (V, 3) float64 in the parent frame and triangles (T, 3) int32, facing out."""
        found = _known(self.model_name)
        vertices = found.vertices.astype(np.float64) * self.scale
        return vertices @ self.rotation.T + self.centre, found.triangles

    def _local(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points in the parent frame -> (N, 3) float32 in the model's."""
        local = (points - self.centre) @ self.rotation / self.scale
        return np.ascontiguousarray(local, dtype=np.float32)


def solid(name: str, longest_m: float, rotation: np.ndarray) -> MeshSolid:
    """A model whose longest side is `longest_m`, turned by `rotation`, standing on z = 0."""
    found = _known(name)
    low = float((found.vertices @ rotation[2]).min()) * longest_m
    half = found.half * longest_m
    return MeshSolid("mesh", "", np.array([0.0, 0.0, -low]), rotation, half, model_name=name)


def _known(name: str) -> Model:
    found = model(name)
    if found is None:
        raise ValueError(f"name: expected a closed mesh, got {name!r}")
    return found


def _united(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh, facing out, without the faces that closed parts have inside of each other."""
    if not mesh.is_winding_consistent:
        mesh.fix_normals()
    if mesh.volume < 0:
        mesh.invert()
    if mesh.body_count == 1 or not mesh.is_watertight:
        return mesh
    least = 1e-6 * float(mesh.extents.prod())
    parts = [part for part in mesh.split(only_watertight=False) if abs(part.volume) > least]
    if min(part.volume for part in parts) < 0:
        return mesh  # a part that faces in is a hollow
    return trimesh.boolean.union(_grown(parts), engine="manifold", check_volume=False)


def _grown(parts: list[trimesh.Trimesh]) -> list[trimesh.Trimesh]:
    """The parts, each a little larger, so that no slit stays between those that all but touch."""
    over = _SLIT * float(np.ptp([part.bounds for part in parts], axis=(0, 1)).max())
    for part in parts:
        middle = part.bounds.mean(axis=0)
        part.vertices = middle + (part.vertices - middle) * (1.0 + over / part.extents)
    return parts


@lru_cache(_SCENES)
def _scene(name: str) -> o3d.t.geometry.RaycastingScene:
    found = _known(name)
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    triangles = found.triangles.astype(np.uint32)
    tensor = o3d.core.Tensor.from_numpy
    scene.add_triangles(tensor(found.vertices), tensor(triangles))
    return scene


def _rests(vertices: np.ndarray) -> list[np.ndarray]:
    """Rotations (3, 3) that put the largest flat sides of the hull of (V, 3) points down."""
    try:
        hull = ConvexHull(vertices)
    except QhullError:
        return []
    corners = vertices[hull.simplices].astype(np.float64)
    edges = corners[:, 1:] - corners[:, :1]
    areas = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2
    normals, side = np.unique(np.round(hull.equations[:, :3], 2), axis=0, return_inverse=True)
    total = np.bincount(side.ravel(), areas, len(normals))
    best = np.argsort(-total, kind="stable")[:3]
    return [_down(normals[k] / np.linalg.norm(normals[k])) for k in best]


def _down(normal: np.ndarray) -> np.ndarray:
    """(3, 3) rotation that takes a unit vector to -z."""
    helper = np.eye(3)[np.abs(normal).argmin()]
    x = np.cross(helper, normal)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(-normal, x), -normal])


def _pybullet_data() -> Path | None:
    """The folder of pybullet's models, None where it is not installed."""
    spec = find_spec("pybullet_data")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent
