"""Logits become those of probabilities, by the distance to what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from convonet_ros.config import ModelConfig
from convonet_ros.geometry import Lattice
from convonet_ros.mapping.engine import Engine
from convonet_ros.model import zoo
from convonet_ros.model.calibration import FAR, Calibration, calibration_error, fitted, reliability
from convonet_ros.model.crops import CropNetwork, CropSpec
from convonet_ros.model.features import BoxContent, steps_from


def ece(probability: torch.Tensor, truth: torch.Tensor) -> float:
    return float(calibration_error(reliability(probability.numpy(), truth.numpy())))


def test_the_calibration_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(200_000, generator=generator) * 3
    truth = torch.rand(200_000, generator=generator) < torch.sigmoid(honest)
    steps = torch.randint(0, 9, (200_000,), generator=generator).float()
    share = steps.clamp(max=FAR) / FAR
    wrong = 2.5 * (honest - 0.3 * (1 - share) + 0.8 * share)
    found = fitted(wrong, steps, truth)
    assert found.temperature == pytest.approx(2.5, rel=0.03)
    assert (found.shift_near, found.shift_far) == pytest.approx((0.3, -0.8), abs=0.03)
    assert ece(torch.sigmoid(honest), truth) < 0.005
    assert ece(torch.sigmoid(wrong), truth) > 0.05
    assert ece(torch.sigmoid(found(wrong, steps)), truth) < 0.005
    assert Calibration.of({"temperature": 2.5, "val_iou": 0.8}) == Calibration(2.5)
    assert torch.equal(Calibration()(wrong, steps), wrong)


@pytest.mark.parametrize("wrong", [{"temperature": 0}, {"shift_far": "x"}, {"shift_near": np.nan}])
def test_a_wrong_calibration_is_refused(wrong: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "mine.pt"
    zoo.save(path, CropNetwork(CropSpec(crop_voxels=8, halo_voxels=4, maps=8, levels=2)), wrong)
    with pytest.raises(ValueError, match=r"mine\.pt: expected numbers and a temperature above 0"):
        zoo.load_crops(path)


def test_steps_grow_nearly_a_ball() -> None:
    filled = torch.zeros(2, 13, 13, 13, dtype=torch.bool)
    filled[0, 6, 6, 6] = True
    steps = steps_from(filled, 5)
    assert steps[0, 6, 6, 6] == 0
    assert steps[0, 6, 6].tolist() == [6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6]
    diagonal = [int(steps[0, 6 + k, 6 + k, 6 + k]) for k in range(5)]
    assert diagonal == [0, 2, 4, 5, 6]  # 3 sqrt 3 is 5.2
    assert (steps[1] == 6).all()


def test_the_engine_calibrates_by_the_distance_to_points() -> None:
    torch.manual_seed(0)
    spec = CropSpec(crop_voxels=8, halo_voxels=4, maps=8, levels=2)
    network = CropNetwork(spec)
    points = torch.tensor([[4.5, 8.5, 8.5]])
    sub = Lattice.SUB
    visibility = torch.zeros((spec.box_voxels * sub,) * 3, dtype=torch.int8)
    visibility[tuple((points[0] * sub).long())] = 1
    box = BoxContent(points, torch.tensor([[1.0, 0, 0]]), torch.ones(1), visibility)
    # Nothing reaches this threshold, so every voxel is decoded at its middle alone.
    config = ModelConfig(threshold=0.999, completion_m=0.2, precision="float32", device="cpu")
    calibration = Calibration(2.0, 0.5, -1.0)
    (plain,), (calibrated,) = (
        Engine(network, config, how).infer([box])
        for how in (None, calibration)  # type: ignore[arg-type]
    )
    along = slice(0, None, sub)
    row, expected = calibrated[along, 8, 8], plain[along, 8, 8]
    steps = torch.arange(8.0)
    assert row.isfinite().tolist() == [True] * 5 + [False] * 3
    found = calibration(expected.float(), steps)
    assert torch.allclose(row[:5].float(), found[:5], atol=2e-3)
