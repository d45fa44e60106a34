"""What the recorder makes of messages: markers read like RViz, grids judged like Nav2."""

from array import array
from typing import Any

import numpy as np
import pytest
import trimesh
from nav_msgs.msg import OccupancyGrid
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from visualization_msgs.msg import Marker, MarkerArray

from convonet_ros.datasets.world.rooms import make_room
from convonet_ros.mapping.mapper import MapUpdate
from convonet_ros.mapping.meshing import Mesh, no_mesh
from convonet_ros.mapping.occupancy import OccupancyGrid2D
from convonet_ros.offline.agreement import grid_agreement, mesh_agreement, seen_surface
from convonet_ros.offline.files import merged
from convonet_ros.ros import messages
from convonet_ros.ros.grid_rules import broken_rules
from convonet_ros.ros.markers import MarkerScene, read_marker_array

# ---- markers -----------------------------------------------------------------------------------


def sphere(x: float, observed: bool = True) -> Mesh:
    ball = trimesh.creation.icosphere(2)
    vertices = (ball.vertices + np.array([x, 0, 0])).astype(np.float32)
    return Mesh(vertices, ball.faces.astype(np.int32), np.full(len(vertices), observed))


def sent(meshes: dict[Any, Mesh], left: tuple[Any, ...] = (), cleared: bool = False) -> bytes:
    update = MapUpdate(1_500_000_000_123, meshes, left=left, cleared=cleared)
    return messages.marker_array(update, "odom")


def test_bytes_are_read_as_rclpy_reads_them() -> None:
    content = sent({(0, 0, 0): sphere(0.0), (1, 0, -2): sphere(1.6)}, left=((5, 5, 5),))
    expected = deserialize_message(content, MarkerArray).markers
    found = read_marker_array(content)
    assert len(found) == len(expected) == 3
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.identity == theirs.id
        assert mine.action == theirs.action
        assert mine.kind == theirs.type
        assert mine.namespace == theirs.ns
        assert mine.frame_id == theirs.header.frame_id == "odom"
        assert mine.stamp_ns == 1_500_000_000_123
        points = np.array([(p.x, p.y, p.z) for p in theirs.points]).reshape(-1, 3)
        np.testing.assert_array_equal(mine.points, points)
        colours = np.array([(c.r, c.g, c.b, c.a) for c in theirs.colors]).reshape(-1, 4)
        np.testing.assert_array_equal(mine.colours, colours.astype(np.float32))


def test_other_writers_markers_are_read_too() -> None:
    marker = Marker(ns="somebody", id=-7, type=Marker.CUBE, action=Marker.DELETE, text="hi there")
    marker.mesh_file.filename, marker.mesh_file.data = "a.stl", array("B", b"abc")
    marker.texture.format, marker.texture.data = "png", array("B", b"12345")
    (found,) = read_marker_array(bytes(serialize_message(MarkerArray(markers=[marker]))))
    assert (found.namespace, found.identity, found.action) == ("somebody", -7, Marker.DELETE)


def test_broken_bytes_are_refused() -> None:
    content = sent({(0, 0, 0): sphere(0.0)})
    for broken in (b"", content[:3], content[:40], content[:-9], b"\x00\x02" + content[2:]):
        with pytest.raises(ValueError, match="message: expected"):
            read_marker_array(broken)
    with pytest.raises(ValueError, match="message: expected"):
        read_marker_array(content + bytes(8))


def test_a_scene_is_what_rviz_would_show() -> None:
    scene = MarkerScene()
    a, b = sphere(0.0), sphere(5.0, observed=False)
    scene.take(read_marker_array(sent({(0, 0, 0): a, (3, 0, 0): b})))
    whole = merged(scene.meshes())
    assert len(whole.vertices) == len(a.vertices) + len(b.vertices)
    assert trimesh.Trimesh(whole.vertices, whole.triangles, process=False).is_watertight
    np.testing.assert_array_equal(whole.observed, whole.vertices[:, 0] < 2.0)
    scene.take(read_marker_array(sent({(0, 0, 0): sphere(1.0)})))  # replaced
    assert merged(scene.meshes()).vertices[:, 0].min() == 0.0
    scene.take(read_marker_array(sent({(0, 0, 0): no_mesh()})))  # erased
    assert merged(scene.meshes()).vertices[:, 0].min() == 4.0
    scene.take(read_marker_array(sent({}, left=((3, 0, 0),))))  # left the window
    assert scene.meshes() == []
    scene.take(read_marker_array(sent({(0, 0, 0): a, (1, 0, 0): b})))
    scene.take(read_marker_array(sent({(2, 0, 0): a}, cleared=True)))
    assert len(scene.meshes()) == 1


