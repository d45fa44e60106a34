"""A mesh against depth images that it was not made from: scores where no true model is known."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import open3d as o3d

from convonet_ros.datasets.recordings import Frame

_NEAR_M, _FAR_M = 0.3, 4.0  # of the depths that count
_RIGHT_M, _WRONG_M = 0.05, 0.10


def held_out_scores(
    vertices: np.ndarray, triangles: np.ndarray, frames: Iterable[Frame]
) -> dict[str, float]:
    """Compare the depth of a mesh, seen from each frame's pose, with what was measured there.

    vertices (V, 3) map frame, triangles (T, 3). Of the measured pixels between 0.3 and 4 m, every
    second one of every second row, shares: recall (the mesh is within 5 cm along the optical axis),
    false obstacle (it stands more than 10 cm in front), missing (there is none, or it is more than
    10 cm behind); and the median error in metres where there is a mesh. NaN without pixels.
    """
    scene = o3d.t.geometry.RaycastingScene()
    if len(triangles):
        scene.add_triangles(
            o3d.core.Tensor.from_numpy(np.ascontiguousarray(vertices, np.float32)),
            o3d.core.Tensor.from_numpy(np.ascontiguousarray(triangles, np.uint32)),
        )
    parts = [np.empty(0, np.float32)]
    for frame in frames:
        row, column, measured = _pixels(frame.depth)
        k = frame.intrinsics
        rays = np.empty((len(measured), 6), np.float32)
        rays[:, :3] = frame.T_map_camera[:3, 3]
        # With z = 1 in the camera, so that the length along the ray is depth.
        x, y = (column - k.cx) / k.fx, (row - k.cy) / k.fy
        camera = np.stack([x, y, np.ones_like(x)], axis=1)
        rays[:, 3:] = camera @ frame.T_map_camera[:3, :3].T
        depth = np.full(len(rays), np.inf, np.float32)
        if len(triangles):
            depth = scene.cast_rays(o3d.core.Tensor.from_numpy(rays))["t_hit"].numpy()
        parts.append(depth - measured)
    error = np.concatenate(parts)
    there = np.isfinite(error)

    def share(which: np.ndarray) -> float:
        return float(which.mean()) if len(which) else float("nan")

    return {
        "recall": share(np.abs(error) < _RIGHT_M),
        "false obstacle": share(error < -_WRONG_M),
        "missing": share(~there | (error > _WRONG_M)),
        "median error": float(np.median(np.abs(error[there]))) if there.any() else float("nan"),
    }


def _pixels(depth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row, column and depth (N,) of the pixels of an image (H, W) that count."""
    measured = depth[1::2, 1::2]
    row, column = np.nonzero((measured > _NEAR_M) & (measured < _FAR_M))
    return 2 * row + 1, 2 * column + 1, measured[row, column]
