"""The node over real DDS: scans in, maps out, and nothing that arrives can hurt it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
import trimesh
from driver import (
    BEST_EFFORT,
    LATCHED,
    SECOND,
    START_NS,
    WALL_M,
    Driver,
    Viewer,
    camera_info,
    cloud,
    depth_image,
    drops,
    header,
    offline,
    pose,
    tiny_network,
    transform,
    wall_scan,
)
from geometry_msgs.msg import Point
from nav_msgs.msg import OccupancyGrid
from rclpy.parameter import Parameter
from rclpy.qos import ReliabilityPolicy
from sensor_msgs.msg import Image, PointCloud2
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker

from convonet_ros.mapping.occupancy import OBSERVED_FREE, UNKNOWN
from convonet_ros.msg import MeshUpdate, OccupancyVolume
from convonet_ros.offline.files import read_grid
from convonet_ros.ros.grid_rules import broken_rules
from convonet_ros.ros.node import ReconstructNode
from convonet_ros.srv import QueryOccupancy


def triangles_of(points: np.ndarray) -> list[tuple[float, ...]]:
    return sorted(map(tuple, points.reshape(-1, 9).astype(np.float64).tolist()))


# ---- scans in, maps out -------------------------------------------------------------------------


def test_scans_become_the_map_that_they_become_offline(
    driver: Driver, node: ReconstructNode
) -> None:
    viewer = Viewer(driver)
    grids = driver.listen("/convonet/occupancy_grid", OccupancyGrid, LATCHED)
    percents = driver.listen("/convonet/occupancy_probability", OccupancyGrid, LATCHED)
    volumes = driver.listen("/convonet/occupancy_volume", OccupancyVolume, LATCHED)
    clouds = driver.listen("/convonet/occupancy_cloud", PointCloud2, LATCHED)
    updates = driver.listen("/convonet/mesh_update", MeshUpdate)
    driver.wait(lambda: grids and percents and volumes and clouds, "the empty map")
    assert broken_rules(grids[-1]) == []
    for i in range(5):
        driver.see(START_NS + i * SECOND // 10, i)
        driver.status(lambda s, i=i: s.scans_integrated == i + 1, "the scan in the map")
    status = driver.settled(5)
    assert (status.scans_received, status.scans_dropped, drops(status)) == (5, 0, {})
    assert status.crops_inferred > 0
    assert (status.header.frame_id, status.device) == ("odom", "cpu")
    last_ns = START_NS + 4 * SECOND // 10
    assert status.header.stamp == header(last_ns, "").stamp

    truth = offline([wall_scan(START_NS + i * SECOND // 10, i) for i in range(5)])
    expected = np.concatenate(
        [m.vertices[m.triangles].reshape(-1, 3) for m in truth.everything().meshes.values()]
    )
    assert len(expected) > 300
    driver.wait(lambda: len(viewer.points()) == len(expected), "all markers")
    assert triangles_of(viewer.points()) == triangles_of(expected)
    assert np.abs(viewer.points()[:, 0] - WALL_M).max() < 0.5
    crops: dict[tuple[int, ...], int] = {}
    for update in updates:
        if update.clear:
            crops.clear()
        for x, y, z in np.array(update.erased).reshape(-1, 3).tolist():
            crops.pop((x, y, z), None)
        crops |= {tuple(c.index.tolist()): len(c.triangles) for c in update.crops}
    assert crops == {crop: mesh.triangles.size for crop, mesh in truth.everything().meshes.items()}

    volume = truth.occupancy()
    driver.wait(lambda: volumes[-1].header.stamp == status.header.stamp, "the last volume")
    size = (volumes[-1].size_x, volumes[-1].size_y, volumes[-1].size_z)
    np.testing.assert_array_equal(np.array(volumes[-1].classes).reshape(size), volume.classes)
    levels = np.nan_to_num(volume.probability) * 255
    assert np.abs(np.array(volumes[-1].probability).reshape(size) - levels).max() <= 0.501

    flat = volume.project(node.config.grid.min_z_m, node.config.grid.max_z_m)
    assert broken_rules(grids[-1], before=grids[0]) == []
    np.testing.assert_array_equal(
        np.array(grids[-1].data).reshape(flat.ternary.shape), flat.ternary
    )
    np.testing.assert_array_equal(
        np.array(percents[-1].data).reshape(flat.ternary.shape), flat.probability
    )
    assert clouds[-1].width == np.isin(volume.classes, [2, 4]).sum() > 0
    (publisher,) = driver.node.get_publishers_info_by_topic("/convonet/occupancy_grid")
    assert broken_rules(grids[-1], publisher.qos_profile) == []
    assert driver.statuses[-1].latency_ms > 0


def test_point_clouds_become_the_same_map_as_depth_images(
    driver: Driver, node: ReconstructNode
) -> None:
    scan = wall_scan(START_NS, 0)
    holes = np.concatenate([scan.points, np.full((10, 3), np.nan, np.float32)])
    driver.tf.publish(transform(START_NS, "odom", "camera", pose()))
    driver.clouds.publish(cloud(START_NS, holes))
    driver.settled(1)
    volumes = driver.listen("/convonet/occupancy_volume", OccupancyVolume, LATCHED)
    driver.wait(lambda: volumes, "the volume")
    truth = offline([scan]).occupancy()
    np.testing.assert_array_equal(
        np.array(volumes[-1].classes).reshape(truth.classes.shape), truth.classes
    )


def test_who_comes_late_gets_everything(driver: Driver, node: ReconstructNode) -> None:
    for i in range(2):
        driver.see(START_NS + i * SECOND, 4 * i)
    driver.settled(2)
    expected = triangles_of(
        np.concatenate(
            [
                mesh.vertices[mesh.triangles].reshape(-1, 3)
                for mesh in offline([wall_scan(START_NS + i * SECOND, 4 * i) for i in range(2)])
                .everything()
                .meshes.values()
            ]
        )
    )
    for _ in range(2):  # the second one too, though the first still listens
        late = Viewer(driver)
        grids = driver.listen("/convonet/occupancy_grid", OccupancyGrid, LATCHED)
        volatile = driver.listen("/convonet/occupancy_grid", OccupancyGrid, 1)
        driver.wait(lambda: late.messages and grids and volatile, "mesh and grids")  # noqa: B023
        assert late.messages[-1].markers[0].action == Marker.DELETEALL
        assert triangles_of(late.points()) == expected
        assert 100 in grids[-1].data
        assert 100 in volatile[-1].data
    for _ in range(3):  # one who leaves and comes back at once, as a display that is edited
        driver.node.destroy_subscription(late.subscription)
        late = Viewer(driver)
        driver.wait(lambda: late.messages, "the mesh again")  # noqa: B023
        assert triangles_of(late.points()) == expected


def test_a_scan_waits_for_its_transform_and_its_intrinsics(
    driver: Driver, settings: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    settings["node.tf_timeout_s"] = 20.0
    request.getfixturevalue("node")
    driver.images.publish(depth_image(START_NS))
    driver.status(lambda s: s.scans_received == 1, "the image")
    driver.tf.publish(transform(START_NS - SECOND, "odom", "camera", pose(0)))
    driver.infos.publish(camera_info(START_NS))
    driver.tf.publish(transform(START_NS + SECOND, "odom", "camera", pose(2)))
    status = driver.settled(1)
    assert status.scans_dropped == 0
    # half-way between the two poses
    volumes = driver.listen("/convonet/occupancy_volume", OccupancyVolume, LATCHED)
    driver.wait(lambda: volumes, "the volume")
    truth = offline([wall_scan(START_NS, 1)]).occupancy()
    np.testing.assert_array_equal(
        np.array(volumes[-1].classes).reshape(truth.classes.shape), truth.classes
    )


def test_nothing_is_built_for_who_does_not_listen(driver: Driver, node: ReconstructNode) -> None:
    built: list[str] = []

    def counting(name: str, build: Any) -> Any:
        return lambda value: built.append(name) or build(value)

    for topic in (*node._outputs._mesh_topics, *node._outputs._grid_topics):
        topic.build = counting(topic.publisher.topic.split("/")[-1], topic.build)
    driver.see(START_NS)
    driver.settled(1)
    assert built == []
    grids = driver.listen("/convonet/occupancy_grid", OccupancyGrid, LATCHED)
    driver.wait(lambda: grids, "the grid")
    driver.see(START_NS + SECOND, 20)
    driver.settled(2)
    driver.wait(lambda: len(grids) > 1, "the next grid")
    assert set(built) == {"occupancy_grid"}


def test_a_silent_topic_is_named_with_what_there_is_instead(
    driver: Driver, node: ReconstructNode
) -> None:
    other = driver.node.create_publisher(Image, "/other/depth", 10)
    driver.wait(lambda: node.count_publishers(other.topic_name), "the other topic")
    for topic in node._inputs.last_arrival_s:
        node._inputs.last_arrival_s[topic] -= 100.0
    status = driver.status(lambda s: "no messages" in s.last_error, "the complaint")
    assert "no messages on /camera_0/depth/image for 10" in status.last_error
    assert "but nothing arrives" in status.last_error
    driver.node.destroy_publisher(driver.images)
    driver.wait(lambda: not node.count_publishers("/camera_0/depth/image"), "its end")
    node._silence._said_s.clear()
    node._tally._written.clear()
    status = driver.status(lambda s: "/other/depth" in s.last_error, "the complaint")
    assert "/convonet/" not in status.last_error  # not what the node itself publishes


def test_a_publisher_that_does_not_match_is_named(driver: Driver, settings: dict[str, Any]) -> None:
    topic = "/camera_0/depth/image"
    settings[f"qos_overrides.{topic}.subscription.reliability"] = "reliable"
    driver.node.destroy_publisher(driver.images)
    driver.node.create_publisher(Image, topic, BEST_EFFORT)
    rclpy.init()
    node = ReconstructNode(tiny_network(), [Parameter(n, value=v) for n, v in settings.items()])
    try:
        driver.wait(lambda: node.count_publishers(topic) == 1, "the publisher")
        node._inputs.last_arrival_s[topic] -= 100.0
        node._silence.check()
        assert f"{topic} for 10" in node._tally.last_error
        assert "QoS does not fit" in node._tally.last_error
        # and what was said of one topic holds for no other
        (other,) = node.get_subscriptions_info_by_topic("/pointcloud")
        assert other.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT
    finally:
        node.close()
        rclpy.shutdown()


def test_a_remapped_topic_is_named_as_it_is(settings: dict[str, Any]) -> None:
    rclpy.init(args=["--ros-args", "-r", "camera_0/depth/image:=/wrong/topic"])
    node = ReconstructNode(tiny_network(), [Parameter(n, value=v) for n, v in settings.items()])
    try:
        node._inputs.last_arrival_s["/wrong/topic"] -= 100.0
        node._inputs.last_arrival_s["/camera_0/depth/camera_info"] -= 100.0
        node._silence.check()
        assert node._tally.last_error.startswith("no messages on /wrong/topic for 100 s")
    finally:
        node.close()
        rclpy.shutdown()


# ---- services -----------------------------------------------------------------------------------


def test_query_reset_and_save(driver: Driver, node: ReconstructNode) -> None:
    saved = Path(node.config.node.save_dir)
    empty = driver.call("save_map", Trigger)
    assert not empty.success
    assert "empty" in empty.message
    assert not saved.exists()

    driver.see(START_NS)
    driver.settled(1)
    points = np.array([[0.7, 0.0, 1.0], [1.55, 0.0, 1.0], [99.0, 0.0, 0.0], [np.nan, 0.0, 0.0]])
    request = QueryOccupancy.Request(points=[Point(x=x, y=y, z=z) for x, y, z in points.tolist()])
    answer = driver.call("query_occupancy", QueryOccupancy, request)
    probability, classes = offline([wall_scan(START_NS, 0)]).query(points)
    assert (answer.success, answer.message) == (True, "")
    np.testing.assert_array_equal(np.array(answer.probability, np.float32), probability)
    assert list(answer.classes) == classes.tolist()
    assert answer.classes[0] == OBSERVED_FREE
    assert list(answer.classes[2:]) == [UNKNOWN, UNKNOWN]
    nothing = driver.call("query_occupancy", QueryOccupancy)
    assert nothing.success
    assert len(nothing.probability) == len(nothing.classes) == 0

    done = driver.call("save_map", Trigger)
    assert done.success, done.message
    assert str(saved) in done.message
    assert sorted(p.name for p in saved.iterdir()) == [
        "mesh.ply",
        "occupancy.png",
        "occupancy.yaml",
    ]
    mesh = trimesh.load(saved / "mesh.ply", process=False)
    assert np.abs(mesh.vertices[:, 0] - WALL_M).max() < 0.5
    assert (read_grid(saved / "occupancy.yaml")[0] == 100).any()

    viewer = Viewer(driver)
    grids = driver.listen("/convonet/occupancy_grid", OccupancyGrid, LATCHED)
    driver.wait(lambda: viewer.shown and grids, "mesh and grid")
    assert driver.call("reset", Trigger).success
    driver.wait(lambda: not viewer.shown and set(grids[-1].data) == {-1}, "the empty map")
    assert broken_rules(grids[-1]) == []
    driver.see(START_NS + SECOND)
    driver.wait(lambda: viewer.shown and 100 in grids[-1].data, "the map after the reset")


def test_save_says_why_it_cannot(
    driver: Driver, settings: dict[str, Any], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    (tmp_path / "file").write_text("in the way")
    settings["node.save_dir"] = str(tmp_path / "file" / "map")
    request.getfixturevalue("node")
    driver.see(START_NS)
    driver.settled(1)
    answer = driver.call("save_map", Trigger)
    assert not answer.success
    assert "file" in answer.message
