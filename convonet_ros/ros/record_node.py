"""The recorder: listens to the node like RViz and Nav2 do, and writes down what it was given."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from nav_msgs.msg import OccupancyGrid
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from convonet_ros.config import Config
from convonet_ros.datasets.world.rooms import Room, make_room
from convonet_ros.mapping.meshing import Mesh
from convonet_ros.mapping.occupancy import OccupancyGrid2D
from convonet_ros.msg import MapStatus
from convonet_ros.offline.files import merged, write_grid, write_mesh
from convonet_ros.ros.depth_source import BASE_FRAME, parameter
from convonet_ros.ros.grid_rules import broken_rules
from convonet_ros.ros.markers import MarkerScene, read_marker_array
from convonet_ros.ros.process import begin
from convonet_ros.storage import write_bytes

_RELIABLE = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
_LATCHED = QoSProfile(
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
_RESULTS = ("mesh.ply", "mesh.png", "occupancy.png", "occupancy.yaml", "report.json")


class RecordNode(Node):
    """Parameters: out (folder), seed (of the simulated room; -1: none) and frames (of its drive).

    It writes when it is told to stop: mesh.ply from the received markers, mesh.png, occupancy.png
    and .yaml from the received grid, report.json.
    """

    def __init__(self) -> None:
        super().__init__("record_node")
        self._out = Path(parameter(self, "out", "recorded"))
        seed = parameter(self, "seed", -1, low=-1)
        self._frames = parameter(self, "frames", 60, low=1)
        self._room: Room | None = make_room(seed) if seed >= 0 else None
        self._scene = MarkerScene()
        self._grid: Any = None
        self._broken_rules: dict[str, None] = {}
        self._statuses: list[Any] = []
        self._path: list[tuple[float, float, float]] = []
        self._problems: list[str] = []
        self._mesh_times_s: list[float] = []
        self._grid_times_s: list[float] = []
        self._out.mkdir(parents=True, exist_ok=True)
        for name in _RESULTS:  # what is there afterwards is of this run
            (self._out / name).unlink(missing_ok=True)
        self.create_subscription(MarkerArray, "/convonet/mesh", self._on_mesh, _RELIABLE, raw=True)
        self.create_subscription(OccupancyGrid, "/convonet/occupancy_grid", self._on_grid, _LATCHED)
        self.create_subscription(MapStatus, "/convonet/status", self._statuses.append, 10)
        self.create_subscription(TFMessage, "/tf", self._on_transforms, 100)

    # ---- what arrives -----------------------------------------------------------------------

    def _on_mesh(self, content: bytes) -> None:
        try:
            markers = read_marker_array(content)
            self._scene.take(markers)
        except ValueError as error:
            self._problems.append(f"~/mesh: {error}")
            self.get_logger().error(self._problems[-1], throttle_duration_sec=5.0)
            return
        self._mesh_times_s.append(time.monotonic())

    def _on_grid(self, grid: Any) -> None:
        publishers = self.get_publishers_info_by_topic("/convonet/occupancy_grid")
        qos = publishers[0].qos_profile if publishers else None
        self._broken_rules.update(dict.fromkeys(broken_rules(grid, qos, self._grid)))
        self._grid = grid
        self._grid_times_s.append(time.monotonic())

    def _on_transforms(self, message: Any) -> None:
        for stamped in message.transforms:
            if stamped.child_frame_id == BASE_FRAME:
                t = stamped.transform.translation
                self._path.append((t.x, t.y, t.z))

    # ---- what comes of it -------------------------------------------------------------------

    def write(self) -> None:
        """Write all results. Raises ValueError when there is nothing to write."""
        from convonet_ros.offline.pictures import picture_of_mesh

        if not self._statuses:
            raise ValueError("nothing arrived on /convonet/status; is the node convonet running?")
        mesh = merged(self._scene.meshes())
        report = self._report(mesh)
        if self._grid is not None and not self._broken_rules:
            write_grid(self._out, _grid_of(self._grid))
        if not mesh.empty:
            write_mesh(self._out / "mesh.ply", mesh)
            picture_of_mesh(self._out / "mesh.png", mesh, np.array(self._path), self._room)
        write_bytes(self._out / "report.json", (json.dumps(report, indent=2) + "\n").encode())

    def _report(self, mesh: Mesh) -> dict[str, Any]:
        last = self._statuses[-1]
        busy = [status for status in self._statuses if status.scans_integrated]
        latencies_ms = [status.latency_ms for status in busy if status.latency_ms > 0]
        return {
            "scans": {
                "received": last.scans_received,
                "integrated": last.scans_integrated,
                "dropped": last.scans_dropped,
                "drop_reasons": dict(zip(last.drop_reasons, last.drop_counts, strict=True)),
            },
            "crops": {"inferred": last.crops_inferred, "waiting": last.crops_waiting},
            "milliseconds": {
                name: _median([getattr(status, f"{name}_ms") for status in busy])
                for name in ("integrate", "infer", "mesh")
            },
            "mesh": {
                "messages": len(self._mesh_times_s),
                "rate_hz": _rate(self._mesh_times_s),
                "latency_ms": {
                    "median": _median(latencies_ms),
                    "max": round(max(latencies_ms, default=0.0), 1),
                },
                "markers": len(self._scene.meshes()),
                "vertices": len(mesh.vertices),
                "triangles": len(mesh.triangles),
                "observed_share": round(float(mesh.observed.mean()), 4)
                if len(mesh.observed)
                else 0,
                "problems": self._problems[:10],
            },
            "grid": {
                "messages": len(self._grid_times_s),
                "rate_hz": _rate(self._grid_times_s),
                "cells": [self._grid.info.width, self._grid.info.height] if self._grid else [0, 0],
                "broken_nav2_rules": list(self._broken_rules),
            },
            "true_room": self._agreement(mesh),
            "device": last.device,
            "last_error": last.last_error,
        }

    def _agreement(self, mesh: Mesh) -> dict[str, Any] | None:
        """How the results agree with the true room, where it is known."""
        if self._room is None or mesh.empty:
            return None
        from convonet_ros.offline.agreement import grid_agreement, mesh_agreement, seen_surface

        config = Config()
        seen = seen_surface(self._room, self._frames, config.scan.max_range_m)
        result = {"seed": self._room.seed, "mesh": mesh_agreement(mesh, self._room, seen)}
        if self._grid is not None:
            grid = _grid_of(self._grid)
            band = (config.grid.min_z_m, config.grid.max_z_m)
            result["grid"] = grid_agreement(
                grid.ternary, grid.origin_m, grid.resolution_m, self._room, band
            )
        return result


def _grid_of(message: Any) -> OccupancyGrid2D:
    """A received nav_msgs/OccupancyGrid as our own grid."""
    info, stamp = message.info, message.header.stamp
    cells = np.array(message.data, dtype=np.int8).reshape(info.height, info.width)
    origin = np.array([info.origin.position.x, info.origin.position.y])
    # float32 on the wire: 0.05 again, not 0.05000000074505806
    resolution = float(str(np.float32(info.resolution)))
    stamp_ns = stamp.sec * 10**9 + stamp.nanosec
    return OccupancyGrid2D(origin, resolution, cells, cells, stamp_ns)


def _median(values: list[float]) -> float:
    return round(float(np.median(values)), 1) if values else 0.0


def _rate(times_s: list[float]) -> float:
    """Messages per second between the first and the last."""
    if len(times_s) < 2 or times_s[-1] <= times_s[0]:
        return 0.0
    return round((len(times_s) - 1) / (times_s[-1] - times_s[0]), 2)


def main(args: list[str] | None = None) -> int:
    """Record until SIGINT or SIGTERM, then write; returns the exit code."""
    stop = begin("record_node", args)
    if stop is None:
        return 1
    try:
        node = RecordNode()
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        while not stop.is_set():
            executor.spin_once(timeout_sec=0.2)
        node.write()
    except (ValueError, OSError) as error:
        rclpy.logging.get_logger("record_node").fatal(str(error))
        return 1
    finally:
        rclpy.shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
