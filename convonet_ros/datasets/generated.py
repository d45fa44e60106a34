"""Shapes and rooms from seeds, in the files that `convonet_ros.datasets.shapes` reads.

Both are unions of solid primitives, so that the occupancy of any point is exact. Their frame is
upstream's: y up, longest side of the bounding box 1. Objects are centred in [-0.5, 0.5]^3; rooms
stand on y = -0.5 and are centred in x and z. Rooms stand free, as in the paper's synthetic rooms:
floor and walls are slabs with nothing beyond them, and there is no ceiling.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from trimesh.exchange.binvox import export_binvox
from trimesh.transformations import scale_and_translate
from trimesh.voxel import VoxelGrid

from convonet_ros.datasets import furniture
from convonet_ros.datasets.furniture import Piece, Rng
from convonet_ros.datasets.primitives import Kind, Primitive, rotation_x, rotation_z
from convonet_ros.datasets.rooms import Room, make_room
from convonet_ros.datasets.walls import wall_length, wall_pose

ShapeKind = Literal["objects", "rooms"]

VOXELS = 32  # a side of model.binvox
_OBJECT_POINTS, _ROOM_POINTS = 100_000, 40_000  # per file, surface points and query points alike
_QUERY_HALF = 0.55  # query points fill the unit cube and upstream's padding of 0.1 around it
_STEP = 1e-6  # units: how far from a surface one looks for what is on its two sides
_Y_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # (x, y, z) -> (x, z, -y)


# ---- solids -------------------------------------------------------------------------------------


def shape_solids(kind: ShapeKind, seed: int) -> list[Primitive]:
    """The primitives, in the unit-cube frame, whose union is the shape of a seed."""
    if kind == "objects":
        return _fitted(_object(np.random.default_rng([seed, 0x0B1])), standing=False)
    if kind == "rooms":
        return _fitted(_room(make_room(seed)), standing=True)
    raise ValueError(f"kind: expected one of {list(get_args(ShapeKind))}, got {kind!r}")


def shape_mesh(kind: ShapeKind, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (V, 3) float64 in the unit-cube frame and triangles (T, 3) int32, facing out.

    The primitives' meshes side by side, where they overlap also inside of each other: for pictures.
    """
    parts = [solid.mesh() for solid in shape_solids(kind, seed)]
    starts = np.cumsum([0] + [len(vertices) for vertices, _ in parts])
    triangles = [t + start for (_, t), start in zip(parts, starts, strict=False)]
    vertices = np.concatenate([vertices for vertices, _ in parts])
    return vertices, np.concatenate(triangles).astype(np.int32)


def occupied(solids: list[Primitive], points: np.ndarray) -> np.ndarray:
    """(N, 3) points -> (N,) bool: inside any of the solids or on its surface."""
    return _first_inside(solids, np.asarray(points, np.float64)) < len(solids)


def sample_surface(solids: list[Primitive], n: int, rng: Rng) -> tuple[np.ndarray, np.ndarray]:
    """(n, 3) points uniform by area on the boundary of the union, and their outward normals."""
    bounds = np.array([_area_bound(solid) for solid in solids])
    points, normals = np.empty((0, 3)), np.empty((0, 3))
    rate = 0.6  # of the candidates that are kept, measured as one goes
    drawn = 0
    while len(points) < n:
        count = int((n - len(points)) / rate * 1.05) + 100
        owners = np.repeat(np.arange(len(solids)), rng.multinomial(count, bounds / bounds.sum()))
        candidates = [
            _candidates(solids[k], int(m), rng)
            for k, m in enumerate(np.bincount(owners, minlength=len(solids)))
        ]
        found = np.concatenate([part for part, _, _ in candidates])
        facing = np.concatenate([part for _, part, _ in candidates])
        keep = np.concatenate([part for _, _, part in candidates])
        found, facing, owners = found[keep], facing[keep], owners[keep]
        # Where faces of two solids coincide, the first one's counts.
        keep = _first_inside(solids, found - _STEP * facing) == owners
        keep[keep] = _first_inside(solids, (found + _STEP * facing)[keep]) == len(solids)
        points = np.concatenate([points, found[keep]])
        normals = np.concatenate([normals, facing[keep]])
        drawn += count
        rate = max(len(points) / drawn, 0.01)
    chosen = rng.permutation(len(points))[:n]
    return points[chosen], normals[chosen]


