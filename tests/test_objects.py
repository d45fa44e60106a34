"""Clouds, meshes and voxels to surfaces by networks of the unit cube."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import open3d as o3d
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree
from torch import Tensor, nn
from trimesh.exchange.binvox import export_binvox
from trimesh.transformations import scale_and_translate
from trimesh.voxel import VoxelGrid

from convonet_ros.mapping.meshing import closed_surface
from convonet_ros.model import zoo
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.offline import objects
from convonet_ros.offline.objects import (
    CLOUD_SUFFIXES,
    MESH_SUFFIXES,
    Cloud,
    Surface,
    read_cloud,
    read_input,
    reconstruct,
    surface_of,
    unit_cube,
    write_surface,
)

RADIUS = 0.35
INPUTS = torch.zeros(1, 5, 3)


class Ball(OccupancyNetwork):
    """Occupied where less than RADIUS from the origin; 20 logits per unit."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(1, 1), nn.Linear(1, 1), {}, {}, None)
        self.asked: list[Tensor] = []

    def encode(self, inputs: Any, box: Any = None) -> dict[str, Tensor]:
        assert not self.training
        return {}

    def decode(self, features: Any, queries: Any, box: Any = None) -> Tensor:
        assert queries.dtype == torch.float32
        self.asked.append(queries.detach()[0])
        return 20 * (RADIUS - queries.norm(dim=-1))


def tiny(name: str = "shapenet_3plane", seed: int = 0) -> OccupancyNetwork:
    """A small network of a published kind, whose logits vary on both sides of 0.2."""
    config = zoo.variant(name)
    encoder, model = config["model"]["encoder_kwargs"], config["model"]
    if "onet" in name:
        model.update(c_dim=16, decoder_kwargs={"hidden_size": 16})
        encoder.update({"hidden_dim": 16} if "hidden_dim" in encoder else {})
    else:
        for key in ("plane_resolution", "grid_resolution"):
            if key in encoder:
                encoder[key] = 16
        if "unet_kwargs" in encoder:
            encoder["unet_kwargs"].update(depth=2, start_filts=4)
        if "unet3d_kwargs" in encoder:
            encoder["unet3d_kwargs"].update(num_levels=2, f_maps=8)
        if name.startswith("crop"):
            config["data"].update(unit_size=0.1, query_vol_size=6)
    torch.manual_seed(seed)
    network = zoo.from_upstream(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in network.named_parameters():
            if value.ndim >= 2:
                fan = value[0].numel()
                value.copy_(torch.randn(value.shape, generator=generator) * (2 / fan) ** 0.5)
            elif "fc_out" in key:
                value.fill_(-1.0)
    return network.eval()


def as_mesh(surface: Surface) -> trimesh.Trimesh:
    return trimesh.Trimesh(surface.vertices, surface.triangles, process=False)


def off_ball(points: np.ndarray) -> np.ndarray:
    """Distance to the ball's surface."""
    return np.abs(np.linalg.norm(points, axis=1) - RADIUS)


def cloud_of(count: int = 500, seed: int = 0) -> np.ndarray:
    """(N, 3) points of a box of sides 1, 0.5 and 0.25 with corners on a lattice of 1/1024."""
    rng = np.random.default_rng(seed)
    points = rng.integers(-512, 513, (count, 3)) / 1024 * [1, 0.5, 0.25]
    points[:2] = [[-0.5, -0.25, -0.125], [0.5, 0.25, 0.125]]
    return points


# ---- surfaces -----------------------------------------------------------------------------------


def test_ball_is_found_watertight_and_in_place() -> None:
    network = Ball().train()
    surface = surface_of(network, INPUTS, 16, 2, 0.5, normals=True)
    assert network.training
    mesh = as_mesh(surface)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.01)
    assert off_ball(surface.vertices).max() < 2e-4
    assert surface.vertices.dtype == np.float64
    assert surface.triangles.dtype == np.int32
    outwards = surface.vertices / np.linalg.norm(surface.vertices, axis=1, keepdims=True)
    assert surface.normals is not None
    np.testing.assert_allclose(surface.normals, outwards, atol=1e-5)
    assert surface.colours is None
    assert surface_of(network, INPUTS, 16, 2, 0.5).normals is None


