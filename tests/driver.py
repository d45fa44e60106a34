"""The other side of the node's topics: a robot that publishes, a viewer that listens."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import rclpy
import torch
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from convonet_ros.config import Config, with_values
from convonet_ros.datasets.sensing.poses import look_at
from convonet_ros.geometry import quaternion_of
from convonet_ros.mapping.mapper import Mapper
from convonet_ros.model.crops import CropNetwork, CropSpec
from convonet_ros.msg import MapStatus
from convonet_ros.sensors import Intrinsics, Scan, depth_from_image, points_from_depth

SECOND = 10**9  # nanoseconds
START_NS = 1_700_000_000 * SECOND
BOUND_S = 90.0  # for whatever the tests wait for
INTRINSICS = Intrinsics(64, 48, 60.0, 60.0, 31.5, 23.5)
WALL_M = 1.5
SETTINGS: dict[str, Any] = {
    "node.status_rate_hz": 50.0,
    "node.mesh_rate_hz": 50.0,
    "node.grid_rate_hz": 50.0,
    "model.precision": "float32",
}
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
BEST_EFFORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)


def tiny_network() -> CropNetwork:
    """A small untrained network that takes everything near a point for solid, for speed."""
    torch.manual_seed(0)
    network = CropNetwork(
        CropSpec(
            voxel_m=0.1, crop_voxels=8, halo_voxels=4, point_features=4, voxel_features=4,
            hidden=4, point_blocks=2, decoder_blocks=1, maps=2, levels=2,
        )
    ).eval()  # fmt: skip
    torch.nn.init.constant_(network.decoder.fc_out.bias, 5.0)
    return network


def pose(i: int = 0) -> np.ndarray:
    """(4, 4) T_odom_camera: 1 m high, looks along x; each i is 5 cm further to the left."""
    eye = np.array([0.0, 0.05 * i, 1.0])
    return look_at(eye, eye + np.array([1.0, 0.0, 0.0]))


def header(stamp_ns: int, frame_id: str) -> Header:
    stamp = Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return Header(stamp=stamp, frame_id=frame_id)


def depth_image(stamp_ns: int, depth_m: np.ndarray | None = None, **fields: Any) -> Image:
    """A 16UC1 image of a wall (or of depth_m), with fields overwritten."""
    if depth_m is None:
        depth_m = np.full((INTRINSICS.height, INTRINSICS.width), WALL_M)
    pixels = np.round(depth_m * 1000).astype("<u2")
    values: dict[str, Any] = {
        "header": header(stamp_ns, "camera"),
        "height": depth_m.shape[0],
        "width": depth_m.shape[1],
        "encoding": "16UC1",
        "step": 2 * depth_m.shape[1],
        "data": array("B", pixels.tobytes()),
    }
    return Image(**(values | fields))


def camera_info(stamp_ns: int, fx: float = INTRINSICS.fx) -> CameraInfo:
    k = INTRINSICS
    return CameraInfo(
        header=header(stamp_ns, "camera"), width=k.width, height=k.height,
        k=[fx, 0.0, k.cx, 0.0, fx, k.cy, 0.0, 0.0, 1.0],
    )  # fmt: skip


def cloud(stamp_ns: int, points: np.ndarray, frame_id: str = "camera", **fields: Any) -> Any:
    """A PointCloud2 of (N, 3) points, with fields overwritten."""
    values: dict[str, Any] = {
        "header": header(stamp_ns, frame_id),
        "height": 1,
        "width": len(points),
        "fields": [
            PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
            for i, name in enumerate("xyz")
        ],
        "point_step": 12,
        "row_step": 12 * len(points),
        "data": array("B", np.ascontiguousarray(points, dtype="<f4").tobytes()),
    }
    return PointCloud2(**(values | fields))


def transform(stamp_ns: int, parent: str, child: str, T: np.ndarray) -> TFMessage:
    stamped = TransformStamped(header=header(stamp_ns, parent), child_frame_id=child)
    t, r = stamped.transform.translation, stamped.transform.rotation
    t.x, t.y, t.z = T[:3, 3].tolist()
    r.x, r.y, r.z, r.w = quaternion_of(T).tolist()
    return TFMessage(transforms=[stamped])


class Spinning:
    """A thread that spins a node, and ends without pulling anything away from its callbacks."""

    def __init__(self, node: Any, executor: Any) -> None:
        self._stop = threading.Event()
        self._executor = executor
        self._executor.add_node(node)
        self.thread = threading.Thread(target=self._spin, daemon=True)
        self.thread.start()

    def _spin(self) -> None:
        while not self._stop.is_set():
            self._executor.spin_once(timeout_sec=0.05)

    def stop(self) -> None:
        self._stop.set()
        self.thread.join(BOUND_S)


class Driver:
    """A node in a context (a DDS participant) of its own, with a thread that spins it."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("driver", context=self.context)
        self.images = self.node.create_publisher(Image, "/camera_0/depth/image", 10)
        self.infos = self.node.create_publisher(CameraInfo, "/camera_0/depth/camera_info", 10)
        self.clouds = self.node.create_publisher(PointCloud2, "/pointcloud", BEST_EFFORT)
        self.tf = self.node.create_publisher(TFMessage, "/tf", 100)
        self.statuses: list[MapStatus] = []
        self.listen("/convonet/status", MapStatus, into=self.statuses)
        self._spinning = Spinning(self.node, SingleThreadedExecutor(context=self.context))

    def close(self) -> None:
        self._spinning.stop()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def listen(self, topic: str, kind: type, qos: Any = 10, into: Any = None) -> list[Any]:
        """A list that grows with every message."""
        received: list[Any] = [] if into is None else into
        self.node.create_subscription(kind, topic, received.append, qos)
        return received

    def wait(self, condition: Callable[[], Any], what: str, bound_s: float = BOUND_S) -> Any:
        """The first true value of a condition; AssertionError when it takes too long."""
        until = time.monotonic() + bound_s
        while time.monotonic() < until:
            value = condition()
            if value:
                return value
            time.sleep(0.005)
        raise AssertionError(f"{what}: not within {bound_s} s; {self.statuses[-1:]}")

    def wait_for_node(self) -> None:
        """Until the node is matched in both directions."""
        publishers = (self.images, self.infos, self.clouds, self.tf)
        self.wait(
            lambda: all(p.get_subscription_count() for p in publishers) and self.statuses,
            "the node's subscriptions and status",
        )

    def see(self, stamp_ns: int, i: int = 0, depth_m: np.ndarray | None = None) -> None:
        """A transform, an intrinsics message and a depth image."""
        self.tf.publish(transform(stamp_ns, "odom", "camera", pose(i)))
        self.infos.publish(camera_info(stamp_ns))
        self.images.publish(depth_image(stamp_ns, depth_m))

    def status(self, condition: Callable[[MapStatus], bool], what: str) -> MapStatus:
        """The first status from now on that fulfils a condition."""
        start = len(self.statuses)
        return self.wait(
            lambda: next((s for s in self.statuses[start:] if condition(s)), None), what
        )

    def settled(self, integrated: int) -> MapStatus:
        """The status once so many scans are in the map and nothing waits."""
        return self.status(
            lambda s: s.scans_integrated >= integrated and s.crops_waiting == 0,
            f"{integrated} scans in the map",
        )

    def call(self, name: str, kind: type, request: Any = None) -> Any:
        client = self.node.create_client(kind, f"/convonet/{name}")
        assert client.wait_for_service(BOUND_S), f"no service {name}"
        future = client.call_async(request or kind.Request())
        self.wait(future.done, f"the answer of {name}")
        self.node.destroy_client(client)
        return future.result()


