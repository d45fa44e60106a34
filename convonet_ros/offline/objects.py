"""A cloud, mesh or voxels to the surface of what they show, by a network of the unit cube.

The surface is extracted as in Mescheder et al. (CVPR 2019), section 3.3, and Peng et al. (ECCV
2020): the octree of `mise`, marching cubes, and, where wanted, simplification, refinement of the
vertices and normals from the network's gradient.
"""

from __future__ import annotations

import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import open3d as o3d
import torch
import trimesh
from scipy.spatial import cKDTree
from torch import Tensor, nn

from convonet_ros.datasets.shapes import read_voxels
from convonet_ros.mapping.meshing import closed_surface
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.model.onet import VoxelEncoder
from convonet_ros.offline.files import write_bytes
from convonet_ros.offline.mise import evaluate

MESH_SUFFIXES = (".ply", ".obj", ".off", ".stl")  # that can be read and written
CLOUD_SUFFIXES = (*MESH_SUFFIXES, ".pcd", ".xyz", ".npz", ".npy")  # that can be read
VOXEL_SUFFIX = ".binvox"

_QUERIES = 100_000  # decoded at once, as upstream does
_GRADIENTS = 20_000  # likewise where what the gradient needs is kept
_DISTANCES = 20_000_000  # likewise, of queries to input points (PointConv)
_MAX_SIDE = 512  # cells; octree and surface take some 40 bytes for each one of the cube
_REFINE_LR = 1e-4
_REFINE_NORMALS = 0.01  # weight of the normals in the refinement's loss