def test_threshold_is_a_probability() -> None:
    share = 0.2
    surface = surface_of(Ball(), INPUTS, 16, 1, share)
    radius = RADIUS - (np.log(share) - np.log(1 - share)) / 20
    assert np.abs(np.linalg.norm(surface.vertices, axis=1) - radius).max() < 1e-3


def test_octree_and_lattice_give_the_same_surface_with_fewer_queries() -> None:
    octree, dense = Ball(), Ball()
    found = surface_of(octree, INPUTS, 16, 2, 0.5)
    whole = surface_of(dense, INPUTS, 65, 0, 0.5)
    np.testing.assert_array_equal(found.triangles, whole.triangles)
    np.testing.assert_allclose(found.vertices, whole.vertices, atol=1e-6)
    assert sum(map(len, octree.asked)) < 65**3 / 3
    assert sum(map(len, dense.asked)) == 65**3
    assert max(map(len, dense.asked)) == 100_000
    asked = torch.cat(dense.asked)
    np.testing.assert_allclose(asked.aminmax(dim=0), [[-0.55] * 3, [0.55] * 3], atol=1e-7)


def test_without_steps_the_values_are_those_of_upstreams_points() -> None:
    network, points = tiny(), torch.from_numpy(cloud_of()).float()[None]
    n = 9
    axis = torch.linspace(-0.5, 0.5, n)  # upstream: x slowest, both ends included
    grid = 1.1 * torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(1, -1, 3)
    with torch.no_grad():
        values = network(grid, points).view(n, n, n).numpy()
    vertices, triangles = closed_surface(values, np.log(0.2) - np.log(0.8))
    found = surface_of(network, points, n, 0)
    assert len(triangles) > 20
    np.testing.assert_array_equal(found.triangles, triangles)
    np.testing.assert_allclose(found.vertices, 1.1 * (vertices / (n - 1) - 0.5), atol=1e-5)


def test_refinement_brings_the_triangles_to_the_surface() -> None:
    network = Ball()
    plain = surface_of(network, INPUTS, 8, 1, 0.5)
    refined = surface_of(network, INPUTS, 8, 1, 0.5, refine_steps=20, normals=True)
    np.testing.assert_array_equal(refined.triangles, plain.triangles)
    before = off_ball(as_mesh(plain).triangles_center).mean()
    assert off_ball(as_mesh(refined).triangles_center).mean() < 0.7 * before
    again = surface_of(network, INPUTS, 8, 1, 0.5, refine_steps=20)
    np.testing.assert_array_equal(again.vertices, refined.vertices)
    assert refined.normals is not None  # of the vertices as they are now
    cosine = (refined.normals * refined.vertices).sum(axis=1)
    np.testing.assert_allclose(cosine, np.linalg.norm(refined.vertices, axis=1), atol=1e-5)


@pytest.mark.parametrize("twice", [True, False])
def test_refinement_follows_upstreams_loss(monkeypatch: pytest.MonkeyPatch, twice: bool) -> None:
    class Code(Ball):  # a network with a code has second derivatives
        def encode(self, inputs: Any, box: Any = None) -> dict[str, Tensor]:
            return {"c": inputs} if twice else {}

        def decode(self, features: Any, queries: Any, box: Any = None) -> Tensor:
            return super().decode(features, queries) + 2 * (9 * queries[..., 0]).sin()

    share = 0.3
    plain = surface_of(Code(), INPUTS, 6, 1, share)
    v = torch.from_numpy(plain.vertices).float().requires_grad_()
    faces, rng = torch.from_numpy(plain.triangles).long(), np.random.default_rng(0)
    optimizer = torch.optim.RMSprop([v], lr=1e-4)
    for _ in range(3):
        optimizer.zero_grad()
        eps = torch.from_numpy(rng.dirichlet((0.5,) * 3, len(faces))).float()
        p = (v[faces] * eps[..., None]).sum(dim=1)
        value = Code().decode({}, p[None])[0].sigmoid()
        (slope,) = torch.autograd.grad(value.sum(), p, create_graph=True)
        aim = nn.functional.normalize(-slope if twice else -slope.detach(), dim=1)
        sides = v[faces[:, 1:]] - v[faces[:, :1]]
        normal = nn.functional.normalize(torch.linalg.cross(sides[:, 0], sides[:, 1]), dim=1)
        loss = (value - share).square().mean() + 0.01 * (normal - aim).square().sum(1).mean()
        loss.backward()
        optimizer.step()
    for portion in (100_000, 100):
        monkeypatch.setattr(objects, "_GRADIENTS", portion)
        found = surface_of(Code(), INPUTS, 6, 1, share, refine_steps=3)
        gap = np.abs(found.vertices - v.detach().numpy())
        assert np.median(np.abs(found.vertices - plain.vertices)) > 1e-3
        assert np.quantile(gap, 0.99) < 1e-5  # a slope of about 0 may be rounded to either side


