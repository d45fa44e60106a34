"""The demonstration: camera, node and recorder as three processes that talk over DDS.

`python -m convonet_ros.ros.demo --out out/demo` starts them, shows how far they are, ends them
and says what came out.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from convonet_ros.datasets.recordings import open_recording

_IDLE_S = 2.5  # so long nothing may be left to do until the results count as complete
_STALLED_S = 120.0  # without any progress the demonstration has failed
_WRITE_S = 90.0  # the recorder draws a picture
_END_S = 10.0


class DemoError(Exception):
    """The demonstration failed; the text says why."""


@dataclass(frozen=True, slots=True)
class Child:
    """One of the processes, in a process group of its own, and where it writes."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def check(self, may_end: bool = False) -> bool:
        """Whether it still runs. Raises DemoError when it ended and should not have."""
        code = self.process.poll()
        if code is None or (may_end and code == 0):
            return code is None
        lines = self.log.read_text(errors="replace").strip().splitlines()
        last = f": {lines[-1]}" if lines else ""
        raise DemoError(f"{self.name} ended with exit code {code}{last} (all of it: {self.log})")

    def end(self, patience_s: float) -> None:
        """Ask it to end; insist when it does not."""
        for number, wait_s in ((signal.SIGINT, patience_s), (signal.SIGTERM, 2.0)):
            if self.process.poll() is None:
                self.process.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(wait_s)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def start(name: str, parameters: dict[str, Any], folder: Path) -> Child:
    """Start a node of the package (a module of convonet_ros.ros) with parameters."""
    command = [sys.executable, "-m", f"convonet_ros.ros.{name}", "--ros-args"]
    for key, value in parameters.items():
        command += ["-p", f"{key}:={json.dumps(value)}"]
    log = folder / f"{name}.txt"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
    return Child(name, process, log)


