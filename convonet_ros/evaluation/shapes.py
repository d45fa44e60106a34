"""Networks beside each other on a folder of shapes: the tables of the paper, and its pictures.

Peng et al., "Convolutional Occupancy Networks", ECCV 2020: tables 1 and 2. A reconstruction is
scored as the authors' evaluation does (eval_meshes.py, src/eval.py). All networks get the same
noisy input, as far as they take the same number of points.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from convonet_ros.datasets.generated import shape_mesh, shape_solids
from convonet_ros.datasets.world.solids import sample_surface
from convonet_ros.evaluation.metrics import iou, mesh_metrics, point_metrics
from convonet_ros.evaluation.tables import Column, mean, table_of, write_results
from convonet_ros.evaluation.targets import Networks, Targets
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.offline.implicit import Implicit, evaluating
from convonet_ros.offline.objects import surface_of
from convonet_ros.offline.pictures import picture_of_methods

# Of a row: its name, and that of a model's metric.
_MEANS = {
    "IoU": "iou",
    "Chamfer-L1": "chamfer-L1",
    "normal consistency": "normals",
    "F-score": "f-score",
    "F-score at 1.5 %": "f-score-15",
    "F-score at 2 %": "f-score-20",
    "occupancy IoU": "occupancy iou",
    "accuracy": "accuracy",
    "completeness": "completeness",
    "Chamfer-L2": "chamfer-L2",
    "seconds": "seconds",
}
_PAPER_COLUMNS = (
    Column("IoU", "IoU", 3, 1, True, ""),
    Column("Chamfer-L1", "Chamfer-L1", 4, 1, False, ""),
    Column("Normal C.", "normal consistency", 3, 1, True, ""),
    Column("F-Score", "F-score", 3, 1, True, ""),
)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What `evaluate_folder` found.

    rows: {network: {metric: mean over all models}}; categories: {category: the same of its
    models}. Metrics are IoU (of the mesh), Chamfer-L1, normal consistency, F-score (at 1 % of the
    cube's side) and the like of `_MEANS`, in the unit of the cube; seconds of a shape; parameters;
    models, and how many of them gave an empty mesh. A mean leaves out what is NaN, and is NaN
    where that is all: an empty mesh has no Chamfer distance and no F-score.
    models: per model and network {network, category, model, empty, seconds, occupancy iou, and what
    `metrics.mesh_metrics` gives}. settings: of the evaluation and, by name, of the networks.
    """

    rows: dict[str, dict[str, float]]
    categories: dict[str, dict[str, dict[str, float]]]
    models: list[dict[str, Any]]
    settings: dict[str, Any]

    def markdown(self) -> str:
        """The table of the paper, the best of a column bold, and what one should know of it."""
        lines = [table_of("", _PAPER_COLUMNS, self.rows)]
        if len(self.categories) > 1:
            for category, rows in self.categories.items():
                lines.append(f"{category}:\n\n{table_of('', _PAPER_COLUMNS, rows)}")
        counts = {int(row["models"]) for row in self.rows.values()}
        lines.append(
            f"Mean over {', '.join(map(str, sorted(counts)))} models of the split "
            f"{self.settings['split']}; Chamfer-L1 in sides of the unit cube, F-Score at 1 %."
        )
        for name, row in self.rows.items():
            if row["empty"]:
                lines.append(
                    f"{name}: {int(row['empty'])} of {int(row['models'])} meshes are empty: they "
                    "count with IoU 0 and normals -1, and have no Chamfer-L1 and F-Score."
                )
        return "\n\n".join(lines) + "\n"

    def write(self, folder: str | Path) -> None:
        """Write table.md and, with all that this holds, results.json; each whole or not at all."""
        write_results(folder, self.markdown(), asdict(self))


