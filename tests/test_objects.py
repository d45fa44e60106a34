"""Clouds, meshes and voxels to surfaces by networks of the unit cube."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from balls import INPUTS, RADIUS, Ball, as_mesh, cloud_of, off_ball
from scipy.spatial import cKDTree
from torch import Tensor, nn
from trimesh.exchange.binvox import export_binvox
from trimesh.transformations import scale_and_translate
from trimesh.voxel import VoxelGrid

from convonet_ros.mapping.meshing import closed_surface
from convonet_ros.model import zoo
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.offline import implicit
from convonet_ros.offline.clouds import Cloud, read_input
from convonet_ros.offline.objects import reconstruct, surface_of, unit_cube


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
        monkeypatch.setattr(implicit, "_GRADIENTS", portion)
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
