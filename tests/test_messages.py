"""The map's messages: the same bytes as rclpy's, and what RViz and Nav2 accept."""

from array import array
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Point32, Pose, Quaternion, Vector3
from nav_msgs.msg import OccupancyGrid
from rclpy.serialization import deserialize_message, serialize_message
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from convonet_ros.mapping import occupancy
from convonet_ros.mapping.mapper import MapUpdate
from convonet_ros.mapping.meshing import Mesh, no_mesh
from convonet_ros.mapping.occupancy import OccupancyVolume
from convonet_ros.msg import CropMesh, MeshUpdate
from convonet_ros.msg import OccupancyVolume as OccupancyVolumeMessage
from convonet_ros.ros import cdr, messages
from convonet_ros.sensors import points_from_cloud
from convonet_ros.srv import QueryOccupancy

STAMP_NS = 1_700_000_000_123_456_789


def random_mesh(rng: np.random.Generator, vertices: int, triangles: int) -> Mesh:
    return Mesh(
        rng.normal(size=(vertices, 3)).astype(np.float32),
        rng.integers(0, max(vertices, 1), (triangles, 3)).astype(np.int32),
        rng.random(vertices) < 0.5,
    )


def markers_of(update: MapUpdate, frame_id: str = "odom") -> list[Any]:
    return deserialize_message(messages.marker_array(update, frame_id), MarkerArray).markers


def by_rclpy(markers: list[Any]) -> bytes:
    """The same markers built from Python objects, with every field set by name."""
    rebuilt = [
        Marker(
            header=Header(stamp=Time(sec=m.header.stamp.sec, nanosec=m.header.stamp.nanosec),
                          frame_id=m.header.frame_id),
            ns="mesh", id=m.id, type=Marker.TRIANGLE_LIST, action=m.action,
            pose=Pose(orientation=Quaternion(w=1.0)), scale=Vector3(x=1.0, y=1.0, z=1.0),
            color=ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0), frame_locked=True,
            points=[Point(x=p.x, y=p.y, z=p.z) for p in m.points],
            colors=[ColorRGBA(r=c.r, g=c.g, b=c.b, a=c.a) for c in m.colors],
        )
        for m in markers
    ]  # fmt: skip
    return serialize_message(MarkerArray(markers=rebuilt))


def same_bytes(write: Callable[[], bytes], expected: bytes) -> bool:
    """Whether what is written is what was expected, but for the padding between numbers.

    rclpy leaves there what the memory held before.
    """
    content = np.frombuffer(write(), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cdr, "_PADDING", b"\xff")
        padded = np.frombuffer(write(), np.uint8)
    matters = content == padded
    assert matters.mean() > 0.8
    return len(content) == len(expected) and bool(
        (content == np.frombuffer(expected, np.uint8))[matters].all()
    )


@pytest.mark.parametrize("frame_id", ["", "m", "map", "odom", "robot1/odom", "größe"])
@pytest.mark.parametrize("triangles", [0, 1, 2, 7])
def test_markers_are_the_bytes_of_rclpy(frame_id: str, triangles: int) -> None:
    # Every length of the frame's name shifts what follows against its alignment.
    rng = np.random.default_rng(triangles)
    for crops in range(4):
        meshes = {(x, -x, 3): random_mesh(rng, 5 * triangles, triangles) for x in range(crops)}
        for cleared in (False, True):
            update = MapUpdate(STAMP_NS, meshes, ((9, 9, 9),), cleared)
            content = messages.marker_array(update, frame_id)
            markers = deserialize_message(content, MarkerArray).markers
            assert same_bytes(partial(messages.marker_array, update, frame_id), by_rclpy(markers))
            assert all(m.header.frame_id == frame_id for m in markers)
            assert len(markers) == (1 + crops * (triangles > 0) if cleared else 1 + crops)


def test_markers_hold_the_triangles_of_the_mesh() -> None:
    mesh = random_mesh(np.random.default_rng(1), 50, 80)
    (marker,) = markers_of(MapUpdate(STAMP_NS, {(1, 2, -3): mesh}))
    points = np.array([(p.x, p.y, p.z) for p in marker.points])
    np.testing.assert_array_equal(points, mesh.vertices[mesh.triangles].reshape(-1, 3))
    assert (marker.header.stamp.sec, marker.header.stamp.nanosec) == divmod(STAMP_NS, 10**9)
    assert marker.lifetime.sec == marker.lifetime.nanosec == 0


