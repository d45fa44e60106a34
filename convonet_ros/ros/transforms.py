"""Where a sensor was when it measured: TF, interpolated between stamps and never guessed."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.time import Time

from convonet_ros.geometry import interpolate_pose, inverse, pose_from

KEEP_S = 30.0
# Stamps that fall back further than this mean a new start (a recording that loops).
REWIND_NS = 1_000_000_000


class NoTransform(LookupError):
    """A transform that is not known (yet); the text says which and why."""


class Transforms(Protocol):
    """What the node needs of TF."""

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """(4, 4) T_target_source at a stamp; raises NoTransform when it is not known."""
        ...

    def rewind(self, stamp_ns: int) -> None:
        """Time starts again at a stamp: forget what moved later than it."""
        ...


def listen(node: Node, complain: Callable[[str], None]) -> Transforms:
    """Listen to TF with tf2_ros where it is installed, else by ourselves.

    `complain` takes a sentence about a transform that cannot be used.
    """
    try:
        import tf2_ros
    except ImportError:
        return OwnListener(node, complain)
    return Tf2Listener(node, tf2_ros)


def seconds(stamp_ns: int) -> str:
    """A stamp as seconds with all its digits."""
    sign = "-" if stamp_ns < 0 else ""
    return f"{sign}{abs(stamp_ns) // 10**9}.{abs(stamp_ns) % 10**9:09d}"


def _sentence(target: str, source: str, stamp_ns: int, why: str) -> str:
    return f"no transform from '{source}' to '{target}' at stamp {seconds(stamp_ns)}: {why}"


# ---- tf2_ros ------------------------------------------------------------------------------------


class Tf2Listener:
    """tf2_ros behind our two questions."""

    def __init__(self, node: Node, tf2_ros: Any) -> None:
        self._error = tf2_ros.TransformException
        self._buffer = tf2_ros.Buffer(cache_time=Duration(seconds=KEEP_S))
        self._listener = tf2_ros.TransformListener(self._buffer, node, spin_thread=False)

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        try:
            found = self._buffer.lookup_transform_core(target, source, Time(nanoseconds=stamp_ns))
        except self._error as error:
            raise NoTransform(_sentence(target, source, stamp_ns, str(error))) from error
        t, q = found.transform.translation, found.transform.rotation
        return pose_from(np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w]))

    def rewind(self, stamp_ns: int) -> None:
        self._buffer.clear()  # tf2 keeps what is static


# ---- our own ------------------------------------------------------------------------------------

_Row = tuple[float, ...]  # x, y, z, then the quaternion x, y, z, w


@dataclass(slots=True)
class _Track:
    """The transforms of one moving frame, oldest first."""

    stamps: list[int] = field(default_factory=list)
    links: list[tuple[str, _Row]] = field(default_factory=list)  # parent, transform to it


class TransformHistory:
    """Frames and how they moved, over a bounded time; may be used by several threads."""

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self._keep_ns = int(keep_s * 1e9)
        self._static: dict[str, tuple[str, _Row]] = {}
        self._moving: dict[str, _Track] = {}
        self._lock = threading.Lock()

    def add(
        self, parent: str, child: str, stamp_ns: int, numbers: _Row, static: bool = False
    ) -> None:
        """Take up T_parent_child: x, y, z (metres) and the quaternion x, y, z, w.

        A stamp that falls back by more than a second forgets all that moved. Raises ValueError
        for frames without a name, a frame on itself, and numbers that are no transform.
        """
        if not parent or not child or parent == child:
            raise ValueError(f"transform: expected two frames, got '{parent}' and '{child}'")
        length = math.hypot(*numbers[3:])
        if not all(map(math.isfinite, numbers)) or not 0.99 < length < 1.01:
            raise ValueError(
                f"transform from '{child}' to '{parent}': expected finite numbers and a unit "
                f"quaternion, got {list(numbers)}"
            )
        with self._lock:
            if static:
                self._moving.pop(child, None)
                self._static[child] = (parent, numbers)
                return
            self._static.pop(child, None)
            track = self._moving.get(child)
            if track and stamp_ns < track.stamps[-1] - REWIND_NS:
                self._moving.clear()
                track = None
            if track is None:
                track = self._moving[child] = _Track()
            self._insert(track, stamp_ns, (parent, numbers))

    def _insert(self, track: _Track, stamp_ns: int, link: tuple[str, _Row]) -> None:
        place = bisect_left(track.stamps, stamp_ns)
        if place < len(track.stamps) and track.stamps[place] == stamp_ns:
            track.links[place] = link
            return
        track.stamps.insert(place, stamp_ns)
        track.links.insert(place, link)
        # Cut now and then, so that a transform costs the same however many are kept.
        if track.stamps[-1] - track.stamps[0] > 1.25 * self._keep_ns:
            old = bisect_left(track.stamps, track.stamps[-1] - self._keep_ns)
            del track.stamps[:old], track.links[:old]

    def rewind(self, stamp_ns: int) -> None:
        """Time starts again at a stamp: forget frames that moved more than a second later."""
        with self._lock:
            for child, track in list(self._moving.items()):
                if track.stamps[-1] > stamp_ns + REWIND_NS:
                    del self._moving[child]

    def lookup(self, target: str, source: str, stamp_ns: int) -> np.ndarray:
        """(4, 4) T_target_source at a stamp; raises NoTransform when it is not known."""
        with self._lock:
            from_source, why = self._climb(source, stamp_ns, target)
            if target in from_source:
                return from_source[target]
            from_target, other_why = self._climb(target, stamp_ns, source)
        for frame, T_frame_target in from_target.items():
            if frame in from_source:
                return inverse(T_frame_target) @ from_source[frame]
        reasons = " and ".join(dict.fromkeys([why, other_why]))
        raise NoTransform(_sentence(target, source, stamp_ns, reasons))

    def _climb(self, frame: str, stamp_ns: int, until: str) -> tuple[dict[str, np.ndarray], str]:
        """Ancestors of a frame: name -> (4, 4) T_ancestor_frame, and why there are no more."""
        T = np.eye(4)
        found = {frame: T}
        at = frame
        while at != until:
            try:
                parent, T_parent_at = self._link(at, stamp_ns)
            except NoTransform as error:
                return found, str(error)
            if parent in found:
                return found, f"the frames around '{at}' form a loop"
            T = T_parent_at @ T
            found[parent] = T
            at = parent
        return found, ""

    def _link(self, child: str, stamp_ns: int) -> tuple[str, np.ndarray]:
        if child in self._static:
            parent, row = self._static[child]
            return parent, _pose(row)
        track = self._moving.get(child)
        if track is None:
            raise NoTransform(f"nobody says where '{child}' is")
        after = bisect_left(track.stamps, stamp_ns)
        if after == len(track.stamps):
            late = (stamp_ns - track.stamps[-1]) * 1e-9
            raise NoTransform(f"the newest transform of '{child}' is {late:.3f} s older")
        parent, row = track.links[after]
        if track.stamps[after] == stamp_ns:
            return parent, _pose(row)
        if after == 0:
            early = (track.stamps[0] - stamp_ns) * 1e-9
            raise NoTransform(f"the oldest transform of '{child}' is {early:.3f} s newer")
        parent_before, row_before = track.links[after - 1]
        if parent_before != parent:
            raise NoTransform(f"'{child}' moves from '{parent_before}' to '{parent}' then")
        before_ns, after_ns = track.stamps[after - 1], track.stamps[after]
        alpha = (stamp_ns - before_ns) / (after_ns - before_ns)
        return parent, interpolate_pose(_pose(row_before), _pose(row), alpha)


def _pose(row: _Row) -> np.ndarray:
    return pose_from(np.array(row[:3]), np.array(row[3:]))


class OwnListener(TransformHistory):
    """Subscribes to /tf and /tf_static as tf2_ros does, for where it is missing."""

    def __init__(self, node: Node, complain: Callable[[str], None]) -> None:
        super().__init__()
        from tf2_msgs.msg import TFMessage

        self._complain = complain
        moving = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
        static = QoSProfile(
            depth=100,
            reliability=ReliabilityPolicy.RELIABLE,
            durability=DurabilityPolicy.TRANSIENT_LOCAL,
        )
        options = QoSOverridingOptions.with_default_policies()
        node.create_subscription(
            TFMessage, "/tf", self._on_moving, moving, qos_overriding_options=options
        )
        node.create_subscription(
            TFMessage, "/tf_static", self._on_static, static, qos_overriding_options=options
        )

    def _on_moving(self, message: Any) -> None:
        self._take(message, static=False)

    def _on_static(self, message: Any) -> None:
        self._take(message, static=True)

    def _take(self, message: Any, static: bool) -> None:
        for stamped in message.transforms:
            stamp, t = stamped.header.stamp, stamped.transform.translation
            q = stamped.transform.rotation
            try:
                self.add(
                    stamped.header.frame_id.lstrip("/"),
                    stamped.child_frame_id.lstrip("/"),
                    stamp.sec * 10**9 + stamp.nanosec,
                    (t.x, t.y, t.z, q.x, q.y, q.z, q.w),
                    static,
                )
            except ValueError as error:
                self._complain(str(error))
