"""What the node publishes: meshes and grids, at bounded rates, to those who listen."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from nav_msgs.msg import OccupancyGrid
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import PointCloud2
from visualization_msgs.msg import MarkerArray

from convonet_ros.config import Config
from convonet_ros.mapping.mapper import Mapper, MapUpdate
from convonet_ros.mapping.meshing import Mesh
from convonet_ros.mapping.occupancy import OccupancyVolume
from convonet_ros.mapping.volume import CropIndex
from convonet_ros.msg import MeshUpdate
from convonet_ros.msg import OccupancyVolume as VolumeMessage
from convonet_ros.ros import messages


# Always new objects: rclpy writes a topic's overrides into the one it is given.
def reliable() -> QoSProfile:
    # A viewer that stalls for a while loses no part of the mesh.
    return QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)


def latched() -> QoSProfile:
    """Nav2's and RViz's map subscriptions match nothing less."""
    return QoSProfile(
        depth=1,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL,
    )


class Pending:
    """Updates of the mesh that were not published yet, merged into one."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._stamp_ns = self._since_ns = 0
        self._meshes: dict[CropIndex, Mesh] = {}
        self._left: dict[CropIndex, None] = {}
        self._cleared = False

    def __bool__(self) -> bool:
        return bool(self._meshes or self._left or self._cleared)

    def add(self, update: MapUpdate) -> None:
        """Merge a later update in; where both speak of a crop, the later one holds."""
        if update.cleared:
            self.clear()
            self._cleared = True
        self._stamp_ns = update.stamp_ns
        self._since_ns = self._since_ns or update.since_ns
        for crop in update.left:
            self._meshes.pop(crop, None)
            self._left[crop] = None
        for crop, mesh in update.meshes.items():
            self._left.pop(crop, None)
            self._meshes[crop] = mesh

    def update(self) -> MapUpdate:
        return MapUpdate(
            self._stamp_ns,
            dict(self._meshes),
            tuple(self._left),
            self._cleared,
            since_ns=self._since_ns,
        )


class _Topic:
    """One publisher, and whether a subscriber joined that has seen nothing yet."""

    def __init__(
        self, node: Node, name: str, kind: type, build: Callable[[Any], Any], qos: QoSProfile
    ) -> None:
        self.build = build
        self.joined = threading.Event()
        self._matched = threading.Event()
        self._listeners = 0
        try:
            events = PublisherEventCallbacks(matched=self._on_matched)
        except TypeError:  # ROS 2 Humble does not tell
            events = None
        self.publisher: Publisher = node.create_publisher(
            kind,
            f"~/{name}",
            qos,
            event_callbacks=events,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    @property
    def listeners(self) -> int:
        return self.publisher.get_subscription_count()

    def watch(self) -> bool:
        """Note those who joined since the last call; True when somebody did."""
        before, self._listeners = self._listeners, self.listeners
        joined = self._listeners > before or self._matched.is_set()
        self._matched.clear()
        if joined:
            self.joined.set()
        return joined

    def _on_matched(self, info: Any) -> None:
        """Who leaves and comes back at once, as RViz may, changes no count."""
        if info.total_count_change > 0:
            self._matched.set()


class Outputs:
    """The publishers of the map. Nothing is built for a topic without listeners.

    `watch` may be called by any thread, everything else by the one that owns the mapper.
    """

    def __init__(self, node: Node, config: Config, crop_m: float) -> None:
        self.latency_ms = 0.0
        frame, grid = config.map.frame_id, config.grid
        self._node = node
        self._mesh_topics: list[_Topic] = []
        self._grid_topics: list[_Topic] = []
        self._mesh_period_s = self._grid_period_s = 0.0
        self._mesh_due_s = self._grid_due_s = 0.0  # monotonic
        self._pending = Pending()
        self._map_changed = False

        def flat(layer: str) -> Callable[[OccupancyVolume], OccupancyGrid]:
            def build(volume: OccupancyVolume) -> OccupancyGrid:
                projected = volume.project(grid.min_z_m, grid.max_z_m)
                return messages.occupancy_grid(projected, frame, getattr(projected, layer))

            return build

        if config.node.mesh_rate_hz > 0:
            self._mesh_period_s = 1 / config.node.mesh_rate_hz
            kinds: tuple[tuple[str, type, Callable[[Any], Any]], ...] = (
                ("mesh", MarkerArray, lambda u: messages.marker_array(u, frame)),
                ("mesh_update", MeshUpdate, lambda u: messages.mesh_update(u, frame, crop_m)),
            )
            self._mesh_topics = [_Topic(node, *kind, reliable()) for kind in kinds]
        if config.node.grid_rate_hz > 0:
            self._grid_period_s = 1 / config.node.grid_rate_hz
            kinds = (
                ("occupancy_grid", OccupancyGrid, flat("ternary")),
                ("occupancy_probability", OccupancyGrid, flat("probability")),
                ("occupancy_cloud", PointCloud2, lambda v: messages.occupancy_cloud(v, frame)),
                ("occupancy_volume", VolumeMessage, lambda v: messages.occupancy_volume(v, frame)),
            )
            self._grid_topics = [_Topic(node, *kind, latched()) for kind in kinds]

    def watch(self) -> bool:
        """Look who joined; True when somebody waits for what was published before."""
        joined = [topic.watch() for topic in (*self._mesh_topics, *self._grid_topics)]
        return any(joined)

    def collect(self, update: MapUpdate) -> None:
        """Take up what changed, for the next publication."""
        self._map_changed = True
        if any(topic.listeners for topic in self._mesh_topics):
            self._pending.add(update)
        else:
            self._pending.clear()  # whoever joins is given everything

    def publish(self, mapper: Mapper) -> None:
        """Publish what is due."""
        now = time.monotonic()
        if now >= self._mesh_due_s and self._publish_meshes(mapper):
            self._mesh_due_s = now + self._mesh_period_s
        if now >= self._grid_due_s and self._publish_grids(mapper):
            self._grid_due_s = now + self._grid_period_s

    def _publish_meshes(self, mapper: Mapper) -> bool:
        joined = [topic for topic in self._mesh_topics if topic.joined.is_set()]
        if not joined and not self._pending:
            return False
        for topic in joined:
            topic.joined.clear()
        news = self._pending.update() if self._pending else None
        everything = mapper.everything() if joined else None
        self._pending.clear()
        for topic in self._mesh_topics:
            update = everything if topic in joined else news
            if update is not None and topic.listeners:
                topic.publisher.publish(topic.build(update))
                if update is news:
                    self._measure_latency(update.since_ns)
        return True

    def _publish_grids(self, mapper: Mapper) -> bool:
        topics = [
            topic
            for topic in self._grid_topics
            if topic.joined.is_set() or (self._map_changed and topic.listeners)
        ]
        if not topics:
            return False
        if all(topic in topics for topic in self._grid_topics if topic.listeners):
            self._map_changed = False
        for topic in topics:
            topic.joined.clear()
        volume = mapper.occupancy()
        for topic in topics:
            topic.publisher.publish(topic.build(volume))
        return True

    def _measure_latency(self, since_ns: int) -> None:
        if since_ns > 0:
            self.latency_ms = (self._node.get_clock().now().nanoseconds - since_ns) * 1e-6