def voxels(solids: list[Primitive], surface: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """(32, 32, 32) bool over [-0.5, 0.5]^3: voxels with a solid centre or touched by the surface.

    `surface` and `normals` (N, 3) are samples of the boundary, dense enough to meet every voxel.
    """
    axis = (np.arange(VOXELS) + 0.5) / VOXELS - 0.5
    centres = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    filled = occupied(solids, centres).reshape(VOXELS, VOXELS, VOXELS)
    touched = np.floor((surface - _STEP * normals + 0.5) * VOXELS).astype(int)
    filled[tuple(np.clip(touched, 0, VOXELS - 1).T)] = True
    return filled


def _first_inside(solids: list[Primitive], points: np.ndarray) -> np.ndarray:
    """(N, 3) float64 -> (N,) int: the first solid that holds a point, len(solids) for none."""
    order = np.argsort(points[:, 0])  # so that a solid looks at a slab of x only
    points = np.take(points, order, axis=0)
    x, y, z = np.ascontiguousarray(points.T)
    first = np.full(len(points), len(solids))
    for k, solid in enumerate(solids):
        centre, half = solid.centre, solid.half_extent + 1e-12
        begin, end = np.searchsorted(x, (centre[0] - half[0], centre[0] + half[0]))
        near = np.abs(y[begin:end] - centre[1]) <= half[1]
        near &= np.abs(z[begin:end] - centre[2]) <= half[2]
        near &= first[begin:end] == len(solids)
        index = begin + np.flatnonzero(near)
        if len(index):
            index = index[solid.contains(np.take(points, index, axis=0))]
            first[index] = k
    result = np.empty_like(first)
    result[order] = first
    return result


def _area_bound(solid: Primitive) -> float:
    """The solid's area, or for an ellipsoid a bound that `_candidates` makes good."""
    a, b, c = solid.half
    if solid.kind == "box":
        return float(8 * (a * b + b * c + c * a))
    if solid.kind == "cylinder":
        return float(2 * np.pi * a * (a + 2 * c))
    return float(4 * np.pi * a * b * c / solid.half.min())


def _candidates(solid: Primitive, n: int, rng: Rng) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, 3) points on the solid, (n, 3) normals, and (n,) bool which to keep: uniform by area."""
    half = solid.half
    keep = np.ones(n, dtype=bool)
    rows = np.arange(n)
    if solid.kind == "box":
        unit = rng.uniform(-1.0, 1.0, (n, 3))
        areas = np.array([half[1] * half[2], half[2] * half[0], half[0] * half[1]])
        axis = rng.choice(3, n, p=areas / areas.sum())
        sign = rng.choice([-1.0, 1.0], n)
        unit[rows, axis] = sign
        normals = np.zeros((n, 3))
        normals[rows, axis] = sign
    elif solid.kind == "cylinder":
        angle = rng.uniform(0.0, 2 * np.pi, n)
        ring = np.stack([np.cos(angle), np.sin(angle), np.zeros(n)], axis=1)
        cap = rng.random(n) < half[0] / (half[0] + 2 * half[2])
        height = np.where(cap, rng.choice([-1.0, 1.0], n), rng.uniform(-1.0, 1.0, n))
        radius = np.where(cap, np.sqrt(rng.random(n)), 1.0)
        unit = ring * radius[:, None] + height[:, None] * [0.0, 0.0, 1.0]
        normals = np.where(cap[:, None], height[:, None] * [0.0, 0.0, 1.0], ring)
    else:
        unit = rng.normal(size=(n, 3))
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        normals = unit / half
        stretch = np.linalg.norm(normals, axis=1)
        keep = rng.random(n) < stretch * half.min()
        normals /= stretch[:, None]
    return (unit * half) @ solid.rotation.T + solid.centre, normals @ solid.rotation.T, keep


def _extent(solid: Primitive) -> np.ndarray:
    """(3,) half sizes of the smallest box around a solid along the parent's axes."""
    scaled = solid.rotation * solid.half
    if solid.kind == "box":
        return np.abs(scaled).sum(axis=1)
    if solid.kind == "cylinder":
        return np.hypot(scaled[:, 0], scaled[:, 1]) + np.abs(scaled[:, 2])
    return np.linalg.norm(scaled, axis=1)


