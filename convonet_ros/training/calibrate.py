"""Probabilities that mean something: temperature scaling (Guo et al., ICML 2017)."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits


def fit_temperature(logits: Tensor, truth: Tensor) -> float:
    """The T for which sigmoid(logits / T) explains the truth best; (N,) logits and bools."""
    target = truth.float()

    def cost(log_t: float) -> float:
        return binary_cross_entropy_with_logits(logits / math.exp(log_t), target).item()

    return math.exp(minimize_scalar(cost, bounds=(-2.0, 2.0), method="bounded").x)


def calibration_error(probability: Tensor, truth: Tensor, bins: int = 15) -> float:
    """Expected calibration error: mean |occupied share - probability| over equal-width bins."""
    index = (probability * bins).long().clamp(max=bins - 1)
    count = torch.bincount(index, minlength=bins).double().numpy()
    said = torch.bincount(index, probability.double(), minlength=bins).numpy()
    was = torch.bincount(index, truth.double(), minlength=bins).numpy()
    return float(np.abs(said - was).sum() / count.sum())
