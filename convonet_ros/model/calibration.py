"""Probabilities that mean something: Platt scaling (Platt, 1999; Guo et al., ICML 2017), with a
shift that depends on how far away the nearest measurement is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from torch import Tensor

FAR = 3  # voxels, from which it makes no difference how far away the nearest measurement is
_LEAST, _MOST = (0.1, -3.0, -3.0), (10.0, 3.0, 3.0)  # of what is fitted


@dataclass(frozen=True, slots=True)
class Calibration:
    """What turns a network's logits into those of the probability.

    temperature: divides them. shift_near: added then in voxels that hold points. shift_far: in
    those `FAR` voxels and more from one; between them it changes evenly.
    """

    temperature: float = 1.0
    shift_near: float = 0.0
    shift_far: float = 0.0

    @classmethod
    def of(cls, about: Mapping[str, Any]) -> Calibration:
        """That of a checkpoint, by what it says about itself, see `zoo.load`; ValueError if that is
        no calibration."""
        given = {name: about.get(name, value) for name, value in asdict(cls()).items()}
        numbers = all(isinstance(n, int | float) and math.isfinite(n) for n in given.values())
        if not numbers or given["temperature"] <= 0:
            raise ValueError(
                f"expected numbers and a temperature above 0 as calibration, got {given}"
            )
        return cls(**given)

    def __call__(self, logits: Tensor, steps: Tensor) -> Tensor:
        """steps: of each logit's voxel from the nearest that holds points, of a shape with it."""
        share = steps.clamp(max=FAR) / FAR
        return logits / self.temperature + self.shift_near * (1 - share) + self.shift_far * share


def fitted(logits: Tensor, steps: Tensor, truth: Tensor) -> Calibration:
    """The calibration that explains the truth best; (N,) logits, steps and bools."""
    share = (steps.double().clamp(max=FAR) / FAR).numpy()
    columns = np.stack([logits.double().numpy(), 1 - share, share], axis=1)  # N 3
    target = truth.double().numpy()

    def cost(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Mean cross-entropy and its gradient."""
        found = columns @ parameters
        slope = columns.T @ (1 / (1 + np.exp(-found)) - target)
        return float(np.mean(np.logaddexp(0, found) - target * found)), slope / len(target)

    start, limits = np.array([1.0, 0.0, 0.0]), list(zip(_LEAST, _MOST, strict=True))
    scale, near, far = minimize(cost, start, jac=True, bounds=limits, method="L-BFGS-B").x
    return Calibration(float(1 / scale), float(near), float(far))


def reliability(probability: np.ndarray, truth: np.ndarray, bins: int = 15) -> np.ndarray:
    """(3, bins) sums over (N,) answers in equal-width bins: number, probability, occupied."""
    index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    weights = (np.ones(len(index)), probability, truth)
    return np.stack([np.bincount(index, weight, bins) for weight in weights])


def calibration_error(sums: np.ndarray) -> np.ndarray:
    """Expected calibration error: mean |occupied share - probability| over bins.

    sums: (..., 3, bins) of `reliability`, which may be added.
    """
    number, said, was = np.moveaxis(sums, -2, 0)
    return np.asarray(np.abs(said - was).sum(axis=-1) / number.sum(axis=-1))