_MAX_BYTES = 2 << 30  # of a file
_MAX_POINTS = 50_000_000  # of a file, triangles likewise
_MAX_VOXELS = 256  # a side
_SAMPLES = 100_000  # points on a mesh, as many as upstream keeps of a shape
_LARGEST = 1e12  # coordinates beyond are no places
_Y_UP = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])  # (x, y, z) -> (x, z, -y)
_PCD_LINE = 4096  # bytes of a line of a header
_PCD_KEYS = (
    "VERSION", "FIELDS", "SIZE", "TYPE", "COUNT", "WIDTH", "HEIGHT", "VIEWPOINT", "POINTS", "DATA",
)  # fmt: skip
_PCD_TYPES = {("F", 4), ("F", 8), *((kind, size) for kind in "IU" for size in (1, 2, 4, 8))}
_DAMAGED = (
    OSError, EOFError, LookupError, ValueError, TypeError, AttributeError, RuntimeError,
    MemoryError, ArithmeticError, AssertionError, SyntaxError, struct.error, tokenize.TokenError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cloud:
    """Points of a surface in a frame of their own.

    points: (N, 3) float64, N above 0, finite (not float32, in which georeferenced points would
    lose centimetres); colours: (N, 3) uint8 RGB or None; dropped: points of the file left out
    because they were not finite.
    """

    points: np.ndarray
    colours: np.ndarray | None = None
    dropped: int = 0


@dataclass(frozen=True, slots=True)
class Surface:
    """A triangle mesh; triangles are counter-clockwise seen from free space.

    vertices: (V, 3) float64; triangles: (F, 3) int32; normals: (V, 3) float64 of length 1, facing
    free space, or None; colours: (V, 3) uint8 RGB or None.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    normals: np.ndarray | None = None
    colours: np.ndarray | None = None

    @property
    def empty(self) -> bool:
        return len(self.triangles) == 0


def surface_of(
    network: OccupancyNetwork,
    inputs: Tensor,
    resolution: int = 32,
    steps: int = 2,
    threshold: float = 0.2,
    *,
    normals: bool = False,
    refine_steps: int = 0,
    simplify_to: int | None = None,
) -> Surface:
    """The watertight surface of one object or scene, in the frame of the unit cube.

    inputs: (1, N, 3) points or (1, n, n, n) voxels in [-0.5, 0.5]^3, as the network takes them.
    resolution, steps: of the octree (see `Mise`); without steps resolution^3 lattice points, both
    ends of the box included, are all evaluated. The box is the unit cube with the network's
    padding. threshold: probability at the surface. simplify_to: triangles to reduce the mesh to
    (quadric error metrics); refine_steps: of the vertices' optimisation; both give up the
    guarantee that the surface has no hole and does not cross itself.

    Lattice, queries and vertices are those of upstream's generator (src/conv_onet/generation.py).
    Crop networks see the whole cube as one box. Raises ValueError for settings that make no
    lattice, inputs of another shape and logits that are not finite.
    """
    _check(network, inputs, resolution, steps, threshold, refine_steps, simplify_to)
    level = float(np.log(threshold) - np.log(1 - threshold))
    with _evaluating(network):
        features = _encoded(network, inputs)
        values = _values(network, features, resolution, steps, level)
        vertices, triangles = closed_surface(values, level)
        vertices = (1 + network.padding) * (vertices / (np.array(values.shape) - 1) - 0.5)
        if simplify_to is not None and len(triangles) > simplify_to:
            vertices, triangles = _simplified(vertices, triangles, simplify_to)
        if refine_steps and len(triangles):
            vertices = _refined(network, features, vertices, triangles, threshold, refine_steps)
        # Upstream estimates normals before it simplifies and refines, and loses them there.
        found = _normals(network, features, vertices, triangles) if normals else None
    return Surface(vertices, triangles, found)


def _check(
    network: OccupancyNetwork,
    inputs: Tensor,
    resolution: int,
    steps: int,
    threshold: float,
    refine_steps: int,
    simplify_to: int | None,
) -> None:
    if not 0 < threshold < 1:
        raise ValueError(f"threshold: expected a probability between 0 and 1, got {threshold}")
    if steps < 0 or resolution < (1 if steps else 2):
        raise ValueError(
            f"resolution, steps: expected at least 1 cell (2 points without steps) and no less "
            f"than 0 steps, got {resolution} and {steps}"
        )
    if resolution << steps > _MAX_SIDE:
        raise ValueError(
            f"resolution, steps: expected at most {_MAX_SIDE} cells a side, "
            f"got {resolution << steps}; take fewer steps"
        )
    if refine_steps < 0:
        raise ValueError(f"refine_steps: expected at least 0, got {refine_steps}")
    if simplify_to is not None and simplify_to < 4:
        raise ValueError(f"simplify_to: expected at least 4 triangles, got {simplify_to}")
    wanted = "(1, n, n, n) voxels" if network.takes_voxels else "(1, N, 3) points"
    fits = inputs.ndim == (4 if network.takes_voxels else 3) and len(inputs) == 1
    if not fits or (not network.takes_voxels and inputs.shape[2] != 3) or inputs.numel() == 0:
        raise ValueError(f"inputs: expected {wanted}, got shape {tuple(inputs.shape)}")
    if isinstance(network.encoder, VoxelEncoder) and tuple(inputs.shape[1:]) != (32, 32, 32):
        raise ValueError(f"inputs: expected 32 voxels a side, got {tuple(inputs.shape[1:])}")


@contextmanager
def _evaluating(network: OccupancyNetwork) -> Iterator[None]:
    """The network in evaluation mode, as long as it is used here."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def _encoded(network: OccupancyNetwork, inputs: Tensor) -> dict[str, Tensor]:
    """The features; PointNet++ draws its first points from a fixed seed."""
    device = _device(network)
    # no_grad and not inference_mode: the gradients of the decoder need the features
    with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(0)
        return network.encode(inputs.to(device))


def _device(network: OccupancyNetwork) -> torch.device:
    return next(network.parameters()).device


def _values(
    network: OccupancyNetwork,
    features: dict[str, Tensor],
    resolution: int,
    steps: int,
    level: float,
) -> np.ndarray:
    """(n, n, n) float64 logits over the box."""
    box = 1 + network.padding

    def occupancy(points: np.ndarray) -> np.ndarray:
        places = box * (points / (resolution << steps) - 0.5)
        return _logits(network, features, torch.from_numpy(places).float())

    if steps:
        return evaluate(occupancy, resolution, steps, level)
    axis = torch.linspace(-0.5, 0.5, resolution)
    places = box * torch.cartesian_prod(axis, axis, axis)
    return _logits(network, features, places).reshape((resolution,) * 3)


def _logits(network: OccupancyNetwork, features: dict[str, Tensor], points: Tensor) -> np.ndarray:
    """(N, 3) float32 points on the CPU to (N,) float64 logits."""
    device = _device(network)
    with torch.inference_mode():
        parts = [
            network.decode(features, part[None].to(device))[0].cpu()
            for part in points.split(_QUERIES)
        ]
    return torch.cat(parts).numpy().astype(np.float64)


def _gradient_batch(features: dict[str, Tensor]) -> int:
    """Queries whose gradient is taken at once."""
    if "points" in features:
        return min(_GRADIENTS, max(1, _DISTANCES // features["points"].shape[1]))
    return _GRADIENTS


def _normals(
    network: OccupancyNetwork,
    features: dict[str, Tensor],
    vertices: np.ndarray,
    triangles: np.ndarray,
) -> np.ndarray:
    """(V, 3) float64: where the logit falls fastest; the triangles' own where it is constant."""
    gradients = [np.empty((0, 3))]
    for part in torch.from_numpy(vertices).float().split(_gradient_batch(features)):
        points = part[None].to(_device(network)).requires_grad_()
        (gradient,) = torch.autograd.grad(network.decode(features, points).sum(), points)
        gradients.append(gradient[0].double().cpu().numpy())
    normals = -np.concatenate(gradients)
    length = np.linalg.norm(normals, axis=1, keepdims=True)
    flat = ~(length[:, 0] > 0)
    if flat.any():
        mesh = trimesh.Trimesh(vertices, triangles, process=False)
        normals[flat] = mesh.vertex_normals[flat]
        length[flat] = 1.0
    return normals / length


def _refined(
    network: OccupancyNetwork,
    features: dict[str, Tensor],
    vertices: np.ndarray,
    triangles: np.ndarray,
    threshold: float,
    steps: int,
) -> np.ndarray:
    """(V, 3) float64 vertices, moved so that random points of the triangles have the threshold's
    occupancy and the triangles' normals are the network's.

    Interpolation in a grid or plane has no second derivative in PyTorch (upstream's refinement
    fails there), nor has the distance of PointConv: for all but ONet the direction that a normal
    is drawn to is held fixed in each step.
    """
    device, draw = _device(network), np.random.default_rng(0)
    moved = torch.from_numpy(vertices).float().to(device).requires_grad_()
    faces = torch.from_numpy(triangles).long().to(device)
    twice = "c" in features
    optimizer = torch.optim.RMSprop([moved], lr=_REFINE_LR)
    for _ in range(steps):
        shares = torch.from_numpy(draw.dirichlet((0.5, 0.5, 0.5), len(faces))).float().to(device)
        moved.grad = torch.zeros_like(moved)
        batch = _gradient_batch(features)
        for face, share in zip(faces.split(batch), shares.split(batch), strict=True):
            corners = moved[face]  # F 3 3
            points = (corners * share[:, :, None]).sum(dim=1)
            a, b, c = corners.unbind(1)
            facing = _unit(torch.linalg.cross(b - a, c - b))
            logits = network.decode(features, points[None])[0]
            (gradient,) = torch.autograd.grad(
                logits.sum(), points, create_graph=twice, retain_graph=True
            )
            misses = (logits.sigmoid() - threshold) ** 2
            turns = ((facing - _unit(-gradient)) ** 2).sum(dim=1)
            loss = (misses + _REFINE_NORMALS * turns).sum() / len(faces)
            moved.grad += torch.autograd.grad(loss, moved)[0]  # the weights' stay untouched
        optimizer.step()
    return moved.detach().double().cpu().numpy()


def _unit(vectors: Tensor) -> Tensor:
    return vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-10)


def _simplified(
    vertices: np.ndarray, triangles: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """A mesh of about `count` triangles (Garland and Heckbert, 1997)."""
    mesh = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(vertices), o3d.utility.Vector3iVector(triangles)
    )
    mesh = mesh.simplify_quadric_decimation(count)
    return np.asarray(mesh.vertices).copy(), np.asarray(mesh.triangles).astype(np.int32)


# ---- files --------------------------------------------------------------------------------------


def read_input(path: str | Path) -> Cloud | np.ndarray:
    """What `reconstruct` takes: the (n, n, n) float32 voxels of a .binvox, else `read_cloud`."""
    path = Path(path)
    if path.suffix.lower() != VOXEL_SUFFIX:
        return read_cloud(path)
    _check_file(path, (*CLOUD_SUFFIXES, VOXEL_SUFFIX))
    with path.open("rb") as file:
        header = file.read(1024).split(b"data", 1)[0].split()
    try:  # the voxels are run-length encoded: few bytes may stand for many
        place = header.index(b"dim")
        sides = [int(word) for word in header[place + 1 : place + 4]]
    except ValueError as error:
        raise ValueError(f"{path}: expected binvox data, got another or a damaged file") from error
    if len(set(sides)) != 1 or not 1 <= sides[0] <= _MAX_VOXELS:
        raise ValueError(f"{path}: expected a cube of 1 to {_MAX_VOXELS} voxels, got {sides}")
    return read_voxels(path)


def read_cloud(path: str | Path) -> Cloud:
    """The points of a cloud, or 100 000 points drawn uniformly by area on a mesh.

    By suffix: .ply, .obj, .off, .stl (with triangles a mesh, else a cloud), .pcd, .xyz (a point a
    line, further columns may be colours), .npz with (N, 3) `points` as upstream's, .npy (N, 3).
    Materials and textures are not read, nor any other file. Raises ValueError for a file that is
    missing, too large, empty, damaged or without a finite point.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    _check_file(path, CLOUD_SUFFIXES)
    try:
        if suffix in MESH_SUFFIXES:
            points, colours, dropped = _of_mesh_file(path)
        elif suffix == ".pcd":
            points, colours = _of_pcd(path)
            dropped = 0
        elif suffix == ".xyz":
            points, colours = _of_lines(path)
            dropped = 0
        else:
            points, colours, dropped = _of_arrays(path), None, 0
        _check_points(points)
    except _DAMAGED as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ValueError(
            f"{path}: expected a cloud or mesh, got a damaged file: {reason}"
        ) from error
    points = points.astype(np.float64, copy=False)
    kept = (np.abs(points) < _LARGEST).all(axis=1)  # NaN neither
    if not kept.any():
        raise ValueError(f"{path}: expected points, got {len(points)} of which none is finite")
    colours = None if colours is None else colours[kept]
    return Cloud(points[kept], colours, dropped + int((~kept).sum()))


def write_surface(path: str | Path, surface: Surface) -> None:
    """Write a .ply, .obj, .off or .stl, whole or not at all.

    PLY and OBJ hold normals and colours, OFF and STL neither; PLY and STL round to float32. Raises
    ValueError for another suffix and for a surface of nothing.
    """
    path = Path(path)
    suffix = check_suffix(path)
    if surface.empty:
        raise ValueError(f"{path}: expected a surface, got an empty one; lower the threshold")
    mesh = trimesh.Trimesh(
        surface.vertices,
        surface.triangles,
        vertex_normals=surface.normals,
        vertex_colors=surface.colours,
        process=False,
        validate=False,
    )
    has_normals = surface.normals is not None
    options: dict[str, Any] = {}
    if suffix == ".ply":
        options = {"vertex_normal": has_normals}
    elif suffix == ".obj":
        options = {"include_normals": has_normals, "header": None}
    content = mesh.export(file_type=suffix[1:], **options)
    write_bytes(path, content.encode() if isinstance(content, str) else content)


def check_suffix(path: str | Path) -> str:
    """The suffix of a file that `write_surface` can write; ValueError for another."""
    suffix = Path(path).suffix.lower()
    if suffix not in MESH_SUFFIXES:
        raise ValueError(f"{path}: expected one of {', '.join(MESH_SUFFIXES)}, got '{suffix}'")
    return suffix


def _check_file(path: Path, suffixes: tuple[str, ...]) -> None:
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path}: expected one of {', '.join(suffixes)}, got '{path.suffix}'")
    if not path.is_file():
        raise ValueError(f"{path}: expected a file, got none")
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path}: expected a cloud, mesh or voxels, got an empty file")
    if size > _MAX_BYTES:
        raise ValueError(f"{path}: expected at most {_MAX_BYTES} bytes, got {size}")


def _check_points(points: np.ndarray) -> None:
    if points.ndim != 2 or points.shape[1] != 3 or points.dtype.kind not in "fiu":
        raise ValueError(f"points of shape (N, 3) wanted, got {points.dtype} {points.shape}")
    if not len(points):
        raise ValueError("it has no points")
    if len(points) > _MAX_POINTS:
        raise ValueError(f"at most {_MAX_POINTS} points wanted, got {len(points)}")


def _of_mesh_file(path: Path) -> tuple[np.ndarray, np.ndarray | None, int]:
    """Points, their colours, and how many vertices of a mesh were not finite."""
    with path.open("rb") as file:  # a file without a name leads to no other file
        loaded = trimesh.load(
            file, file_type=path.suffix.lower()[1:], process=False, skip_materials=True
        )
    parts = loaded.dump() if isinstance(loaded, trimesh.Scene) else [loaded]
    meshes = [part for part in parts if len(getattr(part, "faces", ()))]
    if not meshes:
        points = np.concatenate([np.asarray(part.vertices) for part in parts])
        colours = [_rgb(getattr(part, "colors", None), len(part.vertices)) for part in parts]
        known = [part for part in colours if part is not None]
        return points, np.concatenate(known) if len(known) == len(parts) else None, 0
    bad = 0
    triangles, colours = [], []
    for mesh in meshes:
        if len(mesh.faces) > _MAX_POINTS:
            raise ValueError(f"at most {_MAX_POINTS} triangles wanted, got {len(mesh.faces)}")
        if mesh.faces.min() < 0 or mesh.faces.max() >= len(mesh.vertices):
            raise ValueError("a triangle has a vertex that is not there")
        finite = (np.abs(mesh.vertices) < _LARGEST).all(axis=1)
        bad += int((~finite).sum())
        whole = finite[mesh.faces].all(axis=1)
        triangles.append(mesh.vertices[mesh.faces[whole]])
        tinted = mesh.visual.kind in ("face", "vertex")
        colours.append(_rgb(mesh.visual.face_colors if tinted else None, len(mesh.faces)))
        if colours[-1] is not None:
            colours[-1] = colours[-1][whole]
    corners = np.concatenate(triangles)
    soup = trimesh.Trimesh(
        corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3), process=False
    )
    if not len(corners) or not soup.area > 0:
        raise ValueError("its triangles have no area")
    points, owners = trimesh.sample.sample_surface(soup, _SAMPLES, seed=0)
    known = [part for part in colours if part is not None]
    rgb = np.concatenate(known)[owners] if len(known) == len(meshes) else None
    return np.asarray(points), rgb, bad


def _rgb(colours: Any, count: int) -> np.ndarray | None:
    """(N, 3 or 4) uint8 to (N, 3), None for another number than `count`."""
    colours = np.asarray(colours) if colours is not None else np.empty(0)
    if colours.ndim != 2 or len(colours) != count or colours.shape[1] < 3:
        return None
    return colours[:, :3].astype(np.uint8)


def _of_pcd(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    _check_pcd(path)
    with o3d.utility.VerbosityContextManager(o3d.utility.VerbosityLevel.Error):
        cloud = o3d.io.read_point_cloud(path, format="pcd")
    colours = np.rint(np.asarray(cloud.colors) * 255) if cloud.has_colors() else None
    return np.array(cloud.points), _rgb(colours, len(cloud.points))


def _check_pcd(path: Path) -> None:
    """Raise ValueError for what Open3D would believe: a wrong header ends its process."""
    header: dict[str, list[str]] = {}
    with path.open("rb") as file:
        while "DATA" not in header:
            line = file.readline(_PCD_LINE)
            if not line.endswith(b"\n") or len(header) > len(_PCD_KEYS):
                raise ValueError("its header has no end")
            name, *words = line.decode("ascii").split() or ["#"]
            if not name.startswith("#"):
                if name not in _PCD_KEYS or name in header:
                    raise ValueError(f"its header has an unexpected line {name}")
                header[name] = words
        body = path.stat().st_size - file.tell()
        packed = file.read(8)
    fields, (kind,) = header["FIELDS"], header["DATA"]
    counts = [int(word) for word in header.get("COUNT", ["1"] * len(fields))]
    sizes = [int(word) for word in header["SIZE"]]
    types = {(t, n) for t, n in zip(header["TYPE"], sizes, strict=True)}
    if not len(fields) == len(sizes) == len(counts) or not {"x", "y", "z"} <= set(fields):
        raise ValueError("its header's lines do not fit to each other")
    if not types <= _PCD_TYPES or not all(1 <= count <= _PCD_LINE for count in counts):
        raise ValueError("its header has a field of a type that there is not")
    (points,), (width,), (height,) = (map(int, header[k]) for k in ("POINTS", "WIDTH", "HEIGHT"))
    if not 0 <= points <= _MAX_POINTS or points != width * height:
        raise ValueError(f"at most {_MAX_POINTS} points wanted, got {points}")
    whole = points * sum(size * count for size, count in zip(sizes, counts, strict=True))
    if kind == "binary_compressed":
        small, large = struct.unpack("<II", packed)
        fits = large == whole and small <= body - 8
    else:
        fits = whole <= body if kind == "binary" else kind == "ascii" and 2 * points <= body + 1
    if not fits:
        raise ValueError("it ends too early")


def _of_lines(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Lines x y z ..., separated by blanks or commas; columns 4 to 6 are colours if they can be."""
    with path.open(encoding="utf-8") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no data is an error of the caller's
        lines = (line.replace(",", " ") for line in file)
        table = np.loadtxt(lines, np.float64, ndmin=2)
    if table.size and table.shape[1] < 3:
        raise ValueError(f"at least 3 columns wanted, got {table.shape[1]}")
    tint = table[:, 3:6]
    is_colour = (tint == np.rint(tint)).all() and (tint >= 0).all() and (tint <= 255).all()
    # of whole numbers up to 1 one cannot tell; normals along the axes look like that
    if tint.shape[1] == 3 and is_colour and tint.max(initial=0) > 1:
        return table[:, :3], tint.astype(np.uint8)
    return table[:, :3].reshape(-1, 3), None


def _of_arrays(path: Path) -> np.ndarray:
    if path.suffix.lower() == ".npy":
        # mapped: what the header promises is compared with the file before room is made
        return np.array(np.load(path, mmap_mode="r", allow_pickle=False))
    with zipfile.ZipFile(path) as archive:
        names = [entry for entry in archive.infolist() if entry.filename == "points.npy"]
        if len(names) != 1:
            raise ValueError("an array 'points' is wanted")
        if names[0].file_size > _MAX_BYTES:
            raise ValueError(f"at most {_MAX_BYTES} bytes of points wanted")
    with np.load(path, allow_pickle=False) as arrays:
        return arrays["points"]


# ---- clouds of any size -------------------------------------------------------------------------


def unit_cube(points: np.ndarray, standing: bool = False) -> tuple[float, np.ndarray]:
    """Scale and centre (3,) for which (points - centre) / scale has upstream's normalisation.

    The longest side of the bounding box becomes 1 and its middle the origin (ShapeNet); standing:
    its bottom comes to lie on y = -0.5 (the synthetic rooms). Raises ValueError for points that
    all are the same.
    """
    low, high = points.min(axis=0).astype(np.float64), points.max(axis=0).astype(np.float64)
    scale = float((high - low).max())
    if not 0 < scale < np.inf:
        raise ValueError(f"points: expected an extent above 0, got {scale:g}")
    centre = (low + high) / 2
    if standing:
        centre[1] = low[1] + scale / 2
    return scale, centre


def reconstruct(
    source: Cloud | np.ndarray,
    network: nn.Module,
    resolution: int = 32,
    steps: int = 2,
    threshold: float = 0.2,
    *,
    normals: bool = False,
    refine_steps: int = 0,
    simplify_to: int | None = None,
    points: int | None = None,
    up: Literal["y", "z"] = "y",
    standing: bool = False,
    seed: int = 0,
) -> Surface:
    """The surface of a cloud, in the cloud's own frame, or of (n, n, n) voxels, in the unit cube.

    A cloud is turned (up: the axis that points up in its frame; the published networks know y),
    brought into the unit cube (see `unit_cube`; `standing` for networks of rooms), and `points` of
    its points are drawn without replacement: as many as the network was trained with by default
    (None), all where there are fewer. Its colours go to the nearest vertices. The other arguments
    are those of `surface_of`. An empty surface means that nothing is above the threshold.

    Raises ValueError as `surface_of` does and for a network that takes something else.
    """
    if not isinstance(network, OccupancyNetwork):
        raise ValueError(
            "network: expected one of objects or scenes in the unit cube, got the map's crop "
            "network; see 'convonet models'"
        )
    if up not in ("y", "z"):
        raise ValueError(f"up: expected y or z, got {up!r}")
    if network.takes_voxels == isinstance(source, Cloud):
        wanted = "voxels (a .binvox file)" if network.takes_voxels else "a cloud or mesh"
        raise ValueError(f"network: it takes {wanted}, got the other; choose another network")
    options: dict[str, Any] = {
        "normals": normals, "refine_steps": refine_steps, "simplify_to": simplify_to,
    }  # fmt: skip
    if not isinstance(source, Cloud):
        inputs = torch.from_numpy(np.ascontiguousarray(source, np.float32))[None]
        return surface_of(network, inputs, resolution, steps, threshold, **options)

    turn = _Y_UP if up == "z" else np.eye(3)
    turned = source.points.astype(np.float64) @ turn.T
    scale, centre = unit_cube(turned, standing)
    if points is None:
        points = int(network.config.get("data", {}).get("pointcloud_n") or len(turned))
    if points < 1:
        raise ValueError(f"points: expected at least 1, got {points}")
    if points < len(turned):
        turned = turned[np.random.default_rng(seed).choice(len(turned), points, replace=False)]
    inputs = torch.from_numpy((turned - centre) / scale).float()[None]
    found = surface_of(network, inputs, resolution, steps, threshold, **options)
    vertices = (found.vertices * scale + centre) @ turn
    colours = None
    if source.colours is not None:
        nearest = cKDTree(source.points).query(vertices)[1] if len(vertices) else []
        colours = source.colours[np.asarray(nearest, np.int64)]
    facing = None if found.normals is None else found.normals @ turn
    return replace(found, vertices=vertices, normals=facing, colours=colours)
