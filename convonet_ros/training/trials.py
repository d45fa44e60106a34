"""Generated scenes as trials of the robot's table: scans for the methods, and what is true there.

Everything follows from the seed. Coordinates are those of the map frame, metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.spatial import cKDTree

from convonet_ros.config import Config
from convonet_ros.datasets.camera import DepthCamera
from convonet_ros.datasets.poses import PoseNoise
from convonet_ros.datasets.rays import RayScene
from convonet_ros.datasets.recordings import Frame
from convonet_ros.datasets.rooms import Room
from convonet_ros.datasets.scenes import make_scene
from convonet_ros.datasets.stereo import Stereo
from convonet_ros.datasets.structured_light import StructuredLight
from convonet_ros.datasets.views import sample_views
from convonet_ros.geometry import Lattice, canonical_pose, transform
from convonet_ros.training.mapped import measured
from convonet_ros.training.reconstruction import FrameList, ValueLattice
from convonet_ros.training.true_surface import TrueSurface, grown

VIEWS = 10  # at least so many poses are drawn, so that the first ones stay the same
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

    @property
    def box(self) -> np.ndarray:
        """(2, 3) the box of all crops that hold seen points."""
        crops = _crops(self.seen)
        return np.stack([crops.min(axis=0), crops.max(axis=0) + 1]) * Lattice().crop_m


class Trial:
    """One scene and a sequence of noisy depth images of it, taken as training's are.

    The sensor is a structured-light or a stereo camera. recording: its images with the poses that
    localisation reports.
    """

    def __init__(self, seed: int, views: int = VIEWS, room: Room | None = None) -> None:
        """room: instead of the scene of the seed."""
        self.seed = seed
        self.room = make_scene(seed) if room is None else room
        rng = np.random.default_rng([seed, 0x7E57])
        draw = StructuredLight.draw if rng.random() < 0.5 else Stereo.draw
        self._device = draw(rng)
        noise = PoseNoise.draw(rng)
        self._poses = sample_views(self.room, rng, max(views, VIEWS))[:views]
        reported = noise.applied(self._poses, np.random.default_rng([seed, 0x9053]))
        scene, intrinsics = RayScene(self.room), self._device.intrinsics
        camera = DepthCamera(scene, intrinsics)
        frames = []
        self._ends: list[np.ndarray] = []  # of each view's rays that came back: exact, map frame
        for number, (T, T_reported) in enumerate(zip(self._poses, reported, strict=True)):
            rng = np.random.default_rng([seed, number])
            depth = self._device.depth(scene, T, rng)
            pose = canonical_pose(T_reported)
            frames.append(Frame(depth, intrinsics, pose, 1_000_000_000 + number * 100_000_000))
            ends = camera.points_map(camera.render(T), T)
            self._ends.append(ends[depth > 0].astype(np.float64))
        self.recording = FrameList(f"scene-{seed}", frames)

    def truth(self, views: int, config: Config, points: int = 100_000) -> Truth:
        """What is true where the first so many views saw; points: how many are drawn, twice."""
        rng = np.random.default_rng([self.seed, views, 0x77])
        seen = self._seen(views, config)
        if not len(seen):
            raise ValueError(f"scene {self.seed}: expected points in range, got none")
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
            measured(self.recording.first(views), config),
        )  # fmt: skip

    def _seen(self, views: int, config: Config) -> np.ndarray:
        """(S, 3) exact ends, in range, of the rays that came back."""
        kept = []
        for T, ends in zip(self._poses[:views], self._ends, strict=False):
            distance = np.linalg.norm(ends - T[:3, 3], axis=1)
            near, far = config.scan.min_range_m, config.scan.max_range_m
            kept.append(ends[(distance >= near) & (distance <= far)])
        points = np.concatenate(kept)
        _, first = np.unique(
            np.floor(points / _SEEN_CELL_M).astype(np.int64), axis=0, return_index=True
        )
        return points[first]

    @cached_property
    def surface(self) -> TrueSurface:
        """The surface of the scene."""
        return TrueSurface(self.room)




def _crops(points: np.ndarray) -> np.ndarray:
    """(C, 3) lattice indices of the crops that hold points (N, 3)."""
    return np.unique(np.floor(points / Lattice().crop_m).astype(np.int64), axis=0)


def _drawn(cells: np.ndarray, side_m: float, count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 3) points drawn uniformly in cubic cells (C, 3)."""
    chosen = cells[rng.integers(len(cells), size=count)]
    return (chosen + rng.random((count, 3))) * side_m
