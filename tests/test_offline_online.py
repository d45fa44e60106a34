"""The same recording through the real node over DDS and through `convonet map`: the same map."""

import os
from pathlib import Path

import numpy as np
from driver import Driver
from geometry_msgs.msg import Point
from rclpy.qos import DurabilityPolicy, QoSProfile
from recorded import simulated, write_network, write_recording

from convonet_ros.config import Config, with_values
from convonet_ros.datasets.recordings import open_recording
from convonet_ros.mapping.occupancy import OBSERVED_OCCUPIED, UNKNOWN
from convonet_ros.msg import OccupancyVolume
from convonet_ros.offline.pipeline import OfflineMap, map_recording
from convonet_ros.ros.demo import start
from convonet_ros.srv import QueryOccupancy

BOUND_S = 120.0
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def offline_map(folder: Path, frames: str, weights: Path) -> OfflineMap:
    config = with_values(Config(), {"model.weights": str(weights), "model.completion_m": 0.25})
    result = map_recording(open_recording(folder, frames), config)
    assert result.report["window"]["parts"] == 1
    return result


def same_map(folder: Path, frames: str, tmp_path: Path, driver: Driver) -> None:
    weights = write_network(tmp_path / "network.pt")
    offline = offline_map(folder, frames, weights)
    count = offline.report["frames"]["mapped"]
    assert count >= 4
    window = offline.config.map
    node = start(
        "node",
        {
            "model.weights": str(weights),
            "model.completion_m": 0.25,
            "map.window_xy_crops": window.window_xy_crops,
            "map.window_z_crops": window.window_z_crops,
            "node.queue_size": 100,
            "node.tf_timeout_s": 30.0,
            "node.status_rate_hz": 10.0,
            **{
                f"qos_overrides./camera_0/depth/{topic}.subscription.reliability": "reliable"
                for topic in ("image", "camera_info")
            },
        },
        tmp_path,
    )
    replay = start(
        "replay_node", {"folder": str(folder), "frames": frames, "rate_hz": 5.0}, tmp_path
    )
    try:
        volumes = driver.listen("/convonet/occupancy_volume", OccupancyVolume, LATCHED)
        query = driver.node.create_client(QueryOccupancy, "/convonet/query_occupancy")

        def mapped() -> bool:
            node.check()
            replay.check(may_end=True)
            if not driver.statuses:
                return False
            last = driver.statuses[-1]
            assert last.scans_dropped == 0, last
            return last.scans_integrated == count and last.crops_waiting == 0

        driver.wait(mapped, "all scans integrated, no crop waits", BOUND_S)
        where = np.argwhere(offline.volume.classes != UNKNOWN)
        where = where[np.random.default_rng(0).permutation(len(where))[:3000]]
        points = offline.volume.origin_m + (where + 0.5) * offline.volume.resolution_m
        driver.wait(query.service_is_ready, "the service")
        request = QueryOccupancy.Request(points=[Point(x=x, y=y, z=z) for x, y, z in points])
        future = query.call_async(request)
        driver.wait(future.done, "the service's answer", BOUND_S)
        answer = future.result()
        assert answer.success, answer.message

        expected = np.round(np.nan_to_num(offline.volume.probability) * 255).astype(np.uint8)

        known = offline.volume.classes.ravel() != UNKNOWN

        def is_final() -> bool:
            if not volumes or len(volumes[-1].classes) != expected.size:
                return False
            classes = np.frombuffer(volumes[-1].classes, np.uint8)
            probability = np.frombuffer(volumes[-1].probability, np.uint8)
            return np.array_equal(classes, offline.volume.classes.ravel()) and np.array_equal(
                probability[known], expected.ravel()[known]
            )

        # The grids have a rate of their own; the last one comes after the last crop. The one
        # before may have its classes already, but not yet all its probabilities.
        driver.wait(is_final, "the volume of the offline map")
    finally:
        replay.end(10.0)
        node.end(10.0)
    assert node.process.returncode == 0

    # The service gives the probabilities bit for bit, and the topic all cells in steps of 1/255.
    at = tuple(where.T)
    np.testing.assert_array_equal(np.array(answer.classes), offline.volume.classes[at])
    np.testing.assert_array_equal(
        np.array(answer.probability, np.float32), offline.volume.probability[at]
    )
    volume = volumes[-1]
    shape = (volume.size_x, volume.size_y, volume.size_z)
    assert shape == offline.volume.classes.shape
    origin = [volume.origin.x, volume.origin.y, volume.origin.z]
    np.testing.assert_allclose(origin, offline.volume.origin_m, atol=1e-9)
    assert (offline.volume.classes == OBSERVED_OCCUPIED).sum() > 500


def test_generated_recording(tmp_path: Path, driver: Driver) -> None:
    folder = write_recording(tmp_path / "recording", simulated(3, 6, of=40))
    same_map(folder, "::", tmp_path, driver)


def test_redwood(redwood: Path, tmp_path: Path, driver: Driver) -> None:
    # A part in which both doors put the window in the same place: the node where the robot
    # starts, the offline map around all that is seen.
    same_map(redwood, "89:99:2", tmp_path, driver)


def test_every_process_is_gone() -> None:
    """The tests before left nothing behind."""
    own = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in own]
    assert not [name for name in names if b"convonet_ros.ros" in name]