def test_simplified_surface_has_the_wanted_triangles_and_stays_close() -> None:
    surface = surface_of(Ball(), INPUTS, 16, 1, 0.5, simplify_to=400, normals=True)
    assert 390 <= len(surface.triangles) <= 400
    mesh = as_mesh(surface)
    assert mesh.is_watertight
    assert off_ball(surface.vertices).max() < 0.01
    assert surface.normals is not None
    assert surface.normals.shape == surface.vertices.shape
    many = surface_of(Ball(), INPUTS, 8, 1, 0.5, simplify_to=10**6)
    np.testing.assert_array_equal(many.vertices, surface_of(Ball(), INPUTS, 8, 1, 0.5).vertices)


@pytest.mark.parametrize(
    "name",
    ["shapenet_3plane", "room_grid32", "shapenet_pointconv", "crop_room_grid64", "onet_shapenet"],
)
def test_every_kind_of_network_has_normals_and_refines(name: str) -> None:
    network = tiny(name)
    points = torch.from_numpy(cloud_of(600)).float()[None]
    values = surface_of(network, points, 8, 0, 0.5)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    level = 0.5
    if values.empty:  # whatever its logits are, a level between them
        with torch.no_grad():
            torch.manual_seed(0)
            features = network.encode(points)
            level = float(network.decode(features, points).median().sigmoid())
    surface = surface_of(network, points, 8, 1, level, normals=True, refine_steps=2)
    assert not surface.empty
    assert surface.normals is not None
    np.testing.assert_allclose(np.linalg.norm(surface.normals, axis=1), 1, atol=1e-6)
    plain = surface_of(network, points, 8, 1, level)
    moved = np.abs(surface.vertices - plain.vertices).max()
    assert 0 < moved < 5e-3  # by 1e-3 at most in RMSprop's first step
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_random_start_of_pointnet2_is_always_the_same() -> None:
    network, points = tiny("shapenet_pointconv"), torch.from_numpy(cloud_of(600)).float()[None]
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        found.append(surface_of(network, points, 9, 0, 0.5))
        assert torch.equal(torch.random.get_rng_state(), before)
    assert not found[0].empty
    np.testing.assert_array_equal(found[0].vertices, found[1].vertices)


def test_nothing_is_an_empty_surface() -> None:
    class Nothing(Ball):
        def decode(self, features: Any, queries: Any, box: Any = None) -> Tensor:
            return super().decode(features, queries) - 100

    surface = surface_of(Nothing(), INPUTS, 4, 1, normals=True, refine_steps=2, simplify_to=10)
    assert surface.empty
    assert surface.vertices.shape == surface.triangles.shape == (0, 3)
    assert surface.normals is not None
    assert surface.normals.shape == (0, 3)
    tinted = Cloud(cloud_of(), np.zeros((500, 3), np.uint8))
    assert reconstruct(tinted, Nothing(), 4, 1, up="z").colours.shape == (0, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.0}, "threshold: expected a probability"),
        ({"threshold": np.nan}, "threshold: expected a probability"),
        ({"resolution": 1, "steps": 0}, "resolution, steps: expected at least"),
        ({"steps": -1}, "resolution, steps: expected at least"),
        ({"resolution": 64, "steps": 4}, "resolution, steps: expected at most 512"),
        ({"refine_steps": -1}, "refine_steps: expected at least 0"),
        ({"simplify_to": 3}, "simplify_to: expected at least 4"),
        ({"inputs": torch.zeros(2, 5, 3)}, r"inputs: expected \(1, N, 3\) points"),
        ({"inputs": torch.zeros(1, 0, 3)}, r"inputs: expected \(1, N, 3\) points"),
        ({"inputs": torch.zeros(1, 4, 4, 4)}, r"inputs: expected \(1, N, 3\) points"),
    ],
)
def test_wrong_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        surface_of(Ball(), **{"inputs": INPUTS, **arguments})


