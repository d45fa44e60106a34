"""Nothing that arrives over DDS can hurt the node: it is counted, named and survived."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from driver import (
    LATCHED,
    SECOND,
    START_NS,
    Driver,
    Viewer,
    camera_info,
    cloud,
    depth_image,
    drops,
    header,
    offline,
    pose,
    transform,
    wall_scan,
)

from convonet_ros.msg import OccupancyVolume
from convonet_ros.ros.node import ReconstructNode

WALL = wall_scan(START_NS, 0).points
FAR = np.eye(4)
FAR[0, 3] = 20_000.0
BAD = {
    "wrong encoding": ("bad_image", lambda d, t: d.images.publish(depth_image(t, encoding="rgb8"))),
    "short data": ("bad_image", lambda d, t: d.images.publish(depth_image(t, height=480))),
    "another size than camera_info": (
        "bad_image",
        lambda d, t: d.images.publish(depth_image(t, np.full((10, 10), 1.0))),
    ),
    "empty image": (
        "bad_image",
        lambda d, t: d.images.publish(depth_image(t, height=0, width=0, step=0, data=[])),
    ),
    "nothing measured": (
        "no_points",
        lambda d, t: d.images.publish(depth_image(t, np.zeros((48, 64)))),
    ),
    "0 points": ("no_points", lambda d, t: d.clouds.publish(cloud(t, np.empty((0, 3))))),
    "all NaN": ("no_points", lambda d, t: d.clouds.publish(cloud(t, np.full((9, 3), np.nan)))),
    "short cloud": ("bad_cloud", lambda d, t: d.clouds.publish(cloud(t, WALL, width=10**6))),
    "no fields": ("bad_cloud", lambda d, t: d.clouds.publish(cloud(t, WALL, fields=[]))),
    "no frame": ("no_frame", lambda d, t: d.clouds.publish(cloud(t, WALL, frame_id=""))),
    "unknown frame": (
        "no_transform",
        lambda d, t: d.clouds.publish(cloud(t, WALL, frame_id="radar")),
    ),
    "before the first transform": (
        "no_transform",
        lambda d, t: d.clouds.publish(cloud(SECOND, WALL)),
    ),
    "in the future": (
        "no_transform",
        lambda d, t: d.clouds.publish(cloud(t + 86400 * SECOND, WALL)),
    ),
    "too far away": (
        "bad_scan",
        lambda d, t: (
            d.tf.publish(transform(t, "odom", "far", FAR)),
            d.clouds.publish(cloud(t, WALL, frame_id="far")),
        ),
    ),
    "no stamp": ("bad_stamp", lambda d, t: d.clouds.publish(cloud(0, WALL))),
    "negative stamp": ("bad_stamp", lambda d, t: d.clouds.publish(cloud(-5 * SECOND, WALL))),
}


def test_bad_input_is_counted_named_and_survived(
    driver: Driver, settings: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    settings["node.tf_timeout_s"] = 0.2
    request.getfixturevalue("node")
    driver.see(START_NS)
    driver.settled(1)
    expected: dict[str, int] = {}
    for i, (name, (reason, send)) in enumerate(BAD.items(), start=1):
        stamp_ns = START_NS + i * SECOND
        driver.tf.publish(transform(stamp_ns, "odom", "camera", pose(0)))
        send(driver, stamp_ns)
        expected[reason] = expected.get(reason, 0) + 1
        status = driver.status(lambda s: s.scans_dropped == i, name)  # noqa: B023
        assert drops(status) == expected, name
        assert status.last_error, name
        assert "\n" not in status.last_error
        assert status.scans_received == status.scans_integrated + status.scans_dropped
        # a good one after it is taken as ever
        driver.see(stamp_ns + SECOND // 2)
        driver.settled(i + 1)
    error = next(s.last_error for s in driver.statuses if "radar" in s.last_error)
    assert "'radar' to 'odom' at stamp" in error


@pytest.mark.parametrize("fx", [0.0, float("nan"), float("inf"), -60.0])
def test_bad_intrinsics_are_named_and_replaced_by_good_ones(
    driver: Driver, node: ReconstructNode, fx: float
) -> None:
    driver.tf.publish(transform(START_NS, "odom", "camera", pose()))
    driver.infos.publish(camera_info(START_NS, fx))
    driver.images.publish(depth_image(START_NS))
    status = driver.status(lambda s: s.scans_dropped == 1, "the dropped image")
    (reason,) = drops(status)
    assert reason in ("bad_camera_info", "no_camera_info")  # whichever came first
    assert "camera_info" in status.last_error
    for i in range(1, 4):  # on a busy machine an image may overtake its camera_info
        driver.see(START_NS + i * SECOND)
        status = driver.status(
            lambda s: s.scans_integrated + s.scans_dropped == i + 1,  # noqa: B023
            "an image taken up",
        )
        if status.scans_integrated:
            return
    raise AssertionError(f"good intrinsics changed nothing: {status}")


def test_a_recording_that_loops_starts_the_map_again(driver: Driver, node: ReconstructNode) -> None:
    viewer = Viewer(driver)
    for i in range(3):
        driver.see(START_NS + (100 + i) * SECOND, 30)
        driver.settled(i + 1)
    driver.wait(lambda: viewer.shown, "the first round")
    assert viewer.points()[:, 1].min() > 0.3
    for i in range(3):
        driver.see(START_NS + i * SECOND, -30)
    status = driver.settled(6)
    assert status.scans_dropped == 0
    driver.wait(lambda: viewer.shown and viewer.points()[:, 1].max() < -0.3, "the second round")
    truth = offline([wall_scan(START_NS + i * SECOND, -30) for i in range(3)]).occupancy()
    volumes = driver.listen("/convonet/occupancy_volume", OccupancyVolume, LATCHED)
    driver.wait(lambda: volumes, "the volume")
    np.testing.assert_array_equal(
        np.array(volumes[-1].classes).reshape(truth.classes.shape), truth.classes
    )


def test_stamps_a_little_out_of_order_lose_nothing(driver: Driver, node: ReconstructNode) -> None:
    for k, offset_s in enumerate((0.0, 0.5, 0.3, 0.9, 0.1), start=1):
        driver.see(START_NS + int(offset_s * SECOND))
        driver.settled(k)
    viewer = Viewer(driver)
    driver.wait(lambda: viewer.shown, "the mesh")
    assert drops(driver.statuses[-1]) == {}


def test_too_many_scans_drop_the_oldest_and_the_newest_is_mapped(
    driver: Driver, settings: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    settings.update({"node.queue_size": 2, "node.tf_timeout_s": 60.0})
    request.getfixturevalue("node")
    for i in range(6):
        driver.clouds.publish(cloud(START_NS + i, WALL))
        driver.status(lambda s: s.scans_received == i + 1, "the cloud")  # noqa: B023
    status = driver.status(lambda s: s.scans_dropped == 4, "dropped clouds")
    assert set(drops(status)) <= {"no_transform", "queue_full"}
    for i in (0, 6):
        driver.tf.publish(transform(START_NS + i, "odom", "camera", pose()))
    status = driver.settled(2)
    assert status.header.stamp == header(START_NS + 5, "").stamp
