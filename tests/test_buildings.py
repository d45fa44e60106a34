"""Generated buildings and scenes: exact occupancy, their size, and a walk that is free."""

from __future__ import annotations

import numpy as np
import open3d as o3d
import pytest

from convonet_ros.datasets.world.buildings import along, make_building
from convonet_ros.datasets.world.rooms import Room
from convonet_ros.datasets.world.scenes import make_scene


@pytest.fixture(scope="module")
def buildings() -> list[Room]:
    return [make_building(seed) for seed in (1, 2, 5)]


def ray_hits(room: Room, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Where rays from above the walk end: (N, 3) points in the map frame and (N, 3) directions."""
    rng = np.random.default_rng(room.seed)
    points = along(room.route, 0.2)
    eyes = room.to_map(points[rng.integers(len(points), size=count)] + [0.0, 0.0, 1.2])
    directions = rng.normal(size=(count, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    vertices, triangles = room.mesh()
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(o3d.core.Tensor(vertices), o3d.core.Tensor(triangles.astype(np.uint32)))
    rays = np.concatenate([eyes, directions], axis=1).astype(np.float32)
    depth = scene.cast_rays(o3d.core.Tensor(rays), nthreads=1)["t_hit"].numpy()
    assert np.isfinite(depth).all()  # a building is closed
    return eyes + depth[:, None] * directions, directions


def test_rays_end_where_occupancy_begins(buildings: list[Room]) -> None:
    for room in buildings:
        ends, directions = ray_hits(room, 4000)
        assert (~room.occupied(ends - 0.004 * directions)).mean() > 0.995
        # A thin board or bar that is hit near its edge is left again within the step.
        assert room.occupied(ends + 0.002 * directions).mean() > 0.985


def test_the_walk_is_free_and_reaches_every_room(buildings: list[Room]) -> None:
    for room in buildings:
        body = along(room.route, 0.05)
        for height in (0.5, 1.2, 1.6):  # lower down there are steps, and cables on the floor
            points = body + np.array([0.0, 0.0, height])
            assert room.is_clear(room.to_map(points), 0.2).all()
        np.testing.assert_array_equal(room.route[0], room.route[-1])
        # Rooms are the hollows as high as a person and larger than a doorway.
        boxes = room.hollows.boxes
        sides = boxes[:, 1] - boxes[:, 0]
        rooms = boxes[(sides[:, 2] > 2.0) & (sides[:, :2].min(axis=1) > 1.0)]
        assert len(rooms) >= 2
        for low, high in rooms:
            inner = (body[:, :2] > low[:2] + 0.3) & (body[:, :2] < high[:2] - 0.3)
            assert (inner.all(axis=1) & (np.abs(body[:, 2] - low[2]) < 0.05)).any()


def test_buildings_are_as_large_as_asked() -> None:
    sizes = np.array([make_building(seed, storeys).size for seed, storeys in ((0, 1), (1, 2))])
    assert np.all((sizes[:, :2] >= 5.0) & (sizes[:, :2] <= [12.0, 10.0]))
    showcase = make_building(0, size=(15.7, 12.3, 4.5))
    assert np.all(showcase.size >= [15.7, 12.3, 4.5])
    low, high = showcase.hollows.boxes.min(axis=(0, 1)), showcase.hollows.boxes.max(axis=(0, 1))
    assert np.all(high - low >= showcase.size - 1e-9)
    assert showcase.route[:, 2].max() > 2.4  # it goes upstairs
    assert "stairs" in showcase.names()
    with pytest.raises(ValueError, match="size"):
        make_building(0, storeys=2, size=(2.0, 2.0, 4.0))


def test_scenes_are_of_all_kinds_and_always_the_same() -> None:
    scenes = [make_scene(seed) for seed in range(10)]
    storeys = [np.ptp(scene.route[:, 2]) > 2.0 for scene in scenes]
    single = [len(scene.route) == 1 for scene in scenes]
    assert 2 <= sum(single) <= 8
    assert sum(storeys) >= 1
    assert sum(not s and not u for s, u in zip(single, storeys, strict=True)) >= 1
    for seed in (1, 2, 4):
        for a, b in zip(scenes[seed].mesh(), make_scene(seed).mesh(), strict=True):
            np.testing.assert_array_equal(a, b)
    for scene in scenes:
        assert len(scene.mesh()[1]) < 1_000_000
        assert scene.free_positions(np.random.default_rng(0), 5, 0.2, (0.4, 1.5)).shape == (5, 3)
