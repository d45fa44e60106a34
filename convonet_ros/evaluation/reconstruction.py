"""What every method of the robot's table takes and gives, and what both are made of.

Light to import: a method's process holds the method's own libraries and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from convonet_ros.config import Config
from convonet_ros.datasets.recordings import Frame, Recording
from convonet_ros.sensors import Intrinsics


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """What a method makes of a recording; the map frame, metres.

    vertices: (V, 3) float32; triangles: (T, 3) int32, counter-clockwise seen from free space.
    occupied: (N, 3) points to (N,) bool, False where the method knows nothing.
    probability: (N, 3) points to (N,) float32 probability of being occupied, NaN where the method
    knows nothing; None for a method that has none.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    occupied: Callable[[np.ndarray], np.ndarray]
    probability: Callable[[np.ndarray], np.ndarray] | None = None


Method = Callable[[Recording, Config], Reconstruction]


def nothing() -> Reconstruction:
    """What a method makes of scans without points."""
    return Reconstruction(
        np.empty((0, 3), np.float32),
        np.empty((0, 3), np.int32),
        lambda points: np.zeros(len(points), bool),
    )


class FrameList(Recording):
    """A recording that lies in memory."""

    def __init__(self, name: str, frames: Sequence[Frame]) -> None:
        super().__init__(Path(name), [], np.eye(4), frames[0].intrinsics, 1000)
        self.frames = tuple(frames)

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)

    def first(self, count: int) -> FrameList:
        """The recording's first so many frames."""
        return FrameList(str(self.folder), self.frames[:count])


def thinned(frame: Frame, max_points: int) -> Frame:
    """The frame with the very pixels that `sensors.points_from_depth` takes of it."""
    stride = max(1, int(np.ceil(np.sqrt(frame.depth.size / max_points))))
    if stride == 1:
        return frame
    k = frame.intrinsics
    depth = np.ascontiguousarray(frame.depth[::stride, ::stride])
    intrinsics = Intrinsics(
        depth.shape[1], depth.shape[0],
        k.fx / stride, k.fy / stride, k.cx / stride, k.cy / stride,
    )  # fmt: skip
    return Frame(depth, intrinsics, frame.T_map_camera, frame.stamp_ns)


@dataclass(frozen=True, slots=True)
class ValueLattice:
    """Numbers (X, Y, Z) at the points of a lattice, NaN where nothing is known.

    first_m: (3,) place of values[0, 0, 0]; step_m: from one point to the next.
    """

    values: np.ndarray
    first_m: np.ndarray
    step_m: float

    def at(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) points to (N,) float32: trilinear, where one of the eight around is unknown the
        nearest one, NaN beyond the lattice."""
        place = ((points - self.first_m) / self.step_m).T
        values = self.values.astype(np.float32, copy=False)
        smooth = map_coordinates(values, place, order=1, mode="constant", cval=np.nan)
        return np.where(np.isnan(smooth), self.nearest(points, np.nan), smooth)

    def nearest(self, points: np.ndarray, beyond: float) -> np.ndarray:
        """(N, 3) points to (N,) values of the nearest lattice points; `beyond` the lattice."""
        place = np.rint((points - self.first_m) / self.step_m).astype(np.int64)
        inside = ((place >= 0) & (place < self.values.shape)).all(axis=1)
        found = self.values[tuple(np.where(inside[:, None], place, 0).T)]
        return np.where(inside, found, np.asarray(beyond, self.values.dtype))
