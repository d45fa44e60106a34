"""Bare clouds, z up and in metres, to surfaces by the map's network, in layers of crops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from recorded import write_network
from scipy.spatial import cKDTree

from convonet_ros.config import Config, with_values
from convonet_ros.geometry import Lattice
from convonet_ros.mapping.engine import Engine
from convonet_ros.mapping.meshing import Mesh, near_hits
from convonet_ros.mapping.volume import CropIndex, Volume
from convonet_ros.model import zoo
from convonet_ros.offline import layers
from convonet_ros.offline.clouds import Cloud
from convonet_ros.offline.files import OBSERVED_RGB, PREDICTED_RGB, merged
from convonet_ros.offline.layers import reconstruct_cloud
from convonet_ros.offline.pipeline import surface_of_map
from convonet_ros.offline.surfaces import Surface


def sphere(n: int = 20_000, radius: float = 0.4, middle: float = 0.8) -> Cloud:
    directions = np.random.default_rng(0).normal(size=(n, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return Cloud(radius * directions + middle, None, directions.astype(np.float32))


def noise(n: int = 200, longer: int = 0) -> Cloud:
    """Points anywhere, in a box that is three times as long along one axis."""
    rng = np.random.default_rng(1)
    points = rng.uniform(-0.5, 0.5, (n, 3))
    points[:, longer] *= 3
    normals = rng.normal(size=(n, 3)).astype(np.float32)
    return Cloud(points, None, normals / np.linalg.norm(normals, axis=1, keepdims=True))


def box(half: np.ndarray, n: int = 30_000) -> Cloud:
    """Points on a box around the origin."""
    rng = np.random.default_rng(0)
    areas = 4 * half.prod() / half
    axis, side = rng.choice(3, n, p=areas / areas.sum()), rng.choice([-1, 1], n)
    points = rng.uniform(-1, 1, (n, 3))
    points[np.arange(n), axis] = side
    normals = np.zeros((n, 3), np.float32)
    normals[np.arange(n), axis] = side
    return Cloud(points * half, None, normals)


def as_mesh(surface: Surface) -> trimesh.Trimesh:
    return trimesh.Trimesh(surface.vertices, surface.triangles, process=False)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A small untrained network, and a threshold at which its surfaces are many."""
    weights = write_network(tmp_path_factory.mktemp("weights") / "network.pt")
    # In float32, as what an untrained network says is too little for bfloat16.
    config = with_values(Config(), {"model.weights": str(weights), "model.precision": "float32"})
    engine = Engine(zoo.load_crops(str(weights))[0], config.model)
    means = layers._averaged(noise(), np.zeros(3), 0, engine.lattice)
    (logits,) = engine.infer([layers._Boxes(engine.lattice, config).of(means, (0, 0, 0))])
    middle = logits[logits.isfinite()].double().quantile(0.4).sigmoid()
    return with_values(config, {"model.threshold": float(middle)})


def test_a_sphere_is_closed_and_in_place() -> None:
    surface = reconstruct_cloud(sphere(), Config())
    mesh = as_mesh(surface)
    assert mesh.is_watertight
    assert mesh.volume > 0  # triangles are counter-clockwise seen from free space
    off = np.abs(np.linalg.norm(surface.vertices - 0.8, axis=1) - 0.4)
    assert off.max() < 0.04  # below 0.5 the surface errs outwards
    assert off.mean() < 0.0125  # half a step of the lattice


def test_a_box_far_from_the_origin_is_closed_and_in_place() -> None:
    """Across the borders of crops and layers, where float32 knows decimetres only."""
    shift, half = np.array([500_000.3, -4_000_000.1, 100.2]), np.array([0.55, 0.35, 0.3])
    cloud = box(half)
    surface = reconstruct_cloud(replace(cloud, points=cloud.points + shift), Config())
    mesh = as_mesh(surface)
    assert mesh.is_watertight
    assert mesh.volume > 0
    beyond = np.abs(surface.vertices - shift) - half
    outside = np.linalg.norm(beyond.clip(min=0), axis=1)
    assert (outside - beyond.max(axis=1).clip(max=0)).max() < 0.04