def evaluate_folder(
    networks: Networks,
    folder: Path,
    split: str = "test",
    limit: int | None = None,
    resolution: int = 32,
    steps: int = 2,
    threshold: float | None = 0.2,
    samples: int = 100_000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Reconstruct the models of a split with each network and compare with the truth.

    networks: {name: (network, about)} as `zoo.load` gives; the network's own configuration says
    what its input is (data.input_type, pointcloud_n, pointcloud_noise) and whether what lies
    outside of the target is left out (test.remove_wall). folder: in the format of
    `datasets.shapes`. limit: the first so many models only. resolution, steps: of the octree, see
    `offline.objects.surface_of`. threshold: probability at the surface; None takes each network's
    test.threshold. samples: points drawn on a mesh. seed: of inputs and samples. progress: is
    called with reconstructions done and in all.

    The target is the model's cloud, the points of all its files; the IoU is that of upstream's
    query points (points_iou, of several files the first one), for the inside of the mesh and, as
    "occupancy IoU", for the network's answer at the points themselves. Seconds are those of
    encoding and extraction. With points at random on both sides nothing has an F-score of 1: for
    models of `datasets.generated` settings["perfect F-score"] is the mean that `samples` points of
    the exact surfaces get. For three rooms with two files of 40 000 points it is 0.984 (0.924 with
    one file as target). Raises ValueError for a folder, a split, networks and settings that
    cannot be used.
    """
    models = Targets(networks, Path(folder), split, seed)
    count = len(models) if limit is None else min(limit, len(models))
    if count < 1:
        raise ValueError(f"limit: expected at least 1, got {limit}")
    thresholds = {name: _threshold(networks[name][0], threshold) for name in networks}
    results: list[dict[str, Any]] = []
    perfect: list[float] = []
    for index in range(count):
        category, model = models.names[index]
        target, normals, queries, occupied = models.truth(index)
        for name, (network, _) in networks.items():
            inputs = models.inputs(index, name)
            begun = time.perf_counter()
            surface = surface_of(network, inputs, resolution, steps, thresholds[name])
            seconds = time.perf_counter() - begun
            found = mesh_metrics(
                surface.vertices, surface.triangles, target, normals, queries, occupied, samples,
                _remove_wall(network), np.random.default_rng([seed, index]),
            )  # fmt: skip
            inside = _probabilities(network, inputs, queries) >= thresholds[name]
            about = {"network": name, "category": category, "model": model}
            results.append(
                about
                | {"empty": surface.empty, "seconds": seconds}
                | {"occupancy iou": float(iou(inside, occupied))}
                | found
            )
            if progress is not None:
                progress(len(results), count * len(networks))
        seeded = models.seed_of(index, target)
        if seeded is not None:
            exact, _ = sample_surface(shape_solids(*seeded), samples, np.random.default_rng(seed))
            perfect.append(point_metrics(exact.astype(np.float32), target)["f-score"])
    settings = {
        "folder": str(folder), "split": split, "models": count, "resolution": resolution,
        "steps": steps, "samples": samples, "seed": seed,
        "perfect F-score": mean(perfect) if len(perfect) == count else None,
        "networks": {
            name: {
                "threshold": thresholds[name], "about": about, "data": models.data[name],
                "remove_wall": _remove_wall(network),
                "device": str(next(network.parameters()).device),
            }
            for name, (network, about) in networks.items()
        },
    }  # fmt: skip
    parameters = {
        name: sum(p.numel() for p in network.parameters())
        for name, (network, _) in networks.items()
    }
    categories = {
        category: _rows([r for r in results if r["category"] == category], parameters)
        for category in dict.fromkeys(r["category"] for r in results)
    }
    return Evaluation(_rows(results, parameters), categories, results, settings)


def picture_of_networks(
    path: str | Path,
    networks: Networks,
    folder: Path,
    split: str = "test",
    models: Iterable[int] = (0,),
    resolution: int = 32,
    steps: int = 2,
    threshold: float | None = 0.2,
    seed: int = 0,
) -> None:
    """Write a PNG: per model, by its number in the split, a row with the input (of the first
    network), the mesh of each network and the truth.

    Arguments and errors as of `evaluate_folder`, whose inputs these are. The truth is the mesh of
    the seed for models of `datasets.generated`, else the target's points.
    """
    found = Targets(networks, Path(folder), split, seed)
    rows = []
    no_triangles = np.empty((0, 3), np.int32)
    for index in models:
        if not 0 <= index < len(found):
            raise ValueError(f"models: expected numbers from 0 to {len(found) - 1}, got {index}")
        row: list[tuple[str, np.ndarray, np.ndarray]] = []
        for name, (network, _) in networks.items():
            inputs = found.inputs(index, name)
            if not row:
                row.append(("input", _as_points(network, inputs), no_triangles))
            surface = surface_of(network, inputs, resolution, steps, _threshold(network, threshold))
            row.append((name, surface.vertices, surface.triangles))
        target, *_ = found.truth(index)
        seeded = found.seed_of(index, target)
        truth = shape_mesh(*seeded) if seeded else (target, no_triangles)
        row.append(("ground truth", *truth))
        rows.append(row)
    picture_of_methods(path, *rows)


def _threshold(network: OccupancyNetwork, threshold: float | None) -> float:
    """The one given, else that of the configuration (upstream's default is 0.5)."""
    return float(
        (network.config.get("test") or {}).get("threshold", 0.5) if threshold is None else threshold
    )


def _remove_wall(network: OccupancyNetwork) -> bool:
    return bool((network.config.get("test") or {}).get("remove_wall", False))


def _probabilities(
    network: OccupancyNetwork, inputs: torch.Tensor, queries: np.ndarray
) -> np.ndarray:
    """(Q,) float32 occupancy of query points (Q, 3)."""
    with evaluating(network):
        logits = Implicit(network, inputs).logits(torch.from_numpy(queries).float())
    return torch.from_numpy(logits).float().sigmoid().numpy()


def _as_points(network: OccupancyNetwork, inputs: torch.Tensor) -> np.ndarray:
    """(N, 3) points of an input; of voxels the centres."""
    values = inputs[0].cpu().numpy()
    if not network.takes_voxels:
        return values
    return (np.argwhere(values > 0) + 0.5) / len(values) - 0.5


# ---- means --------------------------------------------------------------------------------------


def _rows(results: list[dict[str, Any]], parameters: dict[str, int]) -> dict[str, dict[str, float]]:
    """Per network the means over models."""
    rows: dict[str, dict[str, float]] = {}
    for name, count in parameters.items():
        own = [result for result in results if result["network"] == name]
        means = {
            title: mean(result.get(key, math.nan) for result in own)
            for title, key in _MEANS.items()
        }
        empty = sum(result["empty"] for result in own)
        rows[name] = {**means, "parameters": count, "models": len(own), "empty": empty}
    return rows
