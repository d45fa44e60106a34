"""What the node listens to, and how it becomes scans."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from convonet_ros.config import Config
from convonet_ros.ros.scan_queue import Camera, Measurement, ScanQueue, Tally
from convonet_ros.ros.transforms import REWIND_NS, NoTransform, Transforms, seconds
from convonet_ros.sensors import (
    Intrinsics,
    Scan,
    depth_from_image,
    map_pose,
    points_from_cloud,
    points_from_depth,
)


def sensor_qos() -> QoSProfile:
    """Best effort takes what reliable publishers and best-effort ones send.

    Always a new object: rclpy writes a topic's overrides into the one it is given.
    """
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.BEST_EFFORT
    )


class Inputs:
    """Subscribes to depth cameras and point clouds; hands out scans whose transform is known.

    The callbacks only queue what arrives. `take` is for one worker thread: it decodes, and drops
    what cannot become a scan with a sentence and a count, so nothing bad gets further.
    """

    def __init__(
        self,
        node: Node,
        config: Config,
        transforms: Transforms,
        tally: Tally,
        wake: Callable[[], None],
    ) -> None:
        """wake: called whenever something arrived."""
        self._config = config
        self._transforms = transforms
        self._tally = tally
        self._wake = wake
        self.queue = ScanQueue(config.node.queue_size, tally)
        self.last_arrival_s: dict[str, float] = {}  # by topic, monotonic
        self.types: dict[str, str] = {}  # topic -> type
        self.image_of: dict[str, str] = {}  # topic of a camera_info -> topic of its images
        self._newest: dict[str, int] = {}  # topic -> stamp of its newest scan that was taken
        self._rewinding = False
        for i in range(config.node.cameras):
            image = f"camera_{i}/depth/image"
            info = f"camera_{i}/depth/camera_info"
            camera = Camera(node.resolve_topic_name(info))
            self.image_of[node.resolve_topic_name(info)] = node.resolve_topic_name(image)
            self._subscribe(node, Image, image, partial(self._on_image, camera))
            self._subscribe(node, CameraInfo, info, partial(self._on_info, camera))
        if config.node.use_pointcloud:
            self._subscribe(node, PointCloud2, "pointcloud", self._on_cloud)

    def _subscribe(self, node: Node, kind: type, name: str, callback: Any) -> None:
        topic = node.resolve_topic_name(name)
        self.types[topic] = f"sensor_msgs/msg/{kind.__name__}"
        self.last_arrival_s[topic] = time.monotonic()
        node.create_subscription(
            kind,
            name,
            partial(callback, topic),
            sensor_qos(),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    # ---- callbacks --------------------------------------------------------------------------

    def _on_info(self, camera: Camera, topic: str, message: Any) -> None:
        self.last_arrival_s[topic] = time.monotonic()
        try:
            camera.intrinsics, camera.problem = Intrinsics.from_camera_info(message), ""
        except ValueError as error:
            camera.intrinsics, camera.problem = None, f"{topic}: {error}"
        self._wake()

    def _on_image(self, camera: Camera, topic: str, message: Any) -> None:
        self._queue(topic, message, camera)

    def _on_cloud(self, topic: str, message: Any) -> None:
        self._queue(topic, message, None)

    def _queue(self, topic: str, message: Any, camera: Camera | None) -> None:
        self.last_arrival_s[topic] = time.monotonic()
        self._tally.receive()
        stamp = message.header.stamp
        stamp_ns = stamp.sec * 10**9 + stamp.nanosec
        frame_id = message.header.frame_id.lstrip("/")
        if not frame_id:
            self._tally.drop("no_frame", f"{topic}: header.frame_id is empty, so no place is known")
            return
        if stamp_ns <= 0:
            at = seconds(stamp_ns)
            self._tally.drop("bad_stamp", f"{topic}: header.stamp is {at}; the driver must set it")
            return
        if self._falls_back(topic, stamp_ns) and not self._rewinding:
            self._rewinding = True
            self._transforms.rewind(stamp_ns)
        self.queue.put(Measurement(topic, frame_id, stamp_ns, message, camera, time.monotonic()))
        self._wake()

    def _falls_back(self, topic: str, stamp_ns: int) -> bool:
        return stamp_ns < self._newest.get(topic, stamp_ns) - REWIND_NS

    # ---- for the worker ---------------------------------------------------------------------

    def take(self) -> tuple[Scan, bool] | None:
        """The first waiting scan whose transform is known, and whether time started again with it.

        None when nothing is ready. Measurements that waited too long or are no good are dropped.
        """
        for measurement in self.queue.waiting():
            T_map_sensor = self._pose_if_ready(measurement)
            if T_map_sensor is None:
                if measurement.missing and measurement.age_s() > self._config.node.tf_timeout_s:
                    self._drop(measurement, *measurement.missing)
                continue
            if not self.queue.remove(measurement):
                continue
            kind = "bad_scan"
            try:
                T_map_sensor = map_pose(T_map_sensor, measurement.frame_id)
                kind = "bad_cloud" if measurement.camera is None else "bad_image"
                with np.errstate(over="ignore", invalid="ignore"):  # Scan refuses what comes of it
                    points = self._points(measurement)
                scan = Scan(points, T_map_sensor, measurement.stamp_ns)
            except ValueError as error:
                self._tally.drop(kind, f"{measurement.topic}: {error}")
                continue
            if not len(scan.points):
                self._tally.drop("no_points", f"{measurement.topic}: not one point was measured")
                continue
            return scan, self._restarted(measurement)
        return None

    def _pose_if_ready(self, measurement: Measurement) -> np.ndarray | None:
        """(4, 4) T_map_sensor, or None after noting what is missing (or dropping it at once)."""
        camera = measurement.camera
        if camera is not None and camera.intrinsics is None:
            if camera.problem:
                self._drop(measurement, "bad_camera_info", camera.problem)
            else:
                sentence = f"{measurement.topic}: no camera_info on {camera.topic} yet"
                measurement.missing = ("no_camera_info", sentence)
            return None
        try:
            return self._transforms.lookup(
                self._config.map.frame_id, measurement.frame_id, measurement.stamp_ns
            )
        except NoTransform as error:
            measurement.missing = ("no_transform", f"{measurement.topic}: {error}")
            return None

    def _points(self, measurement: Measurement) -> np.ndarray:
        """(N, 3) points in the sensor frame; raises ValueError for a bad message."""
        limit = self._config.scan.max_points
        if measurement.camera is None:
            return points_from_cloud(measurement.message, limit)
        assert measurement.camera.intrinsics is not None, "checked before"
        depth = depth_from_image(measurement.message)
        return points_from_depth(depth, measurement.camera.intrinsics, limit)

    def _restarted(self, taken: Measurement) -> bool:
        """Note the stamp; where time fell back, drop what still waits from before."""
        restarted = self._falls_back(taken.topic, taken.stamp_ns)
        if restarted:
            self._newest.clear()
            for other in self.queue.waiting():
                if other.arrived_s < taken.arrived_s and other.stamp_ns > taken.stamp_ns:
                    self._drop(other, "time_jump", f"{other.topic}: time started again meanwhile")
        self._newest[taken.topic] = max(
            taken.stamp_ns, self._newest.get(taken.topic, taken.stamp_ns)
        )
        self._rewinding = False
        return restarted

    def _drop(self, measurement: Measurement, reason: str, sentence: str) -> None:
        if self.queue.remove(measurement):
            self._tally.drop(reason, sentence)
