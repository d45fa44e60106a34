"""The knobs of config.py as ROS parameters."""

from __future__ import annotations

from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node

from convonet_ros.config import Config, knobs, with_values

_RCLPY_OWN = ("use_sim_time", "start_type_description_service")
_RCLPY_PREFIX = "qos_overrides."


def declare(node: Node) -> Config:
    """Declare every knob on the node, described and read-only, and return the configuration.

    The node must have been made with `automatically_declare_parameters_from_overrides`, so that
    a name that nobody knows is seen too. Raises ValueError naming the parameter for an unknown
    name, a wrong type or a value out of range.
    """
    given = {
        name: parameter.value
        for name, parameter in node.get_parameters_by_prefix("").items()
        if name not in _RCLPY_OWN and not name.startswith(_RCLPY_PREFIX)
    }
    config = with_values(Config(), given)
    for name in given:
        node.undeclare_parameter(name)  # it has neither description nor range
    for name, (value, metadata) in knobs(config).items():
        node.declare_parameter(name, value, _descriptor(value, metadata), ignore_override=True)
    return config


def _descriptor(value: Any, metadata: dict[str, Any]) -> ParameterDescriptor:
    unit, low, high = metadata["unit"], metadata["low"], metadata["high"]
    descriptor = ParameterDescriptor(
        description=metadata["sentence"] + (f" ({unit})" if unit else ""),
        additional_constraints=", ".join(metadata["choices"]),
        read_only=True,
    )
    if isinstance(value, float):
        descriptor.floating_point_range = [
            FloatingPointRange(from_value=float(low), to_value=float(high), step=0.0)
        ]
    elif isinstance(value, int) and not isinstance(value, bool):
        descriptor.integer_range = [IntegerRange(from_value=int(low), to_value=int(high), step=1)]
    return descriptor