@pytest.mark.parametrize(("axis", "sees"), [(0, True), (1, True), (2, False)])
def test_layers_equal_all_at_once(axis: int, sees: bool, small: Config) -> None:
    """Bit for bit, whichever the long side is; with and without normals."""
    cloud = noise(longer=axis)
    cloud = cloud if sees else Cloud(cloud.points)
    done: list[tuple[int, int]] = []
    found = reconstruct_cloud(cloud, small, progress=lambda *so_far: done.append(so_far))
    engine = Engine(zoo.load_crops(small.model.weights)[0], small.model)
    lattice = engine.lattice
    means = layers._averaged(cloud, np.zeros(3), 0, lattice)
    crops = layers._crops_of(means, 0, lattice.halo_voxels, lattice)
    assert done == [(k, len(crops)) for k in range(1, len(crops) + 1)]
    boxes = layers._Boxes(lattice, small)
    decoded = {}
    for crop in crops:
        content = boxes.of(means, crop)
        (logits,) = engine.infer([content])
        decoded[crop] = layers._Decoded(logits, near_hits(content.visibility, lattice))
    wanted = surface_of_map(merged(layers._mesh(crop, decoded, engine) for crop in crops))
    assert len(wanted.triangles) > 10_000
    np.testing.assert_array_equal(found.vertices, wanted.vertices)
    np.testing.assert_array_equal(found.colours, wanted.colours)
    assert len(found.triangles) == len(wanted.triangles)
    ours, theirs = (np.unique(np.sort(s.triangles, axis=1), axis=0) for s in (found, wanted))
    np.testing.assert_array_equal(ours, theirs)