# ---- clouds in frames of their own --------------------------------------------------------------


def test_unit_cube_is_upstreams() -> None:
    points = cloud_of() * 8 + [1, 2, 3]
    scale, centre = unit_cube(points)
    assert scale == 8
    np.testing.assert_allclose(centre, [1, 2, 3])
    scale, centre = unit_cube(points, standing=True)
    np.testing.assert_allclose(((points - centre) / scale).min(axis=0), [-0.5, -0.5, -0.125])
    with pytest.raises(ValueError, match="points: expected an extent above 0, got 0"):
        unit_cube(np.ones((4, 3)))


def test_surface_lies_in_the_clouds_frame() -> None:
    """Shifted, scaled and turned so that z is up, a cloud gives its surface likewise."""
    network, points = tiny(), cloud_of()
    wanted = reconstruct(Cloud(points), network, 8, 1, normals=True)
    inputs = torch.from_numpy(points).float()[None]
    straight = surface_of(network, inputs, 8, 1, normals=True)
    np.testing.assert_allclose(wanted.vertices, straight.vertices, atol=1e-12)
    assert len(wanted.triangles) > 20

    def turned(values: np.ndarray) -> np.ndarray:  # y up to z up
        return np.stack([values[:, 0], -values[:, 2], values[:, 1]], axis=1)

    shift = np.array([300_000.0, -20.0, 4.0])
    found = reconstruct(Cloud(turned(points) * 4 + shift), network, 8, 1, normals=True, up="z")
    np.testing.assert_array_equal(found.triangles, wanted.triangles)
    np.testing.assert_allclose(found.vertices, turned(wanted.vertices) * 4 + shift, atol=1e-9)
    assert found.normals is not None
    assert wanted.normals is not None
    np.testing.assert_allclose(found.normals, turned(wanted.normals), atol=1e-12)
    # the other handedness would turn the surface inside out
    assert as_mesh(found).volume == pytest.approx(64 * as_mesh(wanted).volume, rel=1e-6)


def test_as_many_points_are_drawn_as_the_network_was_trained_with() -> None:
    class Seen(Ball):
        inputs: Tensor

        def encode(self, inputs: Any, box: Any = None) -> dict[str, Tensor]:
            self.inputs = inputs[0]
            return {}

    network, points = Seen(), cloud_of(5000)
    network.config = {"data": {"pointcloud_n": 700}}
    sources = np.unique(points.astype(np.float32), axis=0)

    def drawn(**options: Any) -> np.ndarray:
        reconstruct(Cloud(points), network, 4, 1, **options)
        return network.inputs.numpy()

    first = drawn()
    assert first.shape == (700, 3)
    assert cKDTree(sources).query(first)[0].max() == 0
    assert len(np.unique(first, axis=0)) > 690  # without replacement
    np.testing.assert_array_equal(first, drawn())
    assert not np.array_equal(first, drawn(seed=1))
    np.testing.assert_array_equal(drawn(points=9999), points.astype(np.float32))
    np.testing.assert_array_equal(drawn(points=5000), points.astype(np.float32))
    network.config = {}
    assert len(drawn()) == 5000
    assert drawn(standing=True)[:, 1].min() == -0.5
    with pytest.raises(ValueError, match="points: expected at least 1"):
        drawn(points=0)


def test_colours_go_to_the_nearest_vertices() -> None:
    points = cloud_of(2000)
    colours = np.where(points[:, :1] > 0, [255, 0, 0], [0, 0, 255]).astype(np.uint8)
    surface = reconstruct(Cloud(points * 3, colours), Ball(), 8, 1, 0.5, points=100)
    assert surface.colours is not None
    far = np.abs(surface.vertices[:, 0]) > 0.5
    red = surface.colours[:, 0] == 255
    np.testing.assert_array_equal(red[far], surface.vertices[far, 0] > 0)
    assert surface.colours.dtype == np.uint8
    assert reconstruct(Cloud(points), Ball(), 8, 1, 0.5).colours is None


