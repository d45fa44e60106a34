"""What Nav2 wants of a map, as read in its sources: StaticLayer and the costmaps behind it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

_MAX_CELLS = 32767  # a side
_TERNARY = (0, 100, -1)  # with Nav2's defaults 1..98 would be read as free


def broken_rules(grid: Any, qos: QoSProfile | None = None, before: Any = None) -> list[str]:
    """One sentence for every rule of Nav2 that a nav_msgs/OccupancyGrid breaks.

    qos: the publisher's. before: an earlier grid of the same topic: a costmap that does not roll
    is made anew whenever the size changes.
    """
    info, broken = grid.info, []
    if not grid.header.frame_id:
        broken.append("header.frame_id is empty")
    for name, size in (("width", info.width), ("height", info.height)):
        if not 0 < size <= _MAX_CELLS:
            broken.append(f"{name} is {size}, expected 1 to {_MAX_CELLS}")
    if len(grid.data) != info.width * info.height:
        broken.append(f"{len(grid.data)} cells, expected {info.width} x {info.height}")
    if not math.isfinite(info.resolution) or info.resolution < 1e-6:
        broken.append(f"resolution is {info.resolution}, expected at least 1e-6")
        return broken
    origin, q = info.origin.position, info.origin.orientation
    if abs(math.sqrt(q.x**2 + q.y**2 + q.z**2 + q.w**2) - 1) > 1e-4:
        broken.append("origin.orientation is not a unit quaternion")
    resolution = float(str(np.float32(info.resolution)))  # 0.05, not the float32 beside it
    for name, value in (("x", origin.x), ("y", origin.y)):
        cells = value / resolution
        if not math.isfinite(cells) or abs(cells - round(cells)) > 1e-3:
            broken.append(f"origin.{name} is {value}, not a multiple of the resolution")
    others = np.setdiff1d(np.array(grid.data, dtype=np.int64), _TERNARY)
    if len(others):
        broken.append(f"cells of {others[:5].tolist()}, expected only 0, 100 and -1")
    if before is not None and (before.info.width, before.info.height) != (info.width, info.height):
        broken.append("the size changed between two grids")
    if qos is not None and qos.reliability != ReliabilityPolicy.RELIABLE:
        broken.append("the publisher is not reliable")
    if qos is not None and qos.durability != DurabilityPolicy.TRANSIENT_LOCAL:
        broken.append("the publisher is not transient_local")
    return broken