def test_no_more_than_two_layers_are_kept(small: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    mesh = layers._mesh

    def counting(
        crop: CropIndex, decoded: dict[CropIndex, layers._Decoded], engine: Engine
    ) -> Mesh:
        kept.append(len({y for _, y, _ in decoded}))
        return mesh(crop, decoded, engine)

    monkeypatch.setattr(layers, "_mesh", counting)
    points = np.random.default_rng(1).uniform([0.3, -4, 0.3], [1.3, 4, 1.3], (100, 3))
    reconstruct_cloud(Cloud(points), with_values(small, {"model.completion_m": 0.25}))
    assert len(kept) == 6
    assert max(kept) == 2


def test_a_box_is_what_the_map_has_of_the_same_points() -> None:
    """Of a cloud whose normals are the directions to the sensor of one scan."""
    lattice, config = Lattice(), Config()
    points = np.random.default_rng(0).uniform([0.4, -1, -1], [0.9, 1, 1], (500, 3))
    points = points.astype(np.float32)
    volume = Volume(lattice, config.map, config.scan, torch.device("cpu"))
    volume.hold(np.zeros(3))
    volume.integrate(points, np.eye(4))
    wanted = volume.box((0, 0, 0))
    towards = -points / np.linalg.norm(points, axis=1, keepdims=True)
    # one point of a sub-voxel is all that a scan may add
    first = np.unique(np.floor(points / lattice.sub_m), axis=0, return_index=True)[1]
    means = layers._averaged(Cloud(points[first], None, towards[first]), np.zeros(3), 2, lattice)
    found = layers._Boxes(lattice, config).of(means, (0, 0, 0))
    distance, place = cKDTree(found.points).query(wanted.points)
    assert len(place) == len(np.unique(place)) == len(found.points)
    alone = distance < 0.01  # where the scan had no second point
    assert alone.mean() > 0.9
    off = (found.directions[place] - wanted.directions).numpy()
    assert np.abs(off[alone]).max() < 0.01
    np.testing.assert_array_equal(found.weights[place], wanted.weights)
    np.testing.assert_array_equal(found.visibility > 0, wanted.visibility > 0)
    free = wanted.visibility[found.visibility < 0] < 0
    assert len(free) > 3000
    assert free.float().mean() > 0.99


def test_without_normals_nothing_is_known_to_be_free() -> None:
    lattice, config = Lattice(), Config()
    cloud = sphere()
    boxes = layers._Boxes(lattice, config)
    means = layers._averaged(Cloud(cloud.points), np.zeros(3), 0, lattice)
    blind = boxes.of(means, (0, 0, 0))
    assert not blind.directions.any()
    assert blind.visibility.min() == 0
    assert blind.visibility.max() == 1
    counts = 32 * blind.weights**2  # see `weights_of_means`
    np.testing.assert_allclose(counts, counts.round(), rtol=1e-5)
    # with them, what lies before the surface is, and nothing behind it
    seeing = boxes.of(layers._averaged(cloud, np.zeros(3), 0, lattice), (0, 0, 0))
    free = torch.nonzero(seeing.visibility < 0)
    middles = ((free + 0.5) / lattice.SUB - lattice.halo_voxels) * lattice.voxel_m
    assert len(middles) > 5000
    assert torch.linalg.norm(middles - 0.8, dim=1).min() > 0.4
    np.testing.assert_array_equal(seeing.points, blind.points)


def test_colours(small: Config) -> None:
    cloud = noise()
    tones = reconstruct_cloud(cloud, small).colours
    assert tones is not None
    assert {tuple(tone) for tone in tones.tolist()} == {OBSERVED_RGB, PREDICTED_RGB}
    colours = np.where(cloud.points[:, :1] > 0, [250, 3, 4], [7, 8, 250]).astype(np.uint8)
    tinted = reconstruct_cloud(replace(cloud, colours=colours), small)
    nearest = cKDTree(cloud.points).query(tinted.vertices)[1]
    np.testing.assert_array_equal(tinted.colours, colours[nearest])


def test_fewer_triangles_keep_place_and_tones() -> None:
    cloud = sphere()
    assert cloud.normals is not None
    upper = cloud.points[:, 2] > 0.6
    cloud = Cloud(cloud.points[upper], None, cloud.normals[upper])
    whole = reconstruct_cloud(cloud, Config())
    fewer = reconstruct_cloud(cloud, Config(), simplify_to=2000)
    assert 1500 < len(fewer.triangles) <= 2000 < len(whole.triangles)
    assert whole.colours is not None
    assert fewer.colours is not None
    observed = (fewer.colours == OBSERVED_RGB).all(axis=1)
    assert (observed ^ (fewer.colours == PREDICTED_RGB).all(axis=1)).all()
    assert fewer.vertices[observed, 2].min() > 0.45
    distance, nearest = cKDTree(whole.vertices).query(fewer.vertices)
    assert np.quantile(distance, 0.99) < 0.03
    assert (fewer.colours == whole.colours[nearest]).all(axis=1).mean() > 0.95


@pytest.mark.parametrize(
    ("scale", "n", "sentence"),
    [
        (0.1, 2000, r"expected metres, and a longest side of 0\.5 to 10000, got 0\.07997"),
        (1e5, 2000, r"expected metres, and a longest side of 0\.5 to 10000, got 7\.997e\+04"),
        (5e3, 60_000, r"expected at most 10000 crops of 1\.6 m, got \d+; is its unit another"),
        (1e3, 2000, r"expected at least 8 points in a crop of 1\.6 m, got 2000 in \d+; is its"),
    ],
)
def test_clouds_of_another_unit_are_refused(
    scale: float, n: int, sentence: str, small: Config
) -> None:
    cloud = sphere(n)
    with pytest.raises(ValueError, match=sentence):
        reconstruct_cloud(Cloud(cloud.points * scale, None, cloud.normals), small)


def test_weights_that_the_map_cannot_use_are_refused(tmp_path: Path) -> None:
    zoo.save(tmp_path / "planes.pt", zoo.build("room_3plane"), {})
    config = with_values(Config(), {"model.weights": str(tmp_path / "planes.pt")})
    with pytest.raises(ValueError, match="expected a fully convolutional network"):
        reconstruct_cloud(sphere(), config)