def test_voxels_and_points_go_to_networks_that_take_them(tmp_path: Path) -> None:
    network = tiny("voxel_shapenet_grid32")
    voxels = np.zeros((32, 32, 32), bool)
    voxels[8:20, 10:25, 12:22] = True
    grid = VoxelGrid(voxels, transform=scale_and_translate(scale=1 / 31, translate=(-0.5,) * 3))
    (tmp_path / "model.binvox").write_bytes(export_binvox(grid, axis_order="xzy"))
    read = read_input(tmp_path / "model.binvox")
    assert isinstance(read, np.ndarray)
    np.testing.assert_array_equal(read, voxels)
    found = reconstruct(read, network, 8, 1, 0.5)
    wanted = surface_of(network, torch.from_numpy(voxels).float()[None], 8, 1, 0.5)
    assert not found.empty
    np.testing.assert_array_equal(found.vertices, wanted.vertices)
    with pytest.raises(ValueError, match=r"network: it takes voxels \(a .binvox file\)"):
        reconstruct(Cloud(cloud_of()), network)
    with pytest.raises(ValueError, match="network: it takes a cloud or mesh"):
        reconstruct(read, tiny())
    with pytest.raises(ValueError, match="inputs: expected 32 voxels a side"):
        reconstruct(read[:16, :16, :16], tiny("onet_voxel_shapenet"))
    with pytest.raises(ValueError, match="network: expected one of objects"):
        reconstruct(read, nn.Linear(1, 1))
    with pytest.raises(ValueError, match="up: expected y or z"):
        reconstruct(Cloud(cloud_of()), Ball(), up="x")  # type: ignore[arg-type]


# ---- files --------------------------------------------------------------------------------------


def write_cloud(path: Path, points: np.ndarray, colours: np.ndarray, ascii_: bool = False) -> None:
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(points))
    cloud.colors = o3d.utility.Vector3dVector(colours / 255)
    assert o3d.io.write_point_cloud(str(path), cloud, write_ascii=ascii_, compressed=not ascii_)


@pytest.mark.parametrize("ascii_", [True, False])
@pytest.mark.parametrize("suffix", [".ply", ".pcd"])
def test_clouds_of_open3d_are_read(tmp_path: Path, suffix: str, ascii_: bool) -> None:
    points = cloud_of(300)
    colours = np.random.default_rng(0).integers(0, 256, (300, 3)).astype(np.uint8)
    write_cloud(tmp_path / f"a{suffix}", points, colours, ascii_)
    cloud = read_cloud(tmp_path / f"a{suffix}")
    np.testing.assert_allclose(cloud.points, points, atol=1e-6)
    np.testing.assert_array_equal(cloud.colours, colours)
    assert cloud.dropped == 0


def test_clouds_of_other_tools_are_read(tmp_path: Path) -> None:
    points = cloud_of(300)
    colours = np.random.default_rng(0).integers(0, 256, (300, 3)).astype(np.uint8)
    lines = [" ".join(map(repr, row)) for row in points.tolist()]
    tinted = np.concatenate([points, colours], axis=1).tolist()
    (tmp_path / "plain.xyz").write_text("\n".join(lines))
    (tmp_path / "tinted.xyz").write_text("# x y z r g b\n" + "\n".join(map(str, tinted)).translate(
        str.maketrans("", "", "[]")
    ))  # fmt: skip
    (tmp_path / "normals.xyz").write_text("\n".join(f"{line} 0 0 1" for line in lines))
    (tmp_path / "one.xyz").write_text("1 2 3")
    (tmp_path / "lines.obj").write_text(
        "mtllib ../secret.mtl\n" + "\n".join(f"v {line}" for line in lines)
    )
    (tmp_path / "points.off").write_text("OFF\n300 0 0\n" + "\n".join(lines))
    np.save(tmp_path / "a.npy", points)
    np.savez(tmp_path / "a.npz", points=points.astype(np.float16), normals=points)
    written = trimesh.PointCloud(points, colors=colours).export(file_type="ply")
    (tmp_path / "trimesh.ply").write_bytes(written)
    for name, tolerance, with_colours in (
        ("plain.xyz", 0, False), ("tinted.xyz", 0, True), ("normals.xyz", 0, False),
        ("lines.obj", 0, False), ("points.off", 0, False), ("a.npy", 0, False),
        ("a.npz", 1e-3, False), ("trimesh.ply", 1e-7, True),
    ):  # fmt: skip
        cloud = read_cloud(tmp_path / name)
        np.testing.assert_allclose(cloud.points, points, atol=tolerance, err_msg=name)
        assert cloud.points.dtype == np.float64
        if with_colours:
            np.testing.assert_array_equal(cloud.colours, colours, err_msg=name)
        else:
            assert cloud.colours is None, name
    assert read_cloud(tmp_path / "one.xyz").points.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("suffix", MESH_SUFFIXES)
