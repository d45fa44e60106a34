"""The demonstration: three real processes over DDS, what they leave behind, and how they fail."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from recorded import simulated, write_network, write_recording

from convonet_ros.offline.files import read_grid

BOUND_S = 240.0  # seconds on a machine with nothing else to do


def demo(out: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "convonet_ros.ros.demo", "--out", str(out), *arguments]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def processes_of(out: Path) -> list[str]:
    """Command lines of the processes that have the folder among their arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"ROS_LOG_DIR={out}".encode() in path.read_bytes():
                found.append(path.with_name("cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_network(tmp_path_factory.mktemp("weights") / "network.pt"))


def test_simulated_camera(tmp_path: Path, weights: str) -> None:
    out = tmp_path / "out"
    arguments = ("--frames", "6", "--rate", "3", "--seed", "3", "--weights", weights)
    process = demo(out, *arguments)
    printed, errors = process.communicate(timeout=BOUND_S)
    assert process.returncode == 0, errors
    assert processes_of(out) == []
    assert {path.name for path in out.iterdir()} == {
        "log", "mesh.ply", "mesh.png", "occupancy.png", "occupancy.yaml", "report.json",
    }  # fmt: skip
    report = json.loads((out / "report.json").read_text())
    assert report["scans"] == {
        "received": 6, "integrated": 6, "dropped": 0, "drop_reasons": {},
    }  # fmt: skip
    assert report["crops"]["inferred"] > 10
    assert report["crops"]["waiting"] == 0
    assert report["grid"]["broken_nav2_rules"] == []
    assert report["mesh"]["problems"] == []
    assert report["true_room"]["seed"] == 3
    assert 0 < report["true_room"]["mesh"]["seen_surface_within_10cm"] <= 1
    mesh = trimesh.load(out / "mesh.ply", process=False)
    assert len(mesh.faces) == report["mesh"]["triangles"] > 1000
    # neighbouring markers were joined: no vertex comes twice
    assert len(np.unique(mesh.vertices, axis=0)) == len(mesh.vertices)
    cells, _, resolution = read_grid(out / "occupancy.yaml")
    assert resolution == pytest.approx(0.05)
    assert (cells == 100).any()
    assert (cells == 0).any()
    with Image.open(out / "mesh.png") as picture:
        assert picture.width > 1.5 * picture.height  # the room beside its reconstruction
    assert "fits all of Nav2's rules" in printed
    assert "100%" in errors  # the progress bar


def test_recording(tmp_path: Path, weights: str) -> None:
    folder = write_recording(tmp_path / "recording", simulated(3, 4, width=96))
    out = tmp_path / "out"
    process = demo(out, "--recording", str(folder), "--rate", "3", "--weights", weights)
    _, errors = process.communicate(timeout=BOUND_S)
    assert process.returncode == 0, errors
    report = json.loads((out / "report.json").read_text())
    assert report["scans"]["integrated"] == 4
    assert report["true_room"] is None
    assert (out / "mesh.ply").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--seed", "-5"), "camera_node ended with exit code 1"),
        (("--weights", "/nowhere.pt"), "weights /nowhere.pt: no such file"),
        (("--recording", "/nowhere"), "recording /nowhere: no such folder"),
    ],
)
def test_failures_are_told(tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    out = tmp_path / "out"
    process = demo(out, "--frames", "3", *arguments)
    _, errors = process.communicate(timeout=BOUND_S)
    assert process.returncode == 1
    assert sentence in errors.splitlines()[-1]
    assert errors.splitlines()[-1].startswith("demo: ")
    assert processes_of(out) == []


def wait_for_children(process: subprocess.Popen[str], out: Path) -> None:
    until = time.monotonic() + BOUND_S
    while len(processes_of(out)) < 3:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)


def test_sigint_ends_all_of_it(tmp_path: Path, weights: str) -> None:
    out = tmp_path / "out"
    process = demo(out, "--frames", "1000", "--weights", weights)
    wait_for_children(process, out)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=BOUND_S)
    assert process.returncode == 130
    assert "demo: interrupted" in errors
    assert processes_of(out) == []


def test_nothing_stays_when_the_demo_is_killed(tmp_path: Path, weights: str) -> None:
    out = tmp_path / "out"
    process = demo(out, "--frames", "1000", "--weights", weights)
    wait_for_children(process, out)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=BOUND_S)
    until = time.monotonic() + BOUND_S
    while processes_of(out):
        assert time.monotonic() < until, processes_of(out)
        time.sleep(0.05)
