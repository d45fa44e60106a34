"""The launch file and the RViz configuration name what the node really has."""

import importlib.util
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy")

from convonet_ros.ros import outputs

REPOSITORY = Path(__file__).resolve().parents[1]
LAUNCH_FILE = REPOSITORY / "launch" / "reconstruct.launch.py"


@pytest.fixture
def launch_file() -> ModuleType:
    """The launch file as a module."""
    pytest.importorskip("launch_ros.actions", reason="launch_ros comes with a ROS 2 distribution")
    spec = importlib.util.spec_from_file_location("reconstruct_launch", LAUNCH_FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def started(module: ModuleType, **arguments: str) -> dict[str, Any]:
    """The nodes that would start with some arguments, by executable."""
    from launch import LaunchContext

    context = LaunchContext()
    for entity in module.generate_launch_description().entities:
        if hasattr(entity, "default_value") and entity.name not in arguments:
            entity.execute(context)
    context.launch_configurations.update(arguments)
    found = {}
    for node in module.nodes(context):
        if node.condition is None or node.condition.evaluate(context):
            node._perform_substitutions(context)
            found[node._Node__node_executable] = node
    return found


def files_of(node: Any) -> list[str]:
    return [str(a[0]) for a in node._Node__expanded_parameter_arguments if a[1]]


def test_alone_it_starts_the_node_with_the_defaults(launch_file: ModuleType) -> None:
    nodes = started(launch_file)
    assert list(nodes) == ["reconstruct_node"]
    files = files_of(nodes["reconstruct_node"])
    assert Path(files[0]) == REPOSITORY / "config" / "default.yaml"


def test_overlays_follow_the_defaults_in_their_order(
    launch_file: ModuleType, tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("/**: {ros__parameters: {map: {frame_id: world}}}")
    files = files_of(started(launch_file, overlays=f"lidar, {mine}")["reconstruct_node"])
    assert [Path(f).name for f in files[:3]] == ["default.yaml", "lidar.yaml", "mine.yaml"]
    assert "use_sim_time" in Path(files[3]).read_text()
    with pytest.raises(ValueError, match="one of the package's: lidar, tabletop"):
        started(launch_file, overlays="lydar")


def test_rviz_camera_and_recording_are_optional(launch_file: ModuleType, tmp_path: Path) -> None:
    nodes = started(launch_file, rviz="true", camera="true", namespace="/robot1/")
    assert set(nodes) == {"reconstruct_node", "camera_node", "rviz2"}
    assert nodes["reconstruct_node"].expanded_node_namespace == "/robot1"
    assert len(nodes["rviz2"].expanded_remapping_rules) == len(launch_file.SHOWN)
    nodes = started(launch_file, recording=str(tmp_path), use_sim_time="true")
    assert set(nodes) == {"reconstruct_node", "replay_node"}
    for node in nodes.values():
        assert any("use_sim_time: true" in Path(f).read_text() for f in files_of(node))


def test_launch_file_starts_executables_that_exist() -> None:
    text = LAUNCH_FILE.read_text()
    ours = set(re.findall(r'executable="(\w+_node)"', text))
    installed = set(
        re.findall(r"install_node\((\w+) ", (REPOSITORY / "CMakeLists.txt").read_text())
    )
    assert ours
    assert ours <= installed
    for path in re.findall(r'SHARE / "(\w+)" / "([\w.]+)"', text):
        assert (REPOSITORY / path[0] / path[1]).is_file()


def test_rviz_shows_topics_that_the_node_publishes() -> None:
    tree = yaml.safe_load((REPOSITORY / "rviz" / "reconstruct.rviz").read_text())
    displays = {d["Name"]: d for d in tree["Visualization Manager"]["Displays"]}
    topics = {d["Topic"]["Value"] for d in displays.values() if "Topic" in d}
    assert topics == {"/convonet/mesh", "/convonet/occupancy_grid", "/convonet/occupancy_cloud"}
    source = inspect.getsource(outputs)
    assert all(f'"{topic.split("/")[-1]}"' in source for topic in topics)
    assert displays["Occupancy grid"]["Topic"]["Durability Policy"] == "Transient Local"
    assert tree["Visualization Manager"]["Global Options"]["Fixed Frame"] == "odom"
