"""Checkpoints: self-describing files of weights, and the weights of the package."""

from __future__ import annotations

import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from convonet_ros.model.network import CropNetwork, CropSpec

SHIPPED = Path(__file__).parent / "weights" / "crop.pt"
_MAX_BYTES = 1 << 30


def save(path: str | Path, network: CropNetwork, about: dict[str, Any]) -> None:
    """Write the weights with their spec and `about`: command, seeds, scores, temperature, ...

    Plain numbers, strings and containers only in `about`, so that the file loads without pickle.
    """
    path = Path(path)
    partial = path.with_suffix(".partial")
    spec = asdict(network.spec)
    torch.save({"spec": spec, "weights": network.state_dict(), "about": about}, partial)
    partial.replace(path)


def load(path: str | Path = "") -> tuple[CropNetwork, dict[str, Any]]:
    """The network of a checkpoint (empty: the package's own) in eval mode, and its `about`.

    Raises ValueError with one sentence for a missing, truncated or foreign file; code in a file
    is never run.
    """
    path = Path(path) if str(path) else SHIPPED
    if not path.is_file():
        raise ValueError(f"weights {path}: no such file; give a checkpoint of 'convonet train'")
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f"weights {path}: expected at most {_MAX_BYTES} bytes, got a larger file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        network = CropNetwork(CropSpec(**content["spec"]))
        network.load_state_dict(content["weights"])
        about = dict(content["about"])
    except (
        RuntimeError, KeyError, TypeError, ValueError, EOFError, OSError, AttributeError,
        pickle.UnpicklingError,
    ) as error:  # fmt: skip
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"weights {path}: not a checkpoint of this network ({reason})") from error
    return network.eval(), about
