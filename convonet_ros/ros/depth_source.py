"""What the simulated camera and the replay of recordings share: frames onto topics, with TF."""

from __future__ import annotations

import contextlib
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, Transform, TransformStamped, Vector3
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from convonet_ros.datasets.recordings import Frame
from convonet_ros.geometry import inverse, quaternion_of
from convonet_ros.ros.process import begin

BASE_FRAME, CAMERA_FRAME = "base_link", "camera_0_optical_frame"
_WAIT_S = 60.0  # for somebody who listens
_ACKNOWLEDGED_S = 5.0
# The optical frame (x right, y down, z forward) in a body frame (x forward, y left, z up).
_T_BASE_CAMERA = np.array(
    [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)


def parameter(
    node: Node, name: str, default: Any, low: float | None = None, high: float | None = None
) -> Any:
    """Declare a parameter and return its value; ValueError for a type or value that is off."""
    descriptor = ParameterDescriptor(dynamic_typing=True)  # else 2 would be no rate, only 2.0
    value = node.declare_parameter(name, default, descriptor).value
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise ValueError(f"{name}: expected a {type(default).__name__}, got {value!r}")
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise ValueError(f"{name}: expected {low} to {high}, got {value}")
    return value


class DepthSource(Node):
    """Publishes depth frames like a camera's driver, and TF like the robot that carries it.

    Topics: camera_0/depth/image (16UC1 millimetres, or 32FC1 metres where `whole_millimetres` is
    False), camera_0/depth/camera_info, /tf (frame_id -> base_link), /tf_static (base_link ->
    camera_0_optical_frame). Parameters: frame_id, rate_hz.
    """

    whole_millimetres = True

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._frame_id = parameter(self, "frame_id", "odom")
        self._period_s = 1 / parameter(self, "rate_hz", 2.0, low=0.01, high=1000.0)
        reliable = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
        latched = QoSProfile(
            depth=1,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )
        self._image = self.create_publisher(Image, "camera_0/depth/image", reliable)
        self._info = self.create_publisher(CameraInfo, "camera_0/depth/camera_info", reliable)
        self._tf = self.create_publisher(TFMessage, "/tf", QoSProfile(depth=100))
        self._tf_static = self.create_publisher(TFMessage, "/tf_static", latched)
        self._send_transform(self._tf_static, BASE_FRAME, CAMERA_FRAME, 0, _T_BASE_CAMERA)

    def frames(self) -> Iterator[Frame]:
        """The frames in their order."""
        raise NotImplementedError

    def play(self, stop: threading.Event) -> int:
        """Wait for listeners, then send all frames at the rate; returns how many were sent."""
        self._wait_for_listeners(stop)
        sent, due = 0, time.monotonic()
        for frame in self.frames():
            if stop.wait(max(0.0, due - time.monotonic())):
                break
            due = max(due + self._period_s, time.monotonic())
            self.publish(frame, self.get_clock().now().nanoseconds)
            sent += 1
        else:
            # Whoever takes reliably is to have everything before the publishers go.
            for publisher in (self._tf, self._info, self._image):
                publisher.wait_for_all_acked(Duration(seconds=_ACKNOWLEDGED_S))
        return sent

    def publish(self, frame: Frame, stamp_ns: int) -> None:
        """Send one frame: first where the camera is, then what it sees."""
        T_map_base = frame.T_map_camera @ inverse(_T_BASE_CAMERA)
        self._send_transform(self._tf, self._frame_id, BASE_FRAME, stamp_ns, T_map_base)
        k = frame.intrinsics
        header = Header(stamp=_time(stamp_ns), frame_id=CAMERA_FRAME)
        self._info.publish(
            CameraInfo(
                header=header, width=k.width, height=k.height,
                distortion_model="plumb_bob", d=[0.0] * 5,
                k=[k.fx, 0.0, k.cx, 0.0, k.fy, k.cy, 0.0, 0.0, 1.0],
                r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
                p=[k.fx, 0.0, k.cx, 0.0, 0.0, k.fy, k.cy, 0.0, 0.0, 0.0, 1.0, 0.0],
            )
        )  # fmt: skip
        if self.whole_millimetres:
            encoding, pixels = "16UC1", np.round(frame.depth * 1000).clip(0, 65535).astype("<u2")
        else:
            encoding, pixels = "32FC1", frame.depth.astype("<f4")
        self._image.publish(
            Image(
                header=header, width=k.width, height=k.height, encoding=encoding,
                is_bigendian=0, step=k.width * pixels.itemsize, data=array("B", pixels.tobytes()),
            )
        )  # fmt: skip

    def _wait_for_listeners(self, stop: threading.Event) -> None:
        until = time.monotonic() + _WAIT_S
        publishers = (self._image, self._info, self._tf, self._tf_static)
        while (
            not all(publisher.get_subscription_count() for publisher in publishers)
            or self.get_clock().now().nanoseconds == 0  # simulated, and nobody has told it yet
        ):
            if time.monotonic() > until:
                self.get_logger().warning(
                    f"nobody listens to {self._image.topic_name} and to TF after {_WAIT_S:.0f} s "
                    "(or a simulated clock stands still); sending all the same"
                )
                return
            if stop.wait(0.05):
                return

    def _send_transform(
        self, publisher: Any, parent: str, child: str, stamp_ns: int, T: np.ndarray
    ) -> None:
        (x, y, z), q = T[:3, 3].tolist(), quaternion_of(T).tolist()
        stamped = TransformStamped(
            header=Header(stamp=_time(stamp_ns), frame_id=parent),
            child_frame_id=child,
            transform=Transform(
                translation=Vector3(x=x, y=y, z=z),
                rotation=Quaternion(x=q[0], y=q[1], z=q[2], w=q[3]),
            ),
        )
        publisher.publish(TFMessage(transforms=[stamped]))


def _time(stamp_ns: int) -> Time:
    return Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


def run(make: Callable[[], DepthSource], args: list[str] | None) -> int:
    """Play a source until its frames end, or SIGINT or SIGTERM comes; returns the exit code."""
    stop = begin("depth source", args)
    if stop is None:
        return 1
    executor = SingleThreadedExecutor()
    spinning = threading.Thread(target=_spin, args=(executor,))
    node = None
    try:
        node = make()
        executor.add_node(node)  # for its parameters and a simulated clock
        spinning.start()
        sent = node.play(stop)
        node.get_logger().info(f"{sent} frames sent")
    except ValueError as error:
        rclpy.logging.get_logger("depth_source").fatal(str(error))
        return 1
    finally:
        executor.shutdown()
        if node is not None:
            spinning.join()
            node.destroy_node()
        rclpy.shutdown()
    return 0


def _spin(executor: SingleThreadedExecutor) -> None:
    with contextlib.suppress(ExternalShutdownException):
        executor.spin()