def test_surfaces_are_written_and_read_back(tmp_path: Path, suffix: str) -> None:
    whole = surface_of(Ball(), INPUTS, 8, 1, 0.5, normals=True)
    colours = np.where(whole.vertices[:, :1] > 0, [250, 3, 4], [7, 8, 250]).astype(np.uint8)
    surface = Surface(whole.vertices, whole.triangles, whole.normals, colours)
    path = tmp_path / f"a{suffix.upper()}"
    write_surface(path, surface)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    mesh = trimesh.load(path, process=suffix == ".stl")
    assert mesh.is_watertight
    assert len(mesh.faces) == len(surface.triangles)
    assert mesh.volume == pytest.approx(as_mesh(surface).volume, rel=1e-5)
    if suffix != ".stl":
        np.testing.assert_allclose(mesh.vertices, surface.vertices, atol=1e-7)
        np.testing.assert_array_equal(mesh.faces, surface.triangles)
    if suffix in (".ply", ".obj"):
        np.testing.assert_allclose(mesh.vertex_normals, surface.normals, atol=1e-6)
        np.testing.assert_array_equal(mesh.visual.vertex_colors[:, :3], colours)
    # and as an input: points uniform by area, the same each time
    cloud, again = read_cloud(path), read_cloud(path)
    np.testing.assert_array_equal(cloud.points, again.points)
    assert cloud.points.shape == (100_000, 3)
    assert off_ball(cloud.points).max() < 0.02
    octant = (cloud.points > 0).all(axis=1).mean()
    assert octant == pytest.approx(1 / 8, abs=0.005)
    if suffix in (".ply", ".obj"):
        assert cloud.colours is not None
        far = np.abs(cloud.points[:, 0]) > 0.15
        right = (cloud.colours[:, 0] > 200) == (cloud.points[:, 0] > 0)
        assert right[far].all()


def test_surfaces_without_normals_and_colours_are_written(tmp_path: Path) -> None:
    surface = surface_of(Ball(), INPUTS, 4, 1, 0.5)
    for suffix in MESH_SUFFIXES:
        write_surface(tmp_path / f"a{suffix}", surface)
    assert b"nx" not in (tmp_path / "a.ply").read_bytes()
    assert b"vn" not in (tmp_path / "a.obj").read_bytes()
    with pytest.raises(ValueError, match=r"expected one of .ply, .obj, .off, .stl, got '.glb'"):
        write_surface(tmp_path / "a.glb", surface)
    empty = Surface(np.empty((0, 3)), np.empty((0, 3), np.int32))
    with pytest.raises(ValueError, match="expected a surface, got an empty one"):
        write_surface(tmp_path / "b.ply", empty)


def test_points_that_are_no_places_are_left_out(tmp_path: Path) -> None:
    points = cloud_of(10)
    points[3, 1], points[5, 0], points[7, 2] = np.nan, np.inf, 1e300
    np.save(tmp_path / "a.npy", points)
    cloud = read_cloud(tmp_path / "a.npy")
    assert cloud.dropped == 3
    np.testing.assert_array_equal(cloud.points, np.delete(points, [3, 5, 7], axis=0))
    np.save(tmp_path / "b.npy", np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="got 4 of which none is finite"):
        read_cloud(tmp_path / "b.npy")
    (tmp_path / "c.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nv nan 0 0\nf 1 2 3\nf 1 2 4\n")
    cloud = read_cloud(tmp_path / "c.obj")
    assert cloud.dropped == 1
    assert len(cloud.points) == 100_000
    assert (cloud.points[:, :2].sum(axis=1) < 1 + 1e-9).all()


