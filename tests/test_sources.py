"""The simulated camera and the replay: what a real camera's driver and robot would publish."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from driver import Driver
from recorded import simulated, write_recording
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image
from tf2_msgs.msg import TFMessage

from convonet_ros.geometry import canonical_pose
from convonet_ros.ros.demo import Child, start
from convonet_ros.ros.transforms import TransformHistory
from convonet_ros.sensors import Intrinsics, depth_from_image


class Listener:
    """Hears a camera and its transforms through a Driver, reliably."""

    def __init__(self) -> None:
        self.driver = Driver()
        self.history = TransformHistory()
        self.images = self.driver.listen("/camera_0/depth/image", Image)
        self.infos = self.driver.listen("/camera_0/depth/camera_info", CameraInfo)
        self.driver.node.create_subscription(TFMessage, "/tf", self._add(False), 100)
        from driver import LATCHED

        self.driver.node.create_subscription(TFMessage, "/tf_static", self._add(True), LATCHED)

    def _add(self, static: bool):  # type: ignore[no-untyped-def]
        def add(message: TFMessage) -> None:
            for stamped in message.transforms:
                t, q = stamped.transform.translation, stamped.transform.rotation
                self.history.add(
                    stamped.header.frame_id,
                    stamped.child_frame_id,
                    stamp_of(stamped),
                    (t.x, t.y, t.z, q.x, q.y, q.z, q.w),
                    static,
                )

        return add


def stamp_of(message: object) -> int:
    stamp = message.header.stamp  # type: ignore[attr-defined]
    return stamp.sec * 10**9 + stamp.nanosec


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    yield listener
    listener.driver.close()


def check(listener: Listener, child: Child, truth: list) -> None:  # type: ignore[type-arg]
    """All frames arrive, with their pixels, their camera and their pose."""
    try:
        listener.driver.wait(
            lambda: child.process.poll() is not None and len(listener.images) >= len(truth),
            "all frames",
        )
    finally:
        child.end(5.0)
    assert child.process.returncode == 0, child.log.read_text()
    assert len(listener.images) == len(listener.infos) == len(truth)
    for image, info, frame in zip(listener.images, listener.infos, truth, strict=True):
        assert image.encoding == "16UC1"
        assert stamp_of(image) == stamp_of(info)
        assert image.header.frame_id == info.header.frame_id == "camera_0_optical_frame"
        np.testing.assert_array_equal(depth_from_image(image), frame.depth)
        assert Intrinsics.from_camera_info(info) == frame.intrinsics
        T = listener.history.lookup("odom", "camera_0_optical_frame", stamp_of(image))
        # bit for bit what the recording's reader gives: so the maps can be the same
        np.testing.assert_array_equal(canonical_pose(T), canonical_pose(frame.T_map_camera))
    stamps = [stamp_of(image) for image in listener.images]
    assert sorted(set(stamps)) == stamps


def test_camera(listener: Listener, tmp_path: Path) -> None:
    parameters = {"seed": 3, "frames": 5, "width": 160, "rate_hz": 20}
    check(listener, start("camera_node", parameters, tmp_path), simulated(3, 5))


def test_replay(listener: Listener, tmp_path: Path) -> None:
    frames = simulated(3, 5)
    folder = write_recording(tmp_path / "recording", frames)
    parameters = {"folder": str(folder), "frames": "1::2", "rate_hz": 20.0}
    check(listener, start("replay_node", parameters, tmp_path), frames[1::2])


def test_replay_in_a_loop_until_sigint(listener: Listener, tmp_path: Path) -> None:
    folder = write_recording(tmp_path / "recording", simulated(3, 2, width=64))
    (folder / "frame-000001.depth.png").write_bytes(b"broken")
    parameters = {"folder": str(folder), "loop": True, "rate_hz": 50.0}
    child = start("replay_node", parameters, tmp_path)
    try:
        listener.driver.wait(lambda: len(listener.images) > 5, "the recording again and again")
        child.process.send_signal(signal.SIGINT)
        assert child.process.wait(10.0) == 0
    finally:
        child.end(5.0)
    stamps = [stamp_of(image) for image in listener.images]
    assert sorted(set(stamps)) == stamps  # a loop never goes back in time
    assert "skipped frame-000001.depth.png" in child.log.read_text()


def test_a_simulated_clock_is_waited_for(listener: Listener, tmp_path: Path) -> None:
    clock = listener.driver.node.create_publisher(Clock, "/clock", 10)
    parameters = {"frames": 2, "width": 64, "rate_hz": 20.0, "use_sim_time": True}
    child = start("camera_node", parameters, tmp_path)
    message = Clock()
    message.clock.sec = 77

    def both() -> bool:
        clock.publish(message)
        return len(listener.images) == 2

    try:
        listener.driver.wait(both, "frames once the clock runs")
    finally:
        child.end(5.0)
    assert [stamp_of(image) for image in listener.images] == [77 * 10**9] * 2


@pytest.mark.parametrize(
    ("node", "arguments", "sentence"),
    [
        ("camera_node", ["rate_hz:=0"], "rate_hz: expected 0.01 to 1000.0, got 0.0"),
        ("camera_node", ["frames:=many"], "frames: expected a int, got 'many'"),
        ("replay_node", [], "folder: expected the folder of a recording, got none"),
        ("replay_node", ["folder:=/nowhere"], "recording /nowhere: no such folder"),
        ("record_node", ["seed:=x"], "seed: expected a int, got 'x'"),
    ],
)
def test_bad_parameters_stop_with_a_sentence(
    node: str, arguments: list[str], sentence: str
) -> None:
    command = [sys.executable, "-m", f"convonet_ros.ros.{node}", "--ros-args"]
    for argument in arguments:
        command += ["-p", argument]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 1
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
