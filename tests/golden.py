"""Outputs recorded from upstream's code, and how close ours must come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from ruled import ruled_weights
from torch import Tensor, nn

from convonet_ros.model import zoo
from convonet_ros.model.network import OccupancyNetwork

Golden = dict[str, np.ndarray]
SHARE = 1e-4  # of the largest magnitude
TINY_POINTCONV = {
    "abstractions": (
        (64, 0.2, 16, (8, 8, 16)), (16, 0.4, 8, (16, 16, 32)), (None, 0, 0, (32, 64, 128)),
    ),
    "propagations": ((32, 32), (32, 16), (16, 16)),
}  # fmt: skip


def recording(folder: Path, name: str) -> Golden:
    path = folder / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"no recording at {path}")
    with np.load(path, allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def network_of(golden: Golden) -> OccupancyNetwork:
    """The recorded network with the recorded weights, in evaluation mode."""
    config = json.loads(str(golden["config"]))
    model = config.get("model", config)
    if "fps_start" in golden:
        model["encoder_kwargs"] = TINY_POINTCONV
    stored = {k[3:]: torch.from_numpy(v) for k, v in golden.items() if k.startswith("sd/")}
    network = zoo.from_upstream(config)
    zoo.load_weights(network, stored or ruled_weights(network))
    return network.eval()


def assert_close(got: Tensor | np.ndarray, wanted: np.ndarray, what: str) -> None:
    """The same shape, and values within `SHARE` of the largest wanted one."""
    array = got.detach().numpy() if isinstance(got, Tensor) else got
    assert array.shape == wanted.shape, what
    np.testing.assert_allclose(
        array, wanted, rtol=0, atol=SHARE * np.abs(wanted).max(), err_msg=what
    )


def assert_statistics(got: Tensor, wanted: np.ndarray, what: str) -> None:
    """Mean, standard deviation, least and largest, within `SHARE` of the largest magnitude."""
    values = got.double()
    found = [float(v) for v in (values.mean(), values.std(correction=0), *values.aminmax())]
    atol = SHARE * np.abs(wanted).max()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=atol, err_msg=what)


@contextmanager
def recorded_calls(module: nn.Module | None) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """The inputs and the outputs of a module's calls."""
    ins: list[Tensor] = []
    outs: list[Tensor] = []
    if module is None:
        yield ins, outs
        return

    def keep(_: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        ins.append(given[0].detach().clone())
        outs.append(result.detach().clone())

    handle = module.register_forward_hook(keep)
    try:
        yield ins, outs
    finally:
        handle.remove()
