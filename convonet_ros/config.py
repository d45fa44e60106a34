"""Every knob of the system on one screen.

A knob exists once: its dotted name, default, sentence, unit and range stand here, and the YAML
files, the command line and the ROS parameters derive from it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml


def knob(
    default: Any,
    sentence: str,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that carries its own documentation and limits."""
    metadata = {"sentence": sentence, "unit": unit, "low": low, "high": high, "choices": choices}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class ScanConfig:
    min_range_m: float = knob(0.3, "Points nearer to the sensor are left out.", "m", 0.0, 100.0)
    max_range_m: float = knob(4.0, "Points farther from the sensor are left out.", "m", 0.1, 200.0)
    max_points: int = knob(80_000, "A larger scan is thinned evenly to this.", "", 100, 10_000_000)
    max_rays: int = knob(
        80_000,
        "At most so many rays carve free space; fewer leave gaps far away.",
        "",
        0,
        10_000_000,
    )
    carve_margin_m: float = knob(
        0.05, "A ray stops carving this far before its end...", "m", 0.0, 10.0
    )
    carve_margin_per_m2: float = knob(
        0.005, "...and this much more per squared metre of range (depth noise).", "1/m", 0.0, 1.0
    )


@dataclass(frozen=True, slots=True)
class MapConfig:
    frame_id: str = knob("odom", "The map's frame: gravity-aligned, z up.")
    window_xy_crops: int = knob(5, "Side of the rolling window, in crops.", "crops", 1, 64)
    window_z_crops: int = knob(3, "Height of the rolling window, in crops.", "crops", 1, 64)
    hit_weight: int = knob(2, "Evidence that one scan's hit adds to a sub-voxel.", "", 1, 100)
    max_evidence: int = knob(
        6, "Evidence saturates here: so many scans see through an obstacle until it is gone.",
        "", 1, 127,
    )  # fmt: skip
    max_points_per_cell: int = knob(
        32, "A sub-voxel stops averaging after so many points.", "", 1, 255
    )


@dataclass(frozen=True, slots=True)
class ModelConfig:
    weights: str = knob("", "Path of a checkpoint; empty: the weights of the package.")
    config: str = knob(
        "", "What an upstream checkpoint is: its YAML file or its name; empty: the file says it."
    )
    device: str = knob("auto", "Where to compute; auto takes CUDA where there is one.")
    precision: str = knob(
        "auto",
        "Arithmetic of the network; auto takes bfloat16 where the processor has it.",
        choices=("auto", "float32", "bfloat16"),
    )
    threshold: float = knob(
        0.3,
        "Occupied from this probability on: 1 / (1 + k), where missing an obstacle is as bad as k "
        "false ones.",
        "", 0.01, 0.99,
    )  # fmt: skip
    completion_m: float = knob(
        0.4, "Surfaces are predicted up to this distance from a measured point.", "m", 0.0, 0.4
    )


@dataclass(frozen=True, slots=True)
class UpdateConfig:
    budget_s: float = knob(0.3, "Time that one update may spend on inference.", "s", 0.0, 60.0)
    batch_crops: int = knob(
        0, "Crops inferred in one batch; 0: 1 on the CPU, 8 on a GPU.", "crops", 0, 256
    )


