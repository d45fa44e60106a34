"""The node as a process: signals, and starts that fail."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from driver import BOUND_S, SECOND, START_NS, Driver
from visualization_msgs.msg import MarkerArray

from convonet_ros.model import zoo
from convonet_ros.model.crops import CropNetwork, CropSpec
from convonet_ros.ros.node import main


@pytest.fixture(scope="module")
def big_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.pt"
    zoo.save(path, CropNetwork(CropSpec()), {"temperature": 1.0})
    return path


def slowness() -> float:
    """How much longer than alone things take here now; 1 on a machine that has nothing else to do.

    The bound below is for a robot's computer, not for one that shares its cores with a training.
    """
    wall, own = time.perf_counter(), time.process_time()
    while time.process_time() - own < 0.2:
        pass
    return (time.perf_counter() - wall) / 0.2


def start_node(*parameters: str) -> subprocess.Popen[str]:
    arguments = [word for parameter in parameters for word in ("-p", parameter)]
    return subprocess.Popen(
        [sys.executable, "-m", "convonet_ros.ros.node", "--ros-args", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_busy_node_at_once(
    driver: Driver, big_weights: Path, number: signal.Signals
) -> None:
    process = start_node(f"model.weights:={big_weights}", "node.status_rate_hz:=50.0")
    try:
        driver.wait_for_node()
        driver.listen("/convonet/mesh", MarkerArray)
        rng = np.random.default_rng(0)
        for i in range(5):
            driver.see(START_NS + i * SECOND, 20 * i, rng.uniform(0.5, 3.0, (48, 64)))
        driver.status(lambda s: s.crops_inferred > 0 and s.crops_waiting > 5, "a busy node")
        started = time.monotonic()
        process.send_signal(number)
        output, _ = process.communicate(timeout=BOUND_S)
        seconds = time.monotonic() - started
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert seconds < 3.0 * slowness(), f"{seconds:.1f} s\n{output}"
    assert "Traceback" not in output
    assert "exception" not in output, output


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts the signal handlers back that main() takes."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("model.weights:=/nowhere/crop.pt", "/nowhere/crop.pt: no such file"),
        ("model.weights:={folder}/corrupt.pt", "not a checkpoint of this network"),
        ("model.device:=toaster", "model.device"),
        ("map.frame:=odom", "did you mean 'map.frame_id'"),
        ("node.cameras:=99", "node.cameras: expected 0 to 16"),
        ("--params-file {folder}/broken.yaml", "broken.yaml"),
        ("--params-file {folder}/missing.yaml", "missing.yaml"),
        ("--no-such-option", "--no-such-option"),
    ],
)
def test_what_cannot_start_says_so_in_a_sentence(
    argument: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "corrupt.pt").write_bytes(zoo.SHIPPED.read_bytes()[:5000])
    (tmp_path / "broken.yaml").write_text("/**: {ros__parameters: [1, }")
    words = argument.format(folder=tmp_path).split()
    if ":=" in argument:
        words.insert(0, "-p")
    assert main(["--ros-args", *words]) == 1
    output = capfd.readouterr()
    sentences = [line for line in (output.out + output.err).splitlines() if "[rcl]" not in line]
    assert len(sentences) == 1, sentences
    assert said in sentences[0]


def test_a_node_that_cannot_start_exits_with_one() -> None:
    process = start_node("model.weights:=/nowhere/crop.pt")
    output, _ = process.communicate(timeout=BOUND_S)
    assert process.returncode == 1
    assert output.count("\n") == 1, output
    assert "/nowhere/crop.pt: no such file" in output