def drops(status: MapStatus) -> dict[str, int]:
    return dict(zip(status.drop_reasons, status.drop_counts, strict=True))


class Viewer:
    """Keeps markers as RViz does."""

    def __init__(self, driver: Driver) -> None:
        self.shown: dict[int, Any] = {}
        self.messages: list[Any] = []
        self.subscription = driver.node.create_subscription(
            MarkerArray, "/convonet/mesh", self._take, 10
        )

    def _take(self, message: Any) -> None:
        for marker in message.markers:
            if marker.action == Marker.DELETEALL:
                self.shown.clear()
            elif marker.action == Marker.DELETE:
                self.shown.pop(marker.id, None)
            else:
                self.shown[marker.id] = marker
        self.messages.append(message)

    def points(self) -> np.ndarray:
        points = [(p.x, p.y, p.z) for marker in self.shown.values() for p in marker.points]
        return np.array(points).reshape(-1, 3)


def offline(scans: list[Scan]) -> Mapper:
    """What the same scans become without ROS."""
    mapper = Mapper(with_values(Config(), SETTINGS), tiny_network())
    for scan in scans:
        mapper.integrate(scan)
    while mapper.waiting:
        mapper.update()
    return mapper


def wall_scan(stamp_ns: int, i: int) -> Scan:
    depth = depth_from_image(depth_image(stamp_ns))
    return Scan(points_from_depth(depth, INTRINSICS), pose(i), stamp_ns)
