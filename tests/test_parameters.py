"""Every knob is a ROS parameter, and the committed parameter files are true."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.exceptions import ParameterImmutableException
from rclpy.node import Node
from rclpy.parameter import Parameter

from convonet_ros.config import Config, knobs, load, to_yaml
from convonet_ros.ros.parameters import declare

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def context() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.shutdown()


def node_with(**overrides: Any) -> Node:
    return Node(
        "parameters_probe",
        parameter_overrides=[Parameter(name, value=value) for name, value in overrides.items()],
        automatically_declare_parameters_from_overrides=True,
    )


def test_every_knob_is_declared_described_and_read_only() -> None:
    node = node_with()
    assert declare(node) == Config()
    for name, (value, about) in knobs(Config()).items():
        assert node.get_parameter(name).value == value
        descriptor = node.describe_parameter(name)
        assert about["sentence"] in descriptor.description
        assert descriptor.read_only
        if about["low"] is not None:
            (limits,) = [*descriptor.floating_point_range, *descriptor.integer_range]
            assert (limits.from_value, limits.to_value) == (about["low"], about["high"])
        assert all(choice in descriptor.additional_constraints for choice in about["choices"])
        refused = node.set_parameters([Parameter(name, value=value)])[0]
        assert not refused.successful


def test_overrides_reach_the_config_whole_numbers_too() -> None:
    node = node_with(**{"map.frame_id": "world", "update.budget_s": 1, "node.cameras": 3})
    config = declare(node)
    assert (config.map.frame_id, config.update.budget_s, config.node.cameras) == ("world", 1.0, 3)
    assert node.get_parameter("update.budget_s").value == 1.0
    with pytest.raises(ParameterImmutableException):
        node.undeclare_parameter("map.frame_id")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("map.frame", "odom", "did you mean 'map.frame_id'"),
        ("budget", 1.0, "unknown parameter 'budget'"),
        ("update.budget_s", "fast", "update.budget_s: expected a float"),
        ("update.budget_s", -1.0, "update.budget_s: expected 0.0 to 60.0"),
        ("node.cameras", 2.5, "node.cameras: expected a int"),
        ("node.use_pointcloud", 1, "node.use_pointcloud: expected a bool"),
        ("scan.max_range_m", float("nan"), "scan.max_range_m: expected"),
        ("scan.min_range_m", 50.0, "expected below scan.max_range_m"),
        ("model.precision", "float16", "expected one of auto, float32, bfloat16"),
        ("map.frame_id", [1, 2], "map.frame_id: expected a str"),
    ],
)
def test_a_wrong_parameter_is_named(name: str, value: Any, said: str) -> None:
    with pytest.raises(ValueError, match=name.replace(".", r"\.")) as caught:
        declare(node_with(**{name: value}))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_parameters_of_rclpy_are_no_strangers() -> None:
    declare(
        node_with(
            **{
                "use_sim_time": True,
                "qos_overrides./camera_0/depth/image.subscription.reliability": "reliable",
            }
        )
    )


def test_default_yaml_is_what_config_py_says() -> None:
    committed = (REPOSITORY / "config/default.yaml").read_text()
    assert committed == to_yaml(Config()), (
        "write it anew: python -c 'from convonet_ros.config import *; "
        'open("config/default.yaml", "w").write(to_yaml(Config()))\''
    )
    assert load(REPOSITORY / "config/default.yaml") == Config()


@pytest.mark.parametrize(
    "path", sorted(REPOSITORY.glob("config/*.yaml")), ids=lambda path: path.name
)
def test_overlays_hold_only_differences(path: Path) -> None:
    if path.name == "default.yaml":
        return
    changed = load(path)
    assert changed != Config()
    default = knobs(Config())
    for name, (value, _) in knobs(changed).items():
        if f" {name.split('.')[1]}:" in path.read_text():
            assert value != default[name][0], f"{name} repeats the default"


@pytest.mark.parametrize(
    "path", sorted(REPOSITORY.glob("config/*.yaml")), ids=lambda path: path.name
)
def test_rcl_reads_the_files_as_we_do(path: Path) -> None:
    context = rclpy.Context()
    rclpy.init(args=["--ros-args", "--params-file", str(path)], context=context)
    node = Node("convonet", context=context, automatically_declare_parameters_from_overrides=True)
    assert declare(node) == load(path)
    node.destroy_node()
    rclpy.shutdown(context=context)