def test_rviz_takes_every_marker() -> None:
    rng = np.random.default_rng(2)
    mesh = random_mesh(rng, 30, 40)
    mesh.vertices[3], mesh.vertices[7] = np.nan, np.inf
    all_bad = random_mesh(rng, 3, 1)
    all_bad.vertices[:] = np.nan
    update = MapUpdate(
        STAMP_NS, {(0, 0, 0): mesh, (1, 0, 0): no_mesh(), (2, 0, 0): all_bad}, ((3, 0, 0),)
    )
    markers = markers_of(update)
    assert len({(m.ns, m.id) for m in markers}) == len(markers) == 4
    for marker in markers:
        shown = marker.action == Marker.ADD
        assert marker.action in (Marker.ADD, Marker.DELETE)
        assert shown == (marker.id == messages.marker_id((0, 0, 0)))
        assert (len(marker.points) > 0) == shown
        assert len(marker.points) % 3 == 0
        assert len(marker.colors) == len(marker.points)
        points = np.array([(p.x, p.y, p.z) for p in marker.points])
        colours = np.array([(c.r, c.g, c.b, c.a) for c in marker.colors])
        assert np.isfinite(points).all()
        assert ((colours >= 0) & (colours <= 1)).all()
        assert min(marker.scale.x, marker.scale.y, marker.scale.z) > 0


def test_cleared_comes_first_and_alone_before_the_surfaces() -> None:
    mesh = random_mesh(np.random.default_rng(3), 9, 4)
    update = MapUpdate(STAMP_NS, {(0, 0, 0): mesh, (1, 0, 0): no_mesh()}, ((5, 5, 5),), True)
    actions = [m.action for m in markers_of(update)]
    assert actions == [Marker.DELETEALL, Marker.ADD]
    assert [m.action for m in markers_of(MapUpdate(0, {}, (), True))] == [Marker.DELETEALL]
    assert markers_of(MapUpdate(0, {})) == []


def test_observed_and_predicted_differ_in_colour() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    triangle = np.array([[0, 1, 2]], np.int32)
    for height in np.linspace(-3, 6, 19):
        lifted = corners + np.array([0, 0, height], np.float32)
        both = {
            (0, 0, 0): Mesh(lifted, triangle, np.ones(3, bool)),
            (1, 0, 0): Mesh(lifted, triangle, np.zeros(3, bool)),
        }
        seen, guessed = (
            np.array([m.colors[0].r, m.colors[0].g, m.colors[0].b])
            for m in markers_of(MapUpdate(STAMP_NS, both))
        )
        assert np.abs(seen - guessed).max() > 0.15
    # and a face turned to the light is brighter than its back
    up, down = (
        markers_of(MapUpdate(0, {(0, 0, 0): Mesh(corners, t, np.ones(3, bool))}))[0].colors[0]
        for t in (triangle, triangle[:, ::-1].copy())
    )
    assert up.r > 1.5 * down.r


def test_a_crop_keeps_its_id_and_shares_it_with_none_near() -> None:
    ids = {
        messages.marker_id((x, y, z))
        for x in range(-40, 40)
        for y in range(-40, 40)
        for z in range(-20, 20)
    }
    assert len(ids) == 80 * 80 * 40
    assert all(-(2**31) <= i < 2**31 for i in ids)
    assert messages.marker_id((1023, -1024, 511)) != messages.marker_id((-1024, 1023, -512))


@pytest.mark.parametrize("frame_id", ["", "m", "map", "odom"])
@pytest.mark.parametrize("triangles", [0, 1, 3])
def test_mesh_update_is_the_bytes_of_rclpy(frame_id: str, triangles: int) -> None:
    rng = np.random.default_rng(triangles)
    meshes = {(x, -x, 3): random_mesh(rng, 2 * triangles + 1, triangles) for x in range(3)}
    for cleared in (False, True):
        update = MapUpdate(STAMP_NS, {**meshes, (7, 7, 7): no_mesh()}, ((9, 9, 9),), cleared)
        crops = [
            CropMesh(
                index=list(crop),
                vertices=[Point32(x=float(x), y=float(y), z=float(z)) for x, y, z in mesh.vertices],
                triangles=mesh.triangles.reshape(-1).tolist(),
                observed=mesh.observed.astype(int).tolist(),
            )
            for crop, mesh in meshes.items()
            if triangles
        ]
        erased = [] if triangles else [n for crop in meshes for n in crop]
        expected = MeshUpdate(
            header=messages.header(frame_id, STAMP_NS),
            clear=cleared,
            crops=crops,
            erased=[] if cleared else [9, 9, 9, *erased, 7, 7, 7],
            crop_m=1.6,
        )
        write = partial(messages.mesh_update, update, frame_id, 1.6)
        assert same_bytes(write, serialize_message(expected))


# ---- occupancy ----------------------------------------------------------------------------------


def random_volume(rng: np.random.Generator) -> OccupancyVolume:
    classes = rng.integers(0, 5, (12, 9, 6)).astype(np.uint8)
    probability = rng.random(classes.shape).astype(np.float32)
    probability[classes == occupancy.UNKNOWN] = np.nan
    origin = np.array([-7, 3, -2]) * 0.05 * 32
    return OccupancyVolume(origin, 0.05, probability, classes, STAMP_NS)


def ternary_message(volume: OccupancyVolume) -> OccupancyGrid:
    grid = volume.project(-10.0, 10.0)
    return messages.occupancy_grid(grid, "odom", grid.ternary)


