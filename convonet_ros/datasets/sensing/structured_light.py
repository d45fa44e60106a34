"""A simulated structured-light camera, like the first Kinect."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convonet_ros.datasets.sensing.camera import DepthCamera, DepthSensor
from convonet_ros.datasets.sensing.noise import Patches, add_noise, flying_pixels
from convonet_ros.datasets.sensing.rays import RayScene
from convonet_ros.sensors import Intrinsics


@dataclass(frozen=True, slots=True)
class StructuredLight(DepthSensor):
    """The sensor of `add_noise`, with flying pixels and patches that return no light.

    `flying` is the share of edge pixels that fly; `dark` the value of `patches` above which
    nothing returns.
    """

    intrinsics: Intrinsics
    far_m: float
    flying: float
    patches: Patches
    dark: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> StructuredLight:
        width = int(rng.choice([160, 240, 320, 320, 400]))
        focal = width * rng.uniform(0.7, 1.1)
        height = width * 3 // 4
        intrinsics = Intrinsics(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
        return cls(
            intrinsics,
            far_m=rng.uniform(3.5, 5.0),
            flying=rng.uniform(0.05, 0.5) if rng.random() < 0.6 else 0.0,
            patches=Patches.draw(rng),
            dark=rng.uniform(1.4, 2.4) if rng.random() < 0.5 else np.inf,
        )

    def depth(
        self, scene: RayScene, T_map_sensor: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        camera = DepthCamera(scene, self.intrinsics)
        ideal = camera.render(T_map_sensor)
        depth = flying_pixels(ideal, self.flying, rng)
        depth = add_noise(depth, self.intrinsics, rng, self.far_m)
        if np.isfinite(self.dark):
            depth[self.patches.at(camera.points_map(ideal, T_map_sensor)) > self.dark] = 0.0
        return depth