def _bounds(solids: Iterable[Primitive]) -> tuple[np.ndarray, np.ndarray]:
    """Low and high corner, (3,) each, of the box around solids."""
    boxes = [(solid.centre - _extent(solid), solid.centre + _extent(solid)) for solid in solids]
    return np.min([low for low, _ in boxes], axis=0), np.max([high for _, high in boxes], axis=0)


def _fitted(solids: list[Primitive], standing: bool) -> list[Primitive]:
    """Solids with z up -> y up, longest side 1, centred or standing on y = -0.5."""
    low, high = _bounds(solids)
    scale = 1.0 / (high - low).max()
    middle = (low + high) / 2
    if standing:
        middle[2] = low[2] + 0.5 / scale
    return [
        Primitive(
            solid.kind,
            solid.name,
            _Y_UP @ (solid.centre - middle) * scale,
            _Y_UP @ solid.rotation,
            solid.half * scale,
        )
        for solid in solids
    ]


# ---- objects: z up, any size --------------------------------------------------------------------


def _object(rng: Rng) -> list[Primitive]:
    """Furniture or a composition, turned by a multiple of a right angle about z."""
    builders, weights = zip(*_OBJECTS, strict=True)
    shares = np.array(weights) / sum(weights)
    parts = builders[rng.choice(len(builders), p=shares)](rng)
    turn = np.round(rotation_z(rng.integers(4) * np.pi / 2))
    return [part.moved(turn, np.zeros(3), part.name) for part in parts]


def _furniture(rng: Rng) -> list[Primitive]:
    """A piece of furniture, sometimes with things on its top."""
    piece: Piece = furniture.draw(rng, _FURNITURE)
    parts = list(piece.parts)
    if piece.top_m and rng.random() < 0.4:
        w, d = piece.footprint
        count = int(rng.integers(1, 5))
        parts += furniture.things(rng, 0.85 * w, 0.85 * d, piece.top_m, 0.4, count)
    return parts


def _pile(rng: Rng) -> list[Primitive]:
    """Primitives of any pose, each grown out of the surface of an earlier one."""
    parts: list[Primitive] = []
    for k in range(int(rng.integers(1, 7))):
        half = rng.uniform(0.12, 0.5, 3) * (1.0 if k == 0 else 0.8)
        centre = np.zeros(3)
        if parts:
            anchor = parts[rng.integers(len(parts))]
            points, normals, _ = _candidates(anchor, 1, rng)
            centre = points[0] + normals[0] * half.min() * rng.uniform(-0.5, 0.8)
        turn = rng.random()
        rotation = np.eye(3)
        if turn < 0.3:
            rotation = rotation_z(rng.uniform(0, np.pi)) @ rotation_x(rng.uniform(0, np.pi))
        elif turn < 0.6:
            rotation = rotation_z(rng.integers(2) * np.pi / 2) @ rotation_x(np.pi / 2)
        parts.append(_part(rng, centre, half, rotation))
    return parts