# ---- Nav2's rules ------------------------------------------------------------------------------


def grid_message(ternary: np.ndarray | None = None) -> OccupancyGrid:
    if ternary is None:
        ternary = np.array([[0, 100, -1], [0, 0, 0]], np.int8)
    grid = OccupancyGrid2D(np.array([-4.0, 81.6]), 0.05, ternary, ternary, 1)
    return messages.occupancy_grid(grid, "odom", ternary)


NAV2_MAP = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)


def test_our_grid_keeps_every_rule() -> None:
    assert broken_rules(grid_message(), NAV2_MAP, grid_message()) == []


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("header.frame_id", "", "frame_id is empty"),
        ("info.width", 0, "width is 0"),
        ("info.height", 32768, "height is 32768"),
        ("info.resolution", 0.0, "resolution is 0.0"),
        ("info.resolution", float("nan"), "resolution is nan"),
        ("info.origin.orientation.w", 0.9, "not a unit quaternion"),
        ("info.origin.position.x", 0.02, "origin.x is 0.02, not a multiple"),
        ("data", array("b", [0, 100, -1, 0, 0, 55]), "cells of [55]"),
        ("data", array("b", [0]), "1 cells, expected 3 x 2"),
    ],
)
def test_every_broken_rule_is_told(path: str, value: Any, sentence: str) -> None:
    grid = grid_message()
    *parents, name = path.split(".")
    part = grid
    for parent in parents:
        part = getattr(part, parent)
    setattr(part, name, value)
    assert sentence in "; ".join(broken_rules(grid, NAV2_MAP))


def test_rules_of_the_publisher() -> None:
    broken = broken_rules(
        grid_message(),
        QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT),
        grid_message(np.zeros((4, 4), np.int8)),
    )
    assert broken == [
        "the size changed between two grids",
        "the publisher is not reliable",
        "the publisher is not transient_local",
    ]


# ---- agreement with the true room --------------------------------------------------------------


def test_the_true_room_agrees_with_itself() -> None:
    room = make_room(3)
    vertices, triangles = room.mesh()
    truth = Mesh(vertices, triangles, np.ones(len(vertices), bool))
    seen = seen_surface(room, 12, 4.0)
    assert len(seen) > 10_000
    result = mesh_agreement(truth, room, seen)
    assert result["vertices_within_5cm"] == result["seen_surface_within_5cm"] == 1.0
    assert result["median_error_mm"] < 1.0
    shifted = Mesh(vertices + np.float32([0, 0, 0.5]), triangles, truth.observed)
    assert mesh_agreement(shifted, room, seen)["seen_surface_within_5cm"] < 0.8


def test_false_obstacles_are_counted() -> None:
    room = make_room(3, furnished=False)
    n, resolution = 120, 0.05
    origin = np.array([-3.0, -3.0])
    rows, columns = np.indices((n, n))
    x, y = origin[0] + (columns + 0.5) * resolution, origin[1] + (rows + 0.5) * resolution
    points = np.stack([x, y, np.full_like(x, 1.0)], axis=-1).reshape(-1, 3)
    cells = np.where(room.occupied(points).reshape(n, n), 100, 0).astype(np.int8)
    band = (0.1, 1.5)
    assert grid_agreement(cells, origin, resolution, room, band)["false_obstacle_cells"] == 0
    middle = np.floor((room.T_map_room[:2, 3] - origin) / resolution).astype(int)
    cells[middle[1], middle[0] : middle[0] + 3] = 100
    result = grid_agreement(cells, origin, resolution, room, band)
    assert result["false_obstacle_cells"] == 3
    assert result["occupied_cells"] == (cells == 100).sum()
