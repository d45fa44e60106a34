"""Says why nothing happens: inputs on which no message arrives."""

from __future__ import annotations

import time

from rclpy.node import Node
from rclpy.qos import QoSCompatibility, qos_check_compatible

from convonet_ros.ros.inputs import Inputs
from convonet_ros.ros.scan_queue import Tally

SILENT_S = 5.0
_REPEAT_S = 30.0


class SilenceWatch:
    """Warns of inputs without messages: of every camera, and of point clouds without a camera."""

    def __init__(self, node: Node, inputs: Inputs, tally: Tally) -> None:
        self._node = node
        self._inputs = inputs
        self._tally = tally
        self._said_s: dict[str, float] = {}

    def check(self) -> None:
        """Write one sentence for every topic that fell silent; now and then again."""
        now = time.monotonic()
        ages = {topic: now - at for topic, at in self._inputs.last_arrival_s.items()}
        for topic, age in ages.items():
            kind = self._inputs.types[topic]
            # Where the images are missing too, nobody misses what goes with them.
            image = self._inputs.image_of.get(topic)
            follows = image is not None and ages[image] >= SILENT_S
            optional = kind == "sensor_msgs/msg/PointCloud2" and len(ages) > 1
            if age < SILENT_S or follows or optional:
                self._said_s.pop(topic, None)
            elif now - self._said_s.get(topic, -_REPEAT_S) >= _REPEAT_S:
                self._said_s[topic] = now
                self._tally.complain(
                    f"silence on {topic}",
                    f"no messages on {topic} for {age:.0f} s; {self._why(topic)}",
                )

    def _why(self, topic: str) -> str:
        kind = self._inputs.types[topic]
        publishers = self._node.get_publishers_info_by_topic(topic)
        wrong = sorted({p.topic_type for p in publishers if p.topic_type != kind})
        if wrong:
            return f"its publisher sends {', '.join(wrong)}, expected {kind}"
        for publisher in publishers:
            for own in self._node.get_subscriptions_info_by_topic(topic):
                level, reason = qos_check_compatible(publisher.qos_profile, own.qos_profile)
                if own.node_name == self._node.get_name() and level == QoSCompatibility.ERROR:
                    return f"its publisher's QoS does not fit ours: {reason}"
        if publishers:
            return "it has a publisher, but nothing arrives"
        own = f"{self._node.get_fully_qualified_name()}/"
        others = [
            name
            for name, kinds in self._node.get_topic_names_and_types()
            if kind in kinds and not name.startswith(own) and self._node.count_publishers(name)
        ]
        return f"topics of type {kind} with a publisher: {', '.join(sorted(others)) or 'none'}"