def _mirrored(rng: Rng) -> list[Primitive]:
    """A long body and pairs of parts at its sides: something that rolls, flies or crawls."""
    body = rng.uniform([0.15, 0.5, 0.12], [0.4, 1.0, 0.35])
    along_y = rotation_x(np.pi / 2)
    parts = [
        _part(rng, np.zeros(3), body, np.eye(3), ("box", "ellipsoid"))
        if rng.random() < 0.7
        else Primitive("cylinder", "", np.zeros(3), along_y, np.array([body[0], body[0], body[1]]))
    ]
    for _ in range(int(rng.integers(1, 4))):
        y, z = rng.uniform(-0.7, 0.7) * body[1], rng.uniform(-0.6, 0.5) * body[2]
        slim = np.sqrt(1 - (y / body[1]) ** 2) if parts[0].kind == "ellipsoid" else 1.0
        style = rng.integers(4)
        if style == 0:  # wings
            half = rng.uniform([0.25, 0.06, 0.012], [0.8, 0.25, 0.04])
            x, z, rotation = half[0], 0.3 * z, rotation_z(rng.uniform(-0.4, 0.4))
            kinds: tuple[Kind, ...] = ("box", "ellipsoid")
        elif style == 1:  # wheels
            r = rng.uniform(0.1, 0.25)
            half = np.array([r, r, rng.uniform(0.03, 0.1)])
            x, z, rotation = half[2], -0.6 * body[2], rotation_z(np.pi / 2) @ along_y
            kinds = ("cylinder",)
        elif style == 2:  # engines
            r = rng.uniform(0.05, 0.14)
            half = np.array([r, r, rng.uniform(0.12, 0.4)])
            x, rotation, kinds = 0.6 * r, along_y, ("cylinder", "ellipsoid")
        else:  # legs
            half = np.array([0.04, 0.04, rng.uniform(0.15, 0.5)]) * rng.uniform(0.7, 1.6)
            x, z, rotation = -0.3 * slim * body[0], -0.4 * body[2] - half[2] / slim, np.eye(3)
            kinds = ("box", "cylinder")
        x, z = x + 0.75 * slim * body[0], z * slim
        side = _part(rng, np.array([x, y, z]), half, rotation, kinds)
        flip = np.diag([-1.0, 1.0, 1.0])
        mirror = flip @ side.rotation @ flip  # a rotation again; the solids have this symmetry
        parts += [side, Primitive(side.kind, "", flip @ side.centre, mirror, side.half)]
    for _ in range(int(rng.integers(0, 3))):  # cabin, mast, fin
        half = rng.uniform([0.02, 0.05, 0.08], [0.8 * body[0], 0.5 * body[1], 0.35])
        centre = np.array([0.0, rng.uniform(-0.6, 0.6) * body[1], body[2] + 0.5 * half[2]])
        parts.append(_part(rng, centre, half, np.eye(3)))
    return parts


def _stacked(rng: Rng) -> list[Primitive]:
    """Segments one on another around an upright axis: vases, bottles, towers."""
    parts: list[Primitive] = []
    z, slim = 0.0, rng.uniform(0.3, 1.2)
    kinds: tuple[Kind, ...] = ("cylinder", "ellipsoid") if rng.random() < 0.7 else ("box",)
    for _ in range(int(rng.integers(2, 7))):
        r, h = slim * rng.uniform(0.08, 0.5), rng.uniform(0.04, 0.4)
        half = np.array([r, r, h])
        turn = rotation_z(rng.choice([0.0, np.pi / 4]))
        parts.append(_part(rng, np.array([0.0, 0.0, z + h]), half, turn, kinds))
        z += 2 * h * (0.9 if parts[-1].kind == "ellipsoid" else 0.98)
    return parts


def _bars(rng: Rng) -> list[Primitive]:
    """A frame of bars along the edges of a box, with cross bars and sometimes panels."""
    half, t = rng.uniform(0.25, 1.0, 3), rng.uniform(0.015, 0.05)
    parts = []
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        for a in (-1, 1):
            for b in (-1, 1):
                size, centre = np.full(3, t), np.zeros(3)
                size[axis], centre[others] = half[axis] + t, np.array([a, b]) * half[others]
                parts.append(Primitive("box", "", centre, np.eye(3), size))
    for _ in range(int(rng.integers(0, 6))):
        axis, other, fixed = rng.permutation(3)
        size, centre = np.full(3, t * rng.uniform(0.5, 1.0)), np.zeros(3)
        size[axis] = half[axis]
        centre[other], centre[fixed] = (
            rng.uniform(-1, 1) * half[other],
            rng.choice([-1, 1]) * half[fixed],
        )
        if rng.random() < 0.35:  # a panel that fills the side
            size[other], centre[other] = half[other], 0.0
        parts.append(Primitive("box", "", centre, np.eye(3), size))
    return parts