@dataclass(frozen=True, slots=True)
class GridConfig:
    min_z_m: float = knob(0.1, "Lower end of the height band of the 2D grid.", "m", -100.0, 100.0)
    max_z_m: float = knob(1.5, "Upper end of the height band of the 2D grid.", "m", -100.0, 100.0)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    cameras: int = knob(1, "Number of depth cameras camera_0, camera_1, ...", "", 0, 16)
    use_pointcloud: bool = knob(True, "Subscribe to the topic pointcloud.")
    queue_size: int = knob(10, "Scans that may wait; the oldest is dropped.", "scans", 1, 1000)
    tf_timeout_s: float = knob(0.5, "How long a scan waits for its transform.", "s", 0.0, 60.0)
    mesh_rate_hz: float = knob(5.0, "Highest rate of the mesh topics; 0: off.", "Hz", 0.0, 1000.0)
    grid_rate_hz: float = knob(2.0, "Highest rate of the grid topics; 0: off.", "Hz", 0.0, 1000.0)
    status_rate_hz: float = knob(1.0, "Rate of ~/status; 0: off.", "Hz", 0.0, 1000.0)
    save_dir: str = knob("convonet_map", "Folder into which ~/save_map writes.")


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration; every section is a frozen dataclass of knobs."""

    scan: ScanConfig = field(default_factory=ScanConfig)
    map: MapConfig = field(default_factory=MapConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    update: UpdateConfig = field(default_factory=UpdateConfig)
    grid: GridConfig = field(default_factory=GridConfig)
    node: NodeConfig = field(default_factory=NodeConfig)

    def __post_init__(self) -> None:
        if self.scan.min_range_m >= self.scan.max_range_m:
            raise ValueError(
                f"scan.min_range_m: expected below scan.max_range_m {self.scan.max_range_m}, "
                f"got {self.scan.min_range_m}"
            )
        if self.grid.min_z_m >= self.grid.max_z_m:
            raise ValueError(
                f"grid.min_z_m: expected below grid.max_z_m {self.grid.max_z_m}, "
                f"got {self.grid.min_z_m}"
            )


def knobs(config: Config) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Dotted name -> (value, metadata: sentence, unit, low, high, choices) of every knob."""
    found = {}
    for section in fields(config):
        part = getattr(config, section.name)
        for item in fields(part):
            value = getattr(part, item.name)
            found[f"{section.name}.{item.name}"] = (value, dict(item.metadata))
    return found


def with_values(config: Config, values: dict[str, Any]) -> Config:
    """A copy of config with the knobs of `values` (dotted names) set, checked.

    Raises ValueError naming the knob for an unknown name, a wrong type or a value out of range.
    """
    known = knobs(config)
    changed: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ValueError(f"unknown parameter '{name}'; did you mean '{near[0]}'?")
        old, metadata = known[name]
        section, key = name.split(".")
        changed.setdefault(section, {})[key] = _checked(name, value, type(old), metadata)
    parts = {name: replace(getattr(config, name), **new) for name, new in changed.items()}
    return replace(config, **parts)


def _checked(name: str, value: Any, kind: type, metadata: dict[str, Any]) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{name}: expected a {kind.__name__}, got {value!r}")
    low, high, choices = metadata["low"], metadata["high"], metadata["choices"]
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise ValueError(f"{name}: expected {low} to {high} {metadata['unit']}, got {value}")
    if choices and value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return value


def load(*paths: str | Path) -> Config:
    """The defaults with the overlays of the given YAML files (ROS parameter files) on top."""
    config = Config()
    for path in paths:
        try:
            tree = yaml.safe_load(Path(path).read_text())
        except (OSError, yaml.YAMLError) as error:
            raise ValueError(f"parameter file {path}: cannot be read: {error}") from error
        values: dict[str, Any] = {}
        for node in tree.values() if isinstance(tree, dict) else [tree] if tree else []:
            parameters = node.get("ros__parameters") if isinstance(node, dict) else None
            if not isinstance(parameters, dict):
                raise ValueError(
                    f"parameter file {path}: expected '/**: {{ros__parameters: ...}}' as "
                    "'convonet config' prints it"
                )
            _flatten(parameters, "", values)
        values.pop("use_sim_time", None)  # rclpy's own parameter, legal in every file
        try:
            config = with_values(config, values)
        except ValueError as error:
            raise ValueError(f"parameter file {path}: {error}") from error
    return config


def _flatten(tree: dict[str, Any], prefix: str, values: dict[str, Any]) -> None:
    for key, value in tree.items():
        if isinstance(value, dict):
            _flatten(value, f"{prefix}{key}.", values)
        else:
            values[f"{prefix}{key}"] = value


def to_yaml(config: Config) -> str:
    """The configuration as a commented ROS parameter file; `load` reads it back."""
    lines = ["/**:", "  ros__parameters:"]
    for section in fields(config):
        lines.append(f"    {section.name}:")
        for item in fields(getattr(config, section.name)):
            value, meta = getattr(getattr(config, section.name), item.name), item.metadata
            limits = f" [{meta['low']} to {meta['high']}]" if meta["low"] is not None else ""
            limits = f" [{', '.join(meta['choices'])}]" if meta["choices"] else limits
            unit = f" ({meta['unit']})" if meta["unit"] else ""
            lines.append(f"      # {meta['sentence']}{unit}{limits}")
            text = yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
            lines.append(f"      {item.name}: {text}")
    return "\n".join(lines) + "\n"
