"""Every method on every scene and recording: what the robot's table is made of."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convonet_ros.config import Config, to_yaml
from convonet_ros.datasets.recordings import open_recording
from convonet_ros.datasets.world.meshes import catalogue
from convonet_ros.evaluation.entries import METHODS, OURS, Answer, Entry, Job, MethodError, answers
from convonet_ros.evaluation.evidence import Counts, added, counts_of
from convonet_ros.evaluation.held_out import held_out_scores
from convonet_ros.evaluation.robot_table import RobotTable
from convonet_ros.evaluation.scene_scores import Regions, calibration, regions, scores, together
from convonet_ros.evaluation.tables import Rows, mean
from convonet_ros.evaluation.trials import BAND_M, Trial, Truth
from convonet_ros.geometry import transform
from convonet_ros.model import zoo
from convonet_ros.offline.diagrams import reliability_diagram
from convonet_ros.offline.pictures import picture_of_maps
from convonet_ros.sensors import in_range

USED, HELD_OUT = ("0::10", "0::2"), "1::2"  # frames of a recording, for methods and to score
_AT_ONCE = 12  # scenes whose truth is held in memory
_SHOWN_M = 1.8  # height, so that one looks into the scene from above
_LIBRARIES = ("convonet_ros", "numpy", "open3d", "scikit-image", "scipy", "torch")

Surface = tuple[np.ndarray, np.ndarray]  # vertices (V, 3), triangles (T, 3)


@dataclass(slots=True)
class Showcase:
    """One scene as each method sees it, and what ours says of all scenes, after so many views.

    The scene lies in its room's frame, whose axes its walls follow. points: (N, 3) measured. box:
    (2, 3) where something was seen, without the ceiling. truth, meshes: of the scene and by method.
    regions: see `scene_scores.regions`.
    """

    views: int
    points: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    box: np.ndarray = field(default_factory=lambda: np.zeros((2, 3)))
    truth: Surface | None = None
    meshes: dict[str, Surface] = field(default_factory=dict)
    regions: Regions = field(default_factory=dict)

    def write(self, folder: str | Path) -> None:
        """Write picture.png, the scene by each method, and reliability.png, of ours; what was not
        evaluated is left out."""
        if self.truth is not None:
            nothing = np.empty((0, 3), np.int32)
            views = [("scans", self.points, nothing)]
            views += [(name, *mesh) for name, mesh in self.meshes.items()]
            picture_of_maps(
                Path(folder) / "picture.png", [*views, ("truth", *self.truth)], self.box
            )
        parts = {name: found for name, found in self.regions.items() if name != "band"}
        if parts:
            reliability_diagram(Path(folder) / "reliability.png", parts)


def evaluate_methods(
    entries: Sequence[Entry],
    seeds: Sequence[int],
    views: Sequence[int],
    recordings: Sequence[Path],
    config: Config,
    progress: Callable[[str, int, int], None] = lambda method, done, total: None,
    points: int = 100_000,
) -> tuple[RobotTable, Showcase]:
    """Reconstruct scenes and recordings by each method and compare.

    seeds: of the scenes, see `trials.Trial`. views: of each scene's sequence so many first ones are
    used. recordings: folders as `datasets.recordings` reads; meshes are made from frames 0::10 and
    0::2 and scored on 1::2. points: drawn in a scene, twice. progress: method, reconstructions done
    and in all.

    Methods get the same scans in the same order. Each works in a fresh process and alone. One that
    fails is left out of the table where it failed. Raises ValueError for what cannot be used,
    before anything long begins.
    """
    views = sorted(set(views))
    methods = _checked(entries, seeds, views, recordings)
    checkpoints = {e.name: _about(e) for e in entries if e.mapped}
    total = len(entries) * (len(seeds) * len(views) + len(recordings) * len(USED))
    done = 0

    def step(entry: Entry) -> None:
        nonlocal done
        done += 1
        progress(entry.name, done, total)

    shown = Showcase(views[len(views) // 2] if views else 0)
    results: list[dict[str, Any]] = []
    rows: dict[int, Rows] = {}
    evidence: list[Counts] = []
    failed: dict[str, str] = {}
    if seeds:
        results, said = _on_scenes(
            entries, seeds, views, config, points, shown, evidence, failed, step
        )
        whole = [e.name for e in entries if e.name not in failed]
        rows = {n: {name: _row(name, n, results, said) for name in whole} for n in views}
    failures = list(failed.values())
    held_out = {
        str(folder): _on_recording(entries, folder, config, failures, step) for folder in recordings
    }
    settings = {
        "methods": methods, "seeds": list(seeds), "views": views, "points": points,
        "frames": {"used": USED, "held out": HELD_OUT}, "config": to_yaml(config),
        "checkpoints": checkpoints, "scene models": len(catalogue()), "machine": _machine(),
    }  # fmt: skip
    return RobotTable(rows, held_out, results, added(evidence), failures, settings), shown


def _checked(
    entries: Sequence[Entry], seeds: Sequence[int], views: list[int], recordings: Sequence[Path]
) -> dict[str, str]:
    """{method: sentence}. Raises ValueError for what cannot be used."""
    names = [entry.name for entry in entries]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"methods: expected some with different names, got {names}")
    if not seeds and not recordings:
        raise ValueError("expected scenes or recordings, got none")
    if seeds and (not views or views[0] < 1):
        raise ValueError(f"views: expected numbers above 0, got {views}")
    for folder in recordings:
        for frames in (*USED, HELD_OUT):
            open_recording(folder, frames)
    for entry in entries:
        if (entry.name in METHODS) == bool(entry.weights):
            raise ValueError(
                f"method {entry.name}: expected a name of {', '.join(METHODS)} without a "
                f"checkpoint or another one with it, got {entry.weights or 'none'}"
            )
        if entry.mapped:
            entry.method()
    return {e.name: METHODS.get(e.name, f"the map with {e.weights}") for e in entries}


def _on_scenes(
    entries: Sequence[Entry],
    seeds: Sequence[int],
    views: list[int],
    config: Config,
    points: int,
    shown: Showcase,
    evidence: list[Counts],
    failed: dict[str, str],
    step: Callable[[Entry], None],
) -> tuple[list[dict[str, Any]], dict[tuple[str, int], list[Regions]]]:
    """All figures of all answers, and the regions by method and views; fills the showcase, the
    evidence of all scenes and views, and a sentence by method that failed."""
    results: list[dict[str, Any]] = []
    said: dict[tuple[str, int], list[Regions]] = {}
    for begin in range(0, len(seeds), _AT_ONCE):
        trials = [Trial(seed, views[-1], config) for seed in seeds[begin : begin + _AT_ONCE]]
        asked = [(trial, n, trial.truth(n, points)) for trial in trials for n in views]
        evidence += [counts_of(truth.evidence, t.room, config.map) for t, _, truth in asked]
        most = _most_seen([truth if n == shown.views else None for _, n, truth in asked])
        if begin == 0:
            _show(shown, *asked[most], config)
        for entry in entries:
            if entry.name in failed:
                continue
            jobs = [Job(t.recording.first(n), config, truth.queries) for t, n, truth in asked]
            try:
                for k, answer in enumerate(answers(entry, jobs)):
                    trial, n, truth = asked[k]
                    about = {"method": entry.name, "seed": trial.seed, "views": n}
                    results.append(about | _figures(answer, truth, trial))
                    said.setdefault((entry.name, n), []).append(regions(answer, truth))
                    if begin == 0 and k == most:
                        vertices = trial.room.to_room(answer.vertices)
                        shown.meshes[entry.name] = vertices, answer.triangles
                    step(entry)
            except MethodError as error:
                failed[entry.name] = str(error)
    shown.regions = together(said.get((OURS, shown.views), []))
    return results, said


def _figures(answer: Answer, truth: Truth, trial: Trial) -> dict[str, float]:
    """The scores of an answer, its costs, and whether its mesh is empty."""
    return scores(answer, truth, trial.surface) | {
        "empty": float(len(answer.triangles) == 0),
        "seconds": answer.seconds,
        "memory MB": answer.memory_mb,
        "libraries MB": answer.libraries_mb,
    }


def _row(
    name: str,
    views: int,
    results: list[dict[str, Any]],
    said: dict[tuple[str, int], list[Regions]],
) -> dict[str, float]:
    """Of one method the means over the scenes; the largest memory, and calibration of all points
    together."""
    own = [r for r in results if r["method"] == name and r["views"] == views]
    keys = [key for key in own[0] if key not in ("method", "seed", "views")]
    row = {key: mean(result[key] for result in own) for key in keys}
    row |= {"scenes": len(own), "empty": sum(result["empty"] for result in own)}
    row["memory MB"] = max(result["memory MB"] for result in own)
    return row | calibration(said[name, views])


def _on_recording(
    entries: Sequence[Entry],
    folder: Path,
    config: Config,
    failures: list[str],
    step: Callable[[Entry], None],
) -> dict[str, Rows]:
    """{frames used: rows} of one recording; adds a sentence for each method that failed."""
    rows: dict[str, dict[str, dict[str, float]]] = {frames: {} for frames in USED}
    nowhere = np.empty((0, 3))
    for entry in entries:
        jobs = [Job(open_recording(folder, frames), config, nowhere) for frames in USED]
        try:
            for frames, answer in zip(USED, answers(entry, jobs), strict=True):
                held_out = open_recording(folder, HELD_OUT)
                rows[frames][entry.name] = held_out_scores(
                    answer.vertices, answer.triangles, held_out
                ) | {"seconds": answer.seconds, "memory MB": answer.memory_mb}
                step(entry)
        except MethodError as error:
            failures.append(str(error))
    return rows  # type: ignore[return-value]


# ---- what is shown, and what is told -------------------------------------------------------------


def _most_seen(truths: list[Truth | None]) -> int:
    """The one with the most true surface around what was seen."""
    return int(np.argmax([0 if t is None else np.isfinite(t.reach).sum() for t in truths]))


def _show(shown: Showcase, trial: Trial, views: int, truth: Truth, config: Config) -> None:
    near, far = config.scan.min_range_m, config.scan.max_range_m
    scans = trial.recording.first(views).scans(config)
    seen = [transform(s.T_map_sensor, in_range(s.points, near, far)) for s in scans]
    shown.points = trial.room.to_room(np.concatenate(seen))
    low, high = (end(trial.room.to_room(truth.seen), axis=0) for end in (np.min, np.max))
    high[2] = min(high[2], low[2] + _SHOWN_M)
    shown.box = np.stack([low - BAND_M, high + BAND_M])
    vertices, triangles = trial.room.mesh()
    shown.truth = trial.room.to_room(vertices), triangles


def _about(entry: Entry) -> dict[str, Any]:
    return {"file": entry.weights or "the package's", **zoo.load(entry.weights)[1]}


def _machine() -> dict[str, Any]:
    cards = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    processor = platform.processor() or platform.machine()
    listed = Path("/proc/cpuinfo")
    if listed.is_file():
        models = [r for r in listed.read_text().splitlines() if r.startswith("model name")]
        processor = models[0].partition(":")[2].strip() if models else processor
    return {
        "processor": processor, "cores": os.cpu_count(), "threads": torch.get_num_threads(),
        "cards": cards, "system": platform.platform(), "python": platform.python_version(),
        **{name: version(name) for name in _LIBRARIES},
    }  # fmt: skip
