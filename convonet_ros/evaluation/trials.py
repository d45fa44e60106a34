"""Generated scenes as trials of the robot's table: scans for the methods, and what is true there.

Everything follows from the seed. Coordinates are those of the map frame, metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from convonet_ros.config import Config
from convonet_ros.datasets.recordings import Frame
from convonet_ros.datasets.sensing.camera import DepthCamera
from convonet_ros.datasets.sensing.poses import PoseNoise
from convonet_ros.datasets.sensing.rays import RayScene
from convonet_ros.datasets.sensing.stereo import Stereo
from convonet_ros.datasets.sensing.structured_light import StructuredLight
from convonet_ros.datasets.sensing.views import sample_views
from convonet_ros.datasets.world.rooms import Room
from convonet_ros.datasets.world.scenes import make_scene
from convonet_ros.evaluation.mapped import measured
from convonet_ros.evaluation.reconstruction import FrameList, ValueLattice
from convonet_ros.evaluation.true_surface import TrueSurface, grown
from convonet_ros.geometry import Lattice, canonical_pose

_VIEWS = 10  # at least so many are made ready, so that the first ones stay the same
_SPARE = 1.5  # poses per view, for those from which nothing is seen
_FEWEST = 1000  # points in range that make a view
BAND_M = 0.3  # around what was seen: where reconstructions are compared
WALL_M = 0.15  # behind a true surface: so deep a body is asked for
_SEEN_CELL_M = 0.01
_REACH_M = 0.4
_CELL_M = BAND_M  # of the cells in which points of the band are drawn


@dataclass(frozen=True, slots=True)
class Truth:
    """What is true where the first views of a trial saw.

    seen: (S, 3) exact ends of the rays that came back from within the range, one per cubic
    centimetre. surface, normals: (T, 3) samples of the true surface in all crops that hold seen
    points and 0.4 m around, and its directions into free space; reach: (T,) distance to the nearest
    seen point, inf where it exceeds 0.4 m.
    around: (A, 3) points drawn uniformly in these crops, those deeper in bodies than 15 cm left
    out; near: (N, 3) points drawn uniformly within 0.3 m of a seen point; their truth, the distance
    (N,) of near ones to a seen point, and which of them (N,) are not deeper than 15 cm.
    evidence: of the map's volume after the same scans.
    """

    seen: np.ndarray
    surface: np.ndarray
    normals: np.ndarray
    reach: np.ndarray
    around: np.ndarray
    around_occupied: np.ndarray
    near: np.ndarray
    near_occupied: np.ndarray
    near_distance: np.ndarray
    near_shallow: np.ndarray
    evidence: ValueLattice

    @property
    def queries(self) -> np.ndarray:
        """(A + N, 3) points at which methods are asked."""
        return np.concatenate([self.around, self.near])


class Trial:
    """One scene and a sequence of noisy depth images of it, taken as training's are.

    The sensor is a structured-light or a stereo camera. recording: its images with the poses that
    localisation reports. Views that see next to nothing are left out.
    """

    def __init__(self, seed: int, views: int, config: Config, room: Room | None = None) -> None:
        """room: instead of the scene of the seed. Raises ValueError for a scene that is not seen
        from so many poses."""
        self.seed, self.room = seed, make_scene(seed) if room is None else room
        rng = np.random.default_rng([seed, 0x7E57])
        device = (StructuredLight if rng.random() < 0.5 else Stereo).draw(rng)
        noise = PoseNoise.draw(rng)
        poses = sample_views(self.room, rng, round(_SPARE * max(views, _VIEWS)))
        reported = noise.applied(poses, np.random.default_rng([seed, 0x9053]))
        scene = RayScene(self.room)
        camera = DepthCamera(scene, device.intrinsics)
        frames: list[Frame] = []
        self._ends: list[np.ndarray] = []  # (N, 3) per view, of the rays that came back, exact
        for number, (T, T_reported) in enumerate(zip(poses, reported, strict=True)):
            depth = device.depth(scene, T, np.random.default_rng([seed, number]))
            ends = camera.points_map(camera.render(T), T)[depth > 0].astype(np.float64)
            distance = np.linalg.norm(ends - T[:3, 3], axis=1)
            near, far = config.scan.min_range_m, config.scan.max_range_m
            ends = ends[(distance >= near) & (distance <= far)]
            if len(ends) < _FEWEST:
                continue
            stamp_ns = 1_000_000_000 + number * 100_000_000
            frames.append(Frame(depth, device.intrinsics, canonical_pose(T_reported), stamp_ns))
            self._ends.append(ends)
            if len(frames) == views:
                break
        if len(frames) < views:
            raise ValueError(f"scene {seed}: expected {views} views, got {len(frames)} that see it")
        self._config = config
        self.recording = FrameList(f"scene-{seed}", frames)
        self.surface = TrueSurface(self.room)

    def truth(self, views: int, points: int = 100_000) -> Truth:
        """What is true where the first so many views saw; points: how many are drawn, twice."""
        rng = np.random.default_rng([self.seed, views, 0x77])
        seen = _one_per_cell(np.concatenate(self._ends[:views]), _SEEN_CELL_M)
        tree = cKDTree(seen)
        crops = _crops(seen)
        surface, normals = self.surface.in_crops(crops, rng)
        reach, _ = tree.query(surface, distance_upper_bound=_REACH_M)
        walls = cKDTree(surface)

        def shallow(at: np.ndarray, occupied: np.ndarray) -> np.ndarray:
            """Which points are free or not deeper than 15 cm."""
            result = ~occupied
            deep, _ = walls.query(at[occupied], distance_upper_bound=WALL_M)
            result[occupied] = np.isfinite(deep)
            return result

        around = _drawn(crops, Lattice().crop_m, points, rng)
        around_occupied = self.room.occupied(around)
        keep = shallow(around, around_occupied)
        near = _drawn(grown(np.floor(seen / _CELL_M).astype(np.int64)), _CELL_M, points, rng)
        near_distance, _ = tree.query(near, distance_upper_bound=BAND_M)
        within = np.isfinite(near_distance)
        near, near_distance = near[within], near_distance[within]
        near_occupied = self.room.occupied(near)
        return Truth(
            seen, surface, normals, reach,
            around[keep], around_occupied[keep],
            near, near_occupied, near_distance, shallow(near, near_occupied),
            measured(self.recording.first(views), self._config, Lattice()),
        )  # fmt: skip


def _one_per_cell(points: np.ndarray, side_m: float) -> np.ndarray:
    """Those of the points (N, 3) that are the first in their cubic cell."""
    cells = np.floor(points / side_m).astype(np.int64)
    return points[np.unique(cells, axis=0, return_index=True)[1]]


def _crops(points: np.ndarray) -> np.ndarray:
    """(C, 3) lattice indices of the crops that hold points (N, 3)."""
    return np.unique(np.floor(points / Lattice().crop_m).astype(np.int64), axis=0)


def _drawn(cells: np.ndarray, side_m: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 3) points drawn uniformly in cubic cells (C, 3)."""
    chosen = cells[rng.integers(len(cells), size=count)]
    return (chosen + rng.random((count, 3))) * side_m
