"""A simulated stereo depth camera, like a RealSense: errors arise in the disparity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.special import ndtri

from convonet_ros.datasets.sensing.camera import DepthCamera, DepthSensor
from convonet_ros.datasets.sensing.noise import Patches, flying_pixels, grazing_holes, smooth_noise
from convonet_ros.datasets.sensing.rays import RayScene
from convonet_ros.sensors import Intrinsics

_WORST_M = 0.1  # a standard deviation of depth beyond which a driver cuts the range


@dataclass(frozen=True, slots=True)
class Stereo(DepthSensor):
    """Block matching between two images `baseline_m` apart, the second one to the right.

    Disparities count pixels of the matched images, which are `scale` times as wide as the depth
    image. Their error has a standard deviation of `sigma_px`, that of depth therefore
    z^2 sigma / (f b). It grows where the `texture` of the surface is below `weak`, up to `lost`
    where nothing matches. `block_px` pixels of the depth image are matched as one; disparities are
    multiples of `step_px`; `smoothing_px` is the filter's width; `flying` is the share of edge
    pixels that fly, `filled` that of the pixels hidden from the second image with a value.
    """

    intrinsics: Intrinsics
    baseline_m: float
    scale: float
    sigma_px: float
    step_px: float
    block_px: int
    smoothing_px: int
    near_m: float
    far_m: float
    flying: float
    filled: float
    texture: Patches
    weak: float
    lost: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Stereo:
        width = int(rng.choice([212, 240, 320, 320, 400]))
        height = int(width * rng.choice([9 / 16, 3 / 4])) // 2 * 2
        focal = width * rng.uniform(0.5, 0.9)
        scale, baseline_m = rng.uniform(480, 960) / width, rng.uniform(0.05, 0.12)
        sigma_px = float(np.exp(rng.uniform(np.log(0.05), np.log(0.3))))
        useful_m = np.sqrt(_WORST_M * focal * scale * baseline_m / sigma_px)
        lost = rng.uniform(-2.4, -1.3)
        return cls(
            Intrinsics(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2),
            baseline_m,
            scale,
            sigma_px,
            step_px=1 / int(rng.choice([16, 32])),
            block_px=int(rng.integers(3, 10)) * width // 320 + 1,
            smoothing_px=int(rng.choice([1, 3, 3, 5])),
            near_m=rng.uniform(0.2, 0.35),
            far_m=min(rng.uniform(4.0, 6.0), useful_m),
            flying=rng.uniform(0.02, 0.3),
            filled=rng.uniform(0.0, 0.3),
            texture=Patches.draw(rng),
            weak=lost + rng.uniform(0.3, 1.5),
            lost=lost,
        )

    def depth(
        self, scene: RayScene, T_map_sensor: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        camera = DepthCamera(scene, self.intrinsics)
        ideal = camera.render(T_map_sensor)
        texture = self.texture.at(camera.points_map(ideal, T_map_sensor))
        return self.matched(ideal, texture, rng)

    def matched(
        self, ideal_m: np.ndarray, texture: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Exact depth (H, W) metres and texture (H, W) -> (H, W) float32 metres, 0 = invalid."""
        shape = ideal_m.shape
        metres_px = self.intrinsics.fx * self.scale * self.baseline_m
        exact = np.where(ideal_m > 0, metres_px / np.maximum(ideal_m, 0.05), 0.0)
        covered, outside = _hidden(exact / self.scale)
        disparity = _fattened(exact, self.block_px, rng)
        if self.smoothing_px > 1:
            disparity = ndimage.uniform_filter(disparity, self.smoothing_px)
        weakness = np.clip((self.weak - texture) / (self.weak - self.lost), 0.0, 1.0)
        noise = 0.6 * rng.standard_normal(shape, dtype=np.float32)
        noise += 0.8 * smooth_noise(rng, shape, self.block_px)
        disparity = disparity + self.sigma_px * (1.0 + 2.0 * weakness) * noise
        mismatched = (weakness > 0.8) & (smooth_noise(rng, shape, 2 * self.block_px) > 1.5)
        disparity = np.where(mismatched, disparity * rng.uniform(0.8, 1.25), disparity)
        phase = rng.random()
        disparity = (np.round(disparity / self.step_px + phase) - phase) * self.step_px
        depth = metres_px / np.maximum(disparity, 0.1)
        depth = flying_pixels(depth.astype(np.float32), self.flying, rng)
        keep = (depth > self.near_m) & (depth < self.far_m) & (disparity > 0.1)
        keep &= ~covered | (smooth_noise(rng, shape, self.block_px) < ndtri(self.filled))
        keep &= ~outside
        keep &= texture + 0.2 * noise > self.lost
        keep &= ~grazing_holes(ideal_m, self.intrinsics, rng)
        keep &= smooth_noise(rng, shape, 2 * self.block_px) < 2.8  # speckles that were removed
        keep &= rng.random(shape, dtype=np.float32) > 0.002
        return np.where(keep, depth, np.float32(0.0))


def _hidden(disparity_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) bool, twice: pixels whose match in the right image is covered, or lies outside of it.

    A pixel's match is its column less its disparity. What is nearer and to the right moves further
    and covers it.
    """
    match = np.arange(disparity_px.shape[1], dtype=np.float32) - disparity_px
    first = np.minimum.accumulate(match[:, ::-1], axis=1)[:, ::-1]  # of this and all to the right
    return first < match - 0.5, match < 0.0


def _fattened(disparity: np.ndarray, block_px: int, rng: np.random.Generator) -> np.ndarray:
    """(H, W) disparities where the foreground grows by up to half a block beyond its edges."""
    height, width = disparity.shape
    reach = 0.35 * block_px
    steps = [
        np.round(reach * smooth_noise(rng, disparity.shape, 2 * block_px)).astype(np.int32)
        for _ in range(2)
    ]
    row = np.clip(np.arange(height)[:, None] + steps[0], 0, height - 1)
    col = np.clip(np.arange(width)[None, :] + steps[1], 0, width - 1)
    other = disparity[row, col]
    # Only beyond an edge: along a slope the nearer neighbour is no foreground.
    return np.where(other > 1.08 * disparity, other, disparity)
