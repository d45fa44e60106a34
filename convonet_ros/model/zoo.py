"""Networks by name, and checkpoints: upstream's files and our own, which describe themselves."""

from __future__ import annotations

import copy
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convonet_ros.model.calibration import Calibration
from convonet_ros.model.crops import CropModel, CropNetwork, CropSpec, UnitBoxes, UpstreamCrops
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.model.upstream import from_upstream, load_weights, read_config
from convonet_ros.model.variants import VARIANTS

SHIPPED = Path(__file__).parent / "weights" / "crop.pt"
_MAX_BYTES = 1 << 30


def build(name: str) -> OccupancyNetwork:
    """A network of the table `VARIANTS` by its name, with fresh weights."""
    return from_upstream(variant(name))


def variant(name: str) -> dict[str, Any]:
    """The configuration of a name in the table, as upstream's YAML files have it; a copy."""
    if name not in VARIANTS:
        raise ValueError(f"model {name!r}: expected one of {', '.join(VARIANTS)}")
    return copy.deepcopy(VARIANTS[name])


def save(path: str | Path, network: CropNetwork | OccupancyNetwork, about: dict[str, Any]) -> None:
    """Write the weights with what describes the network and `about`: command, seeds, scores, ...

    Plain numbers, strings and containers only in `about`, so that the file loads without pickle.
    """
    path = Path(path)
    partial = path.with_suffix(".partial")
    if isinstance(network, CropNetwork):
        described: dict[str, Any] = {"spec": asdict(network.spec)}
    else:
        described = {"config": network.config}
    weights = {name: value.cpu() for name, value in network.state_dict().items()}
    torch.save({**described, "weights": weights, "about": about}, partial)
    partial.replace(path)


def load(
    path: str | Path = "", config: str | Path | dict[str, Any] | None = None
) -> tuple[CropNetwork | OccupancyNetwork, dict[str, Any]]:
    """The network of a checkpoint in evaluation mode, and what it says about itself.

    path: a file of ours, one of upstream's (with or without the optimizer), or nothing for the
    weights of the package. config: of an upstream file, its YAML file, a name of the table, or a
    dictionary; None takes the name of the file, if it is in the table.

    Raises ValueError with one sentence for a file that is missing, truncated or of another network;
    code in a file is never run.
    """
    path = Path(path) if str(path) else SHIPPED
    content = _read(path)
    try:
        if "weights" in content:
            about = dict(content.get("about", {}))
            if "config" in content:
                return from_upstream(content["config"], content["weights"]), about
            network = CropNetwork(CropSpec(**content["spec"]))
            load_weights(network, content["weights"])
            return network.eval(), about
        if not isinstance(content.get("model", content), dict):
            raise ValueError("expected a dictionary of weights under 'model'")
        weights = content.get("model", content)
        about = {k: v for k, v in content.items() if k != "optimizer" and _is_scalar(v)}
        return from_upstream(_upstream_config(path, config), weights), about
    except (KeyError, TypeError, AttributeError, RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise ValueError(f"weights {path}: not a checkpoint of this network ({reason})") from error


def load_crops(path: str | Path = "", config: str = "") -> tuple[CropModel, dict[str, Any]]:
    """As `load`, for the map: ValueError also for a wrong calibration and for a network that it
    cannot use, which are those that are not fully convolutional and were not trained on the map's
    boxes.
    """
    network, about = load(path, config or None)
    try:
        Calibration.of(about)
        if isinstance(network, CropNetwork):
            # mypy: nn.Module has its own __getattr__
            return network, about  # type: ignore[return-value]
        if "map" in network.config:
            return UnitBoxes(network).eval(), about
        return UpstreamCrops(network).eval(), about
    except ValueError as error:
        raise ValueError(f"weights {path}: {error}") from error


def _upstream_config(path: Path, config: str | Path | dict[str, Any] | None) -> dict[str, Any]:
    if isinstance(config, dict):
        return config
    name = path.stem if config is None else str(config)
    if name in VARIANTS:
        return variant(name)
    if config is None:
        raise ValueError(
            "upstream's files do not say what they are: give its YAML file or one of the names "
            f"{', '.join(VARIANTS)}"
        )
    return read_config(config)


def _is_scalar(value: Any) -> bool:
    return isinstance(value, int | float | str)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(
            f"weights {path}: no such file; give a checkpoint of 'convonet train' or of upstream"
        )
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"weights {path}: expected at most {_MAX_BYTES} bytes, got a larger file")
    try:
        # Upstream keeps its best score as a NumPy number.
        with torch.serialization.safe_globals(_numbers_of_numpy()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        RuntimeError, KeyError, TypeError, ValueError, EOFError, OSError, AttributeError,
        IndexError, pickle.UnpicklingError,
    ) as error:  # fmt: skip
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise ValueError(f"weights {path}: not a checkpoint of this network ({reason})") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"weights {path}: not a checkpoint of this network (got a {type(content).__name__})"
        )
    return content


def _numbers_of_numpy() -> list[Any]:
    """What a pickled NumPy number is made of, under the names of NumPy 1 and 2."""
    multiarray = getattr(np, "_core", None) or np.core
    scalar = multiarray.multiarray.scalar
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")
    kinds = [type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8")]
    return [*((scalar, f"{module}.scalar") for module in modules), np.dtype, *kinds]
