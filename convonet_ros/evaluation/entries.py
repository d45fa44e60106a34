"""Methods at work, each in a process of its own, so that seconds and memory are the method's."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from convonet_ros.config import Config
from convonet_ros.datasets.recordings import Recording
from convonet_ros.evaluation.reconstruction import FrameList, Method

OURS = "ours"
# Name of a row, and what it is.
METHODS = {
    OURS: "the map with the package's weights",
    "no-rule": "ours, but what rays saw free may be filled by the network",
    "tsdf": "fusion into a truncated signed distance function, voxels of 3 cm",
    "poisson": "screened Poisson reconstruction of all points, in one thread",
    "ray-cast": "occupancy by ray casting as OctoMap's, voxels of 5 cm",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the table: a name of `METHODS`, or any other with a checkpoint for the map."""

    name: str
    weights: str = ""

    @property
    def mapped(self) -> bool:
        """Whether it is the map with some network."""
        return self.name not in ("tsdf", "poisson", "ray-cast")

    def method(self) -> Method:
        """Raises ValueError for a checkpoint that the map cannot use."""
        if self.name == "tsdf":
            from convonet_ros.evaluation.rivals import tsdf

            return tsdf
        if self.name == "poisson":
            from convonet_ros.evaluation.rivals import poisson

            return poisson
        from convonet_ros.evaluation.mapped import Mapped, ray_cast

        if self.name == "ray-cast":
            return ray_cast
        return Mapped(self.weights, ruled=self.name != "no-rule")


@dataclass(frozen=True, slots=True)
class Job:
    """A recording to reconstruct, and points (Q, 3) at which to ask."""

    recording: Recording
    config: Config
    queries: np.ndarray


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method said: its mesh (as of a `Reconstruction`) and, at the queries of its job,
    occupied (Q,) bool and probability (Q,) float32 or None.

    seconds: from the recording to the mesh. memory_mb: the process's largest resident memory
    meanwhile, libraries included; libraries_mb: that before its first reconstruction.
    """

    vertices: np.ndarray
    triangles: np.ndarray
    occupied: np.ndarray
    probability: np.ndarray | None
    seconds: float = 0.0
    memory_mb: float = 0.0
    libraries_mb: float = 0.0


class MethodError(RuntimeError):
    """A method could not reconstruct a recording."""


def answers(entry: Entry, jobs: Sequence[Job]) -> Iterator[Answer]:
    """A method's answers to jobs, one by one in a fresh process, as they come. The process first
    reconstructs one frame, which does not count. Raises MethodError, whatever went wrong in there.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        for job in jobs:
            try:
                found = process.submit(_answer, entry, job).result()
            except Exception as error:
                reason = f"{type(error).__name__}: {error}".split("\n")[0]
                if isinstance(error, BrokenProcessPool):
                    reason = "its process was ended, as happens for lack of memory"
                where = f"{job.recording.folder.name}, {len(job.recording)} frames"
                raise MethodError(f"{entry.name} failed ({where}): {reason}") from error
            yield found


def answer(method: Method, job: Job) -> Answer:
    """A method's answer to a job, in this process."""
    _forget_peak()
    started = time.perf_counter()
    found = method(job.recording, job.config)
    seconds = time.perf_counter() - started
    memory_mb = _peak_mb()
    occupied, said = np.zeros(0, bool), None
    if len(job.queries):
        occupied = found.occupied(job.queries)
        said = None if found.probability is None else found.probability(job.queries)
    return Answer(found.vertices, found.triangles, occupied, said, seconds, memory_mb)


_begun: dict[Entry, float] = {}  # memory before the first reconstruction


def _answer(entry: Entry, job: Job) -> Answer:
    method = _method(entry)
    if entry not in _begun:
        _begun[entry] = _peak_mb()
        for frame in job.recording:
            method(FrameList("warm-up", [frame]), job.config)
            break
    return replace(answer(method, job), libraries_mb=_begun[entry])


_method = cache(Entry.method)


def _forget_peak() -> None:
    """Let the largest resident memory be counted anew, where the kernel can."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mb() -> float:
    """The largest resident memory of this process in MB. Not getrusage's, which a process that was
    started by a larger one inherits, and which nothing resets."""
    status = Path("/proc/self/status").read_text()
    return next(int(r.split()[1]) for r in status.splitlines() if r.startswith("VmHWM")) / 1024