def _part(
    rng: Rng,
    centre: np.ndarray,
    half: np.ndarray,
    rotation: np.ndarray,
    kinds: tuple[Kind, ...] = ("box", "cylinder", "ellipsoid"),
) -> Primitive:
    """A primitive of one of the kinds; a cylinder gets a round section."""
    kind = kinds[rng.integers(len(kinds))]
    if kind == "cylinder":
        half = np.array([min(half[0], half[1]), min(half[0], half[1]), half[2]])
    return Primitive(kind, "", centre, rotation, half)


_FURNITURE: list[tuple[Callable[[Rng], Piece], float]] = [
    (furniture.table, 3), (furniture.chair, 4), (furniture.sofa, 2), (furniture.bed, 1),
    (furniture.shelf, 2), (furniture.cupboard, 1.5), (furniture.wardrobe, 0.5),
    (furniture.lamp, 1), (furniture.plant, 1), (furniture.clutter, 1),
]  # fmt: skip
_OBJECTS: list[tuple[Callable[[Rng], list[Primitive]], float]] = [
    (_furniture, 5), (_pile, 2), (_mirrored, 2), (_stacked, 1.2), (_bars, 0.8),
]  # fmt: skip


# ---- rooms: room frame, metres ------------------------------------------------------------------


def _room(room: Room) -> list[Primitive]:
    """Floor, walls with their recesses, and what stands and hangs in the room."""
    rng = np.random.default_rng([room.seed, 0x51AB])
    thick = max(rng.uniform(0.02, 0.04) * room.size.max(), 0.09)
    outer = np.array([*(room.size[:2] / 2 + thick), room.size[2]])
    floor = furniture.box((-outer[0], -outer[1], -thick), (outer[0], outer[1], 0.0))
    solids = [floor.moved(np.eye(3), np.zeros(3), "floor"), *_walls(room, thick)]
    for solid in room.primitives:
        if not solid.name.startswith("ceiling_lamp"):  # nothing to hang on
            solids.append(_held_in(solid, outer, thick))
    return solids


def _walls(room: Room, thick: float) -> Iterator[Primitive]:
    """Boxes that make up the four walls; a recess leaves at least 0.4 of a wall's thickness."""
    height = float(room.size[2])
    for wall in range(4):
        pose = wall_pose(wall, room.size)
        half = wall_length(wall, room.size) / 2 + thick
        niches = [niche for niche in room.niches if niche.wall == wall]
        for x0, x1 in pairwise(
            np.unique([-half, half, *(x for n in niches for x in (n.x0, n.x1))])
        ):
            here = [niche for niche in niches if niche.x0 < (x0 + x1) / 2 < niche.x1]
            edges = np.unique([0.0, height, *(z for n in here for z in (n.z0, n.z1))])
            for z0, z1 in pairwise(edges):
                depths = [n.depth for n in here if n.z0 < (z0 + z1) / 2 < n.z1]
                depth = min(max(depths, default=0.0), 0.6 * thick)
                box = furniture.box((x0, -thick, z0), (x1, -depth, z1))
                yield box.moved(*pose, "wall")


def _held_in(solid: Primitive, outer: np.ndarray, thick: float) -> Primitive:
    """A solid that does not stick out of the walls' outer faces or of the floor.

    Pillars and inner walls, made to reach through any ceiling, end where the walls end.
    """
    centre, half = solid.centre.copy(), solid.half.copy()
    if solid.name.startswith(("pillar", "wall_stub")):
        low = max(centre[2] - half[2], -thick / 2)
        high = min(centre[2] + half[2], outer[2])
        centre[2], half[2] = (low + high) / 2, (high - low) / 2
    extent = _extent(Primitive(solid.kind, solid.name, centre, solid.rotation, half))
    room = np.maximum(outer[:2] - extent[:2], 0.0)
    centre[:2] = np.clip(centre[:2], -room, room)
    centre[2] = max(centre[2], extent[2] - thick)
    return Primitive(solid.kind, solid.name, centre, solid.rotation, half)


