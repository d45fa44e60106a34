"""Noise of depth images: a structured-light sensor's, and what all sensors share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from convonet_ros.sensors import Intrinsics

NEAR_M = 0.35
DISPARITY_STEP = 0.0028  # depth step over depth squared, 1/m: 2.8 mm at 1 m, 25 mm at 3 m


def add_noise(
    depth_m: np.ndarray,
    intrinsics: Intrinsics,
    rng: np.random.Generator,
    max_range_m: float | None = None,
) -> np.ndarray:
    """What a Kinect-like sensor would report for an ideal depth image, (H, W) float32, 0 = invalid.

    Lateral jitter, axial noise that grows with the square of depth and is partly correlated between
    pixels, disparity steps, holes at depth edges, at grazing incidence and in random blobs, and a
    limited range (the far end is drawn from 3.5 to 5 m where `max_range_m` is not given).
    """
    shape = depth_m.shape
    far_m = rng.uniform(3.5, 5.0) if max_range_m is None else max_range_m
    depth = _jitter(depth_m, rng, sigma_px=rng.uniform(0.4, 0.7))
    sigma = 0.0012 + 0.0019 * (depth - 0.4) ** 2
    white = rng.standard_normal(shape, dtype=np.float32)
    noise = 0.75 * white + 0.66 * smooth_noise(rng, shape, cell_px=8)
    depth = depth + sigma * noise
    keep = (depth > NEAR_M) & (depth < far_m) & (depth_m > 0)
    phase = rng.random()
    disparity = np.round(1.0 / (np.maximum(depth, 0.05) * DISPARITY_STEP) + phase) - phase
    depth = 1.0 / (DISPARITY_STEP * np.maximum(disparity, 1.0))
    keep &= ~_edge_holes(depth_m, rng) & ~grazing_holes(depth_m, intrinsics, rng)
    if rng.random() < 0.5:  # dark or shiny patches
        keep &= smooth_noise(rng, shape, cell_px=int(rng.integers(12, 40))) < rng.uniform(1.6, 2.6)
    keep &= rng.random(shape, dtype=np.float32) > 0.002
    return np.where(keep, depth, 0.0).astype(np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cell_px: int) -> np.ndarray:
    """Noise of variance one (H, W) float32 with a correlation length of about `cell_px` pixels."""
    rows, cols = (_spline_weights(n, cell_px, rng.random()) for n in shape)
    grid = rng.standard_normal((rows.shape[1], cols.shape[1]), dtype=np.float32)
    return rows @ grid @ cols.T


def _spline_weights(n: int, cell_px: int, phase: float) -> np.ndarray:
    """(n, K) float32: each pixel's weights on a coarse grid, with squares that sum to one."""
    position = np.arange(n) / cell_px + phase
    distance = np.abs(position[:, None] - np.arange(int(n / cell_px + phase) + 2)[None, :])
    weights = np.maximum(1.0 - distance, 0.0)
    return (weights / np.linalg.norm(weights, axis=1, keepdims=True)).astype(np.float32)


def _jitter(depth_m: np.ndarray, rng: np.random.Generator, sigma_px: float) -> np.ndarray:
    """Take each pixel's depth from a place a random step away."""
    height, width = depth_m.shape
    step = np.round(rng.standard_normal((2, height, width), dtype=np.float32) * sigma_px)
    row = np.clip(np.arange(height)[:, None] + step[0].astype(np.int32), 0, height - 1)
    col = np.clip(np.arange(width)[None, :] + step[1].astype(np.int32), 0, width - 1)
    return depth_m[row, col]


def _edge_holes(depth_m: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W) bool: pixels lost beside depth jumps, a wider band on the shadow side (left)."""
    holes = np.zeros(depth_m.shape, dtype=bool)
    jump = np.diff(depth_m, axis=1) / np.maximum(depth_m[:, 1:], 0.1)
    holes[:, :-1] |= jump < -0.04  # a near thing begins to the right: its shadow lies here
    holes[:, :-2] |= holes[:, 1:-1]
    holes[:, 1:] |= jump > 0.04
    vertical = np.abs(np.diff(depth_m, axis=0)) / np.maximum(depth_m[1:], 0.1) > 0.04
    holes[1:] |= vertical
    return holes & (rng.random(depth_m.shape, dtype=np.float32) < rng.uniform(0.5, 0.95))


def grazing_holes(
    depth_m: np.ndarray, intrinsics: Intrinsics, rng: np.random.Generator
) -> np.ndarray:
    """(H, W) bool: pixels lost where the surface is nearly parallel to the ray."""
    slope_x = np.zeros_like(depth_m)
    slope_y = np.zeros_like(depth_m)
    slope_x[:, 1:-1] = (depth_m[:, 2:] - depth_m[:, :-2]) * (0.5 * intrinsics.fx)
    slope_y[1:-1] = (depth_m[2:] - depth_m[:-2]) * (0.5 * intrinsics.fy)
    tangent = np.hypot(slope_x, slope_y) / np.maximum(depth_m, 0.1)  # of the incidence angle
    lost = np.clip((tangent - 4.0) / 6.0, 0.0, 0.97)  # begins at 76 degrees, all but sure at 84
    return rng.random(depth_m.shape, dtype=np.float32) < lost


def flying_pixels(depth_m: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """(H, W) depth in which a share of the pixels at depth edges lies between near and far."""
    if share == 0.0:
        return depth_m
    near = ndimage.minimum_filter(depth_m, 3)
    far = ndimage.maximum_filter(depth_m, 3)
    edge = (near > 0) & (far > 1.06 * near)
    edge &= rng.random(depth_m.shape, dtype=np.float32) < share
    between = near + rng.random(depth_m.shape, dtype=np.float32) * (far - near)
    return np.where(edge, between, depth_m)


@dataclass(frozen=True, slots=True)
class Patches:
    """Patches of the surfaces, such as a dark cloth or a bare wall: every view meets them again.

    A smooth function of place of mean zero and variance one: a sum of waves, `waves` (K, 3) rad/m
    and `phases` (K,).
    """

    waves: np.ndarray
    phases: np.ndarray

    @classmethod
    def draw(cls, rng: np.random.Generator, n: int = 8) -> Patches:
        directions = rng.normal(size=(n, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        lengths_m = np.exp(rng.uniform(np.log(0.25), np.log(2.5), (n, 1)))
        waves = (2 * np.pi / lengths_m * directions).astype(np.float32)
        return cls(waves, rng.uniform(0.0, 2 * np.pi, n).astype(np.float32))

    def at(self, points_map: np.ndarray) -> np.ndarray:
        """(..., 3) float32 points in the map frame -> (...) float32."""
        waves = np.cos(points_map @ self.waves.T + self.phases)
        return waves.sum(axis=-1) * np.float32(np.sqrt(2.0 / len(self.phases)))
