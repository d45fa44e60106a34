"""Settings of every test session, and the shared data."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Set before anything imports rclpy: the tests' nodes talk to each other on this machine and to
# nobody else, also when two sessions run at once. UDP, because the shared-memory transport leaves
# locks behind when a process is killed.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_LOCALHOST_ONLY"] = "1"
os.environ["FASTDDS_BUILTIN_TRANSPORTS"] = "UDPv4"

REPOSITORY = Path(__file__).resolve().parents[1]


def shared(*parts: str) -> Path:
    """A folder of the data beside the repository (CONVONET_SHARED names another place)."""
    beside = Path(os.environ.get("CONVONET_SHARED", REPOSITORY.parent / "shared"))
    return beside.joinpath(*parts)


@pytest.fixture(scope="session")
def redwood() -> Path:
    """The recorded flat."""
    folder = shared("data", "redwood_apartment")
    if not folder.is_dir():
        pytest.skip(f"no recording at {folder}; CONVONET_SHARED names the folder that holds data/")
    return folder


@pytest.fixture(scope="session")
def goldens() -> Path:
    """Outputs recorded from upstream's code."""
    folder = shared("goldens")
    if not folder.is_dir():
        pytest.skip(f"no outputs at {folder}; CONVONET_SHARED names the folder that holds goldens/")
    return folder


@pytest.fixture(scope="session")
def shapes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two objects and a room on disk."""
    from convonet_ros.datasets.generated import write_shapes

    path = tmp_path_factory.mktemp("shapes")
    assert len(list(write_shapes(path, "objects", range(1, 3), "train", workers=2))) == 2
    assert len(list(write_shapes(path, "rooms", range(1), "train", workers=1))) == 1
    for kind in ("objects", "rooms"):
        (path / kind / "test.lst").write_text((path / kind / "train.lst").read_text())
    return path


@pytest.fixture
def driver() -> Iterator[Any]:
    """The other side of the node's topics, a `driver.Driver`."""
    from driver import Driver

    found = Driver()
    yield found
    found.close()


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Parameters of the node; a test may change them before it asks for the node."""
    from driver import SETTINGS

    return {**SETTINGS, "node.save_dir": str(tmp_path / "saved")}


@pytest.fixture
def node(driver: Any, settings: dict[str, Any]) -> Iterator[Any]:
    """The `ReconstructNode` with a tiny network, spinning."""
    import rclpy
    from driver import Spinning, tiny_network
    from rclpy.executors import MultiThreadedExecutor
    from rclpy.parameter import Parameter

    from convonet_ros.ros.node import ReconstructNode

    rclpy.init()
    parameters = [Parameter(name, value=value) for name, value in settings.items()]
    node = ReconstructNode(tiny_network(), parameters)
    spinning = Spinning(node, MultiThreadedExecutor(2))
    try:
        driver.wait_for_node()
        # What a best-effort publisher sends before the subscriber knows it is lost for good.
        driver.wait(lambda: node.count_publishers("/pointcloud"), "the publisher of clouds")
        yield node
        assert spinning.thread.is_alive(), "an exception left a callback"
        assert not node.worker.done(), "the worker died"
    finally:
        spinning.stop()
        node.close()
        rclpy.shutdown()