# ---- on disk ------------------------------------------------------------------------------------


def write_shapes(
    folder: Path, kind: ShapeKind, seeds: range, split: str, workers: int, files: int = 2
) -> Iterator[Path]:
    """Write the models that are not there yet to FOLDER/<kind>/<seed>; yields each model's folder.

    objects: pointcloud.npz, points.npz, model.binvox. rooms: `files` numbered files each in
    pointcloud/ and points_iou/ (data.multi_files). When all is done, or the iteration is given up,
    the finished models are added to the split's list in the order of their seeds.
    """
    if kind not in get_args(ShapeKind):
        raise ValueError(f"kind: expected one of {list(get_args(ShapeKind))}, got {kind!r}")
    if not split or set(split) & set("/\\\0.") or workers < 1 or not 1 <= files <= 100:
        raise ValueError(
            "split, workers, files: expected a plain name, at least 1, and 1 to 100, "
            f"got {split!r}, {workers} and {files}"
        )
    category = Path(folder) / kind
    category.mkdir(parents=True, exist_ok=True)
    jobs = [(category / f"{seed:06d}", kind, seed, files) for seed in seeds]
    missing = [job for job in jobs if not all(path.exists() for path in _files(*job))]
    done = {path for path, *_ in jobs} - {path for path, *_ in missing}
    try:
        yield from (path for path, *_ in jobs if path in done)
        if missing:
            with ProcessPoolExecutor(min(workers, len(missing))) as pool:
                for path in pool.map(_write_model, missing):
                    done.add(path)
                    yield path
    finally:
        _add_to_list(category / f"{split}.lst", [p.name for p, *_ in jobs if p in done])


def _files(folder: Path, kind: ShapeKind, seed: int, files: int) -> list[Path]:
    if kind == "objects":
        return [folder / name for name in ("pointcloud.npz", "points.npz", "model.binvox")]
    names = [(name, k) for k in range(files) for name in ("pointcloud", "points_iou")]
    return [folder / name / f"{name}_{k:02d}.npz" for name, k in names]


def _write_model(job: tuple[Path, ShapeKind, int, int]) -> Path:
    """All files of one model."""
    folder, kind, seed, _ = job
    solids = shape_solids(kind, seed)
    rng = np.random.default_rng([seed, 0xF11E])
    if kind == "objects":
        cloud, queries, grid = _files(*job)
        points, normals = _write_cloud(cloud, solids, _OBJECT_POINTS, rng)
        _write_queries(queries, solids, _OBJECT_POINTS, rng)
        to_cube = scale_and_translate(1.0 / (VOXELS - 1), [-0.5] * 3)  # header: translate, scale 1
        filled = VoxelGrid(voxels(solids, points, normals), to_cube)
        _replace(grid, lambda path: path.write_bytes(export_binvox(filled)))
        return folder
    paths = _files(*job)
    for cloud, queries in zip(paths[::2], paths[1::2], strict=True):
        _write_cloud(cloud, solids, _ROOM_POINTS, rng)
        _write_queries(queries, solids, _ROOM_POINTS, rng)
    return folder


def _write_cloud(
    path: Path, solids: list[Primitive], n: int, rng: Rng
) -> tuple[np.ndarray, np.ndarray]:
    points, normals = sample_surface(solids, n, rng)
    _save(path, points=points.astype(np.float16), normals=normals.astype(np.float16))
    return points, normals


def _write_queries(path: Path, solids: list[Primitive], n: int, rng: Rng) -> None:
    points = rng.uniform(-_QUERY_HALF, _QUERY_HALF, (n, 3)).astype(np.float16)
    _save(path, points=points, occupancies=np.packbits(occupied(solids, points)))


def _save(path: Path, **arrays: np.ndarray) -> None:
    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]

    _replace(path, write)


def _add_to_list(path: Path, names: list[str]) -> None:
    """Add the names that a list does not have yet at its end."""
    known = path.read_text(encoding="utf-8").split() if path.exists() else []
    new = [name for name in names if name not in set(known)]
    text = "".join(f"{name}\n" for name in [*known, *new])
    if new:
        _replace(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