@pytest.mark.parametrize("suffix", [*CLOUD_SUFFIXES, ".binvox"])
def test_missing_empty_damaged_and_huge_files_are_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    with pytest.raises(ValueError, match="expected a file, got none"):
        read_input(path)
    path.touch()
    with pytest.raises(ValueError, match="got an empty file"):
        read_input(path)
    for content in (b"\x00\xff\x13nonsense\n" * 40, b"\n", b"ply\nformat ascii 1.0\n", b"OFF\n"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"a{suffix}: expected"):
            read_input(path)
    with path.open("wb") as file:
        file.truncate((2 << 30) + 1)
    with pytest.raises(ValueError, match="expected at most 2147483648 bytes"):
        read_input(path)


def pcd(points: int = 2, count: str = "1 1 1", size: str = "4 4 4", kind: str = "binary") -> bytes:
    header = (
        f"VERSION 0.7\nFIELDS x y z\nSIZE {size}\nTYPE F F F\nCOUNT {count}\nWIDTH {points}\n"
        f"HEIGHT 1\nVIEWPOINT 0 0 0 1 0 0 0\nPOINTS {points}\nDATA {kind}\n"
    )
    return header.encode() + np.arange(6, dtype="<f4").tobytes()


def npy(text: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("promise.pcd", pcd(points=3)),
        ("count.pcd", pcd(count="7728-01 1 1")),  # Open3D does not survive this
        ("size.pcd", pcd(size="3 4 4")),
        ("many.pcd", pcd(points=10**11)),
        ("packed.pcd", pcd(kind="binary_compressed")),
        ("faces.obj", b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n"),
        ("flat.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n"),
        ("ragged.xyz", b"1 2 3\n1 2\n"),
        ("plane.xyz", b"1 2\n1 2\n"),
        ("many.npy", npy("{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 3)}\n")),
        ("pickle.npy", npy("{'descr': '|O', 'fortran_order': False, 'shape': (1, 3)}\n")),
        ("many.ply", b"ply\nformat binary_little_endian 1.0\nelement vertex 99999999999\n"
                     b"property float x\nproperty float y\nproperty float z\nend_header\n"),
        ("many.binvox", b"#binvox 1\ndim 9999 9999 9999\ntranslate 0 0 0\nscale 1\ndata\n\0\xff"),
    ],
)  # fmt: skip
def test_files_that_promise_what_they_do_not_hold_are_refused(
    tmp_path: Path, name: str, content: bytes
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name}: expected"):
        read_input(tmp_path / name)
    (tmp_path / "good.pcd").write_bytes(pcd())
    assert read_cloud(tmp_path / "good.pcd").points.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_archives_hold_points_and_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, other=cloud_of())
    with pytest.raises(ValueError, match="an array 'points' is wanted"):
        read_cloud(path)
    np.savez(path, points=np.array([{"a": 1}], object))
    with pytest.raises(ValueError, match="expected a cloud or mesh"):
        read_cloud(path)
    np.savez_compressed(path, points=np.zeros((10_000, 3)))
    monkeypatch.setattr(objects, "_MAX_BYTES", 100_000)
    with pytest.raises(ValueError, match="at most 100000 bytes of points wanted"):
        read_cloud(path)
    monkeypatch.undo()
    monkeypatch.setattr(objects, "_MAX_POINTS", 9_999)
    with pytest.raises(ValueError, match="at most 9999 points wanted, got 10000"):
        read_cloud(path)
    with pytest.raises(ValueError, match=r"expected one of .*, got '\.tiff'"):
        read_cloud(tmp_path / "a.tiff")
    with pytest.raises(ValueError, match="expected one of"):
        read_cloud(tmp_path / "a.binvox")  # voxels are no cloud: read_input