def _end_with_parent() -> None:
    """Have Linux end this process when the one that started it is gone, however it went."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, int(signal.SIGTERM))


class Progress:
    """What the node says of itself in ~/status, and since when nothing is left to do."""

    def __init__(self) -> None:
        import rclpy

        from convonet_ros.msg import MapStatus

        rclpy.init(signal_handler_options=rclpy.signals.SignalHandlerOptions.NO)
        self._rclpy = rclpy
        self._node = rclpy.create_node("demo")
        self._node.create_subscription(MapStatus, "/convonet/status", self._on_status, 10)
        self.status: Any = None
        self._changed_s = self._busy_s = time.monotonic()

    def _on_status(self, status: Any) -> None:
        now = time.monotonic()
        if self._figures(status) != self._figures(self.status):
            self._changed_s = now
        done = status.scans_integrated + status.scans_dropped
        if status.crops_waiting or done < status.scans_received or not status.scans_received:
            self._busy_s = now
        self.status = status

    @staticmethod
    def _figures(status: Any) -> tuple[int, ...]:
        if status is None:
            return ()
        return (status.scans_received, status.scans_integrated, status.crops_inferred)

    def spin(self) -> None:
        self._rclpy.spin_once(self._node, timeout_sec=0.1)

    @property
    def idle(self) -> bool:
        """Nothing has been left to do for a while, and the node said so just now."""
        return self.status is not None and time.monotonic() - self._busy_s > _IDLE_S

    @property
    def stalled(self) -> bool:
        return time.monotonic() - self._changed_s > _STALLED_S

    def close(self) -> None:
        self._node.destroy_node()
        self._rclpy.shutdown()


def run(parsed: argparse.Namespace, stop: threading.Event) -> None:
    """Run the demonstration. Raises DemoError or ValueError when it fails."""
    out = parsed.out.resolve()
    logs = out / "log"
    logs.mkdir(parents=True, exist_ok=True)
    # On their own: nobody else's domain, nothing beyond this machine, no locks left behind.
    os.environ.update(
        ROS_DOMAIN_ID=str(1 + os.getpid() % 100),
        ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST",
        FASTDDS_BUILTIN_TRANSPORTS="UDPv4",
        ROS_LOG_DIR=str(logs),
    )
    if parsed.recording is None:
        total = parsed.frames
        drive = {"seed": parsed.seed, "frames": total}
        source, source_name = {**drive, "rate_hz": parsed.rate}, "camera_node"
    else:
        folder = parsed.recording.resolve()
        total = len(open_recording(folder))
        drive = {}
        source, source_name = {"folder": str(folder), "rate_hz": parsed.rate}, "replay_node"
    node = {
        "node.status_rate_hz": 4.0,
        "node.queue_size": 100,
        # Every frame is to arrive, however busy the machine is.
        **{
            f"qos_overrides./camera_0/depth/{topic}.subscription.reliability": "reliable"
            for topic in ("image", "camera_info")
        },
        **({"model.weights": str(parsed.weights.resolve())} if parsed.weights else {}),
    }
    children: list[Child] = []
    progress = None
    try:
        children.append(start("node", node, logs))
        children.append(start("record_node", {"out": str(out), **drive}, logs))
        children.append(start(source_name, source, logs))
        progress = Progress()
        _watch(progress, children, total, stop)
        mapper, recorder, _ = children
        recorder.end(_WRITE_S)
        recorder.check(may_end=True)
        mapper.end(_END_S)
        mapper.check(may_end=True)
    finally:
        for child in reversed(children):
            child.end(_END_S)
        if progress is not None:
            progress.close()


def _watch(progress: Progress, children: list[Child], total: int, stop: threading.Event) -> None:
    """Show the progress until all is sent and nothing is left to do."""
    *others, source = children
    sending = True
    with tqdm(total=total, unit="frame", desc="starting") as bar:
        while not stop.is_set():
            progress.spin()
            for child in others:
                child.check()
            sending = source.check(may_end=True)
            status = progress.status
            if status is not None and status.scans_received:
                bar.set_description("driving" if sending else "catching up", refresh=False)
                bar.set_postfix(
                    crops=status.crops_inferred, waiting=status.crops_waiting, refresh=False
                )
                bar.update(status.scans_received - bar.n)
            if progress.stalled:
                raise DemoError(f"nothing has happened for {_STALLED_S:.0f} s; see {others[0].log}")
            if not sending and progress.idle:
                return
    raise DemoError("interrupted")


def figures(out: Path) -> str:
    """The main figures of a report, for people."""
    report = json.loads((out / "report.json").read_text())
    scans, mesh, grid = report["scans"], report["mesh"], report["grid"]
    latency = mesh["latency_ms"]["median"]
    lines = [
        f"scans:   {scans['integrated']} of {scans['received']} integrated, "
        f"{report['milliseconds']['integrate']:.0f} ms each; {report['crops']['inferred']} crops "
        f"inferred on {report['device']}",
        f"mesh:    {mesh['triangles']} triangles from {mesh['messages']} messages; "
        f"the oldest change in one is {latency / 1000:.1f} s old (median)",
        f"grid:    {grid['cells'][0]} x {grid['cells'][1]} cells; "
        + ("; ".join(grid["broken_nav2_rules"]) or "fits all of Nav2's rules"),
    ]
    truth = report["true_room"]
    if truth is not None:
        lines.append(
            f"truth:   {truth['mesh']['vertices_within_5cm']:.1%} of the mesh within 5 cm of the "
            f"true room, {truth['mesh']['seen_surface_within_5cm']:.1%} of what was seen "
            f"covered, {truth['grid']['false_obstacle_cells']} cells of false obstacles"
        )
    lines.append(f"results: {out}/mesh.png, mesh.ply, occupancy.png, report.json")
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Run the demonstration; returns the exit code."""
    parser = argparse.ArgumentParser(prog="demo", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the results")
    parser.add_argument("--recording", type=Path, help="replay this folder, not the simulated room")
    parser.add_argument("--seed", type=int, default=3, help="of the simulated room (default: 3)")
    parser.add_argument("--frames", type=int, default=60, help="of the drive (default: 60)")
    parser.add_argument("--rate", type=float, default=2.0, help="frames per second (default: 2)")
    parser.add_argument("--weights", type=Path, help="checkpoint (default: the package's)")
    parsed = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        run(parsed, stop)
    except (DemoError, ValueError, OSError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 130 if stop.is_set() else 1
    sys.stdout.write(figures(parsed.out.resolve()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