def nav2_refuses(grid: OccupancyGrid) -> list[str]:
    """The rules of nav2's StaticLayer (../shared/contracts.md) that a grid breaks."""
    q = grid.info.origin.orientation
    size = (grid.info.width, grid.info.height)
    p = grid.info.origin.position
    rules = {
        "frame_id": not grid.header.frame_id,
        "size": min(size) <= 0 or max(size) > 32767,
        "data length": len(grid.data) != size[0] * size[1],
        "resolution": not (np.isfinite(grid.info.resolution) and grid.info.resolution >= 1e-6),
        "quaternion": abs(q.x**2 + q.y**2 + q.z**2 + q.w**2 - 1) > 1e-4,
        "values": not set(grid.data) <= {-1, 0, 100},
        "origin": any(
            abs(v / grid.info.resolution - round(v / grid.info.resolution)) > 1e-3
            for v in (p.x, p.y)
        ),
    }
    return [name for name, broken in rules.items() if broken]


def test_nav2_takes_the_ternary_grid() -> None:
    volume = random_volume(np.random.default_rng(5))
    message = ternary_message(volume)
    assert nav2_refuses(message) == []
    assert isinstance(message.data, array)
    grid = volume.project(-10.0, 10.0)
    assert (message.info.width, message.info.height) == volume.classes.shape[:2]
    np.testing.assert_array_equal(
        np.array(message.data).reshape(message.info.height, message.info.width), grid.ternary
    )
    # a cell is where the map has it: x along the rows, y across them
    x, y = np.argwhere(grid.ternary.T == 100)[0]
    assert message.data[y * message.info.width + x] == 100


def test_nav2_takes_the_grid_of_an_empty_map() -> None:
    shape = (20, 20, 10)
    empty = OccupancyVolume(
        np.full(3, -0.5), 0.05, np.full(shape, np.nan, np.float32), np.zeros(shape, np.uint8), 0
    )
    message = ternary_message(empty)
    assert nav2_refuses(message) == []
    assert set(message.data) == {-1}


def test_probability_grid_holds_percent() -> None:
    grid = random_volume(np.random.default_rng(6)).project(-10.0, 10.0)
    message = messages.occupancy_grid(grid, "odom", grid.probability)
    values = np.array(message.data)
    assert values.min() >= -1
    assert values.max() <= 100
    assert len(np.unique(values)) > 10
    assert serialize_message(message)


def test_cloud_holds_the_occupied_cells() -> None:
    volume = random_volume(np.random.default_rng(7))
    cloud = messages.occupancy_cloud(volume, "odom")
    occupied = np.isin(volume.classes, [occupancy.OBSERVED_OCCUPIED, occupancy.PREDICTED_OCCUPIED])
    expected = volume.origin_m + (np.argwhere(occupied) + 0.5) * volume.resolution_m
    np.testing.assert_allclose(points_from_cloud(cloud), expected, atol=1e-6)
    assert cloud.width == occupied.sum()
    assert len(cloud.data) == cloud.row_step == cloud.width * cloud.point_step
    rows = np.frombuffer(cloud.data, np.uint8).reshape(-1, cloud.point_step)
    np.testing.assert_array_equal(rows[:, 16], volume.classes[occupied])
    np.testing.assert_array_equal(
        rows[:, 12:16].copy().view("<f4")[:, 0], volume.probability[occupied]
    )
    assert serialize_message(cloud)


def test_cloud_of_an_empty_map_is_a_valid_cloud() -> None:
    volume = random_volume(np.random.default_rng(8))
    volume.classes[:] = occupancy.UNKNOWN
    cloud = messages.occupancy_cloud(volume, "odom")
    assert (cloud.width, cloud.height, len(cloud.data)) == (0, 1, 0)


def test_volume_message_keeps_order_and_classes() -> None:
    volume = random_volume(np.random.default_rng(9))
    message = deserialize_message(
        serialize_message(messages.occupancy_volume(volume, "odom")), OccupancyVolumeMessage
    )
    size = (message.size_x, message.size_y, message.size_z)
    assert size == volume.classes.shape
    np.testing.assert_array_equal(np.array(message.classes).reshape(size), volume.classes)
    levels = np.array(message.probability).reshape(size)
    known = volume.classes != occupancy.UNKNOWN
    assert np.abs(levels[known] / 255 - volume.probability[known]).max() <= 0.5 / 255 + 1e-6


@pytest.mark.parametrize("kind", [OccupancyVolumeMessage, QueryOccupancy.Response])
def test_class_constants_are_those_of_the_map(kind: Any) -> None:
    names = ["UNKNOWN"]
    names += [f"{who}_{what}" for who in ("OBSERVED", "PREDICTED") for what in ("FREE", "OCCUPIED")]
    for name in names:
        assert getattr(kind, name) == getattr(occupancy, name)
