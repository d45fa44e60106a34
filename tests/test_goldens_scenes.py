"""Scenes crop by crop give what upstream's code gave, recorded in the shared goldens."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import Golden, assert_close, assert_statistics, network_of, recorded_calls, recording
from scipy.spatial import cKDTree
from torch import Tensor

from convonet_ros.mapping.meshing import closed_surface
from convonet_ros.model.features import (
    cells_of_box,
)
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.offline import tiles
from convonet_ros.offline.mise import Mise


def assert_mesh(
    grid: np.ndarray, level: float, a_side: float, golden: Golden, vertex_atol: float
) -> None:
    """The recorded vertices, one to one, and as many faces."""
    boxes = golden["query_vol"]
    low, high = boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)
    vertices, triangles = closed_surface(grid, level)
    vertices = vertices * (max(high - low) / a_side) + low
    wanted = golden["mesh/vertices"]
    assert vertices.shape == wanted.shape
    assert triangles.shape == golden["mesh/faces"].shape
    distance, place = cKDTree(wanted).query(vertices)
    assert distance.max() < vertex_atol
    assert len(np.unique(place)) == len(np.unique(wanted, axis=0))


def assert_tiling(network: OccupancyNetwork, golden: Golden) -> tiles.Tiling:
    points = torch.from_numpy(golden["points"])
    unit, query = float(golden["unit_size"]), int(golden["query_vol_size"])
    tiling = tiles.tiling(network, points, unit, query)
    assert tiling.counts.tolist() == golden["axis_n_crop"].tolist()
    assert len(tiling) == int(golden["n_crop"])
    assert tiling.layout.side == int(golden["reso"])
    assert tiling.crop_m == pytest.approx(float(golden["query_crop_size"]), rel=1e-15)
    assert tiling.layout.side * unit == pytest.approx(float(golden["input_crop_size"]), rel=1e-15)
    inside = []
    for index, (asked, seen) in enumerate(
        zip(golden["query_vol"], golden["input_vol"], strict=True)
    ):
        low, box = tiling.corner(index), tiling.box(index)
        np.testing.assert_allclose([low, low + tiling.crop_m], asked, rtol=0, atol=1e-12)
        np.testing.assert_allclose([box.low, box.high], seen, rtol=0, atol=1e-12)
        nowhere = box.side**3
        low32, high32 = (torch.from_numpy(side).float() for side in (box.low, box.high))
        near = points[((points >= low32) & (points < high32)).all(dim=1)]
        inside.append(len(near))
        assert (cells_of_box(near[None], box, "grid") < nowhere).all()
    assert inside == golden["n_points_in_input_vol"].tolist()
    assert np.flatnonzero(np.array(inside) == 0).tolist() == golden["empty_crops"].tolist()
    return tiling


def assert_features(outputs: list[Tensor], golden: Golden) -> None:
    wanted = [golden[f"crop{k}/fea_stat/grid"] for k in range(int(golden["n_crop"]))]
    assert len(outputs) == len(wanted)
    for index, (got, statistics) in enumerate(zip(outputs, wanted, strict=True)):
        assert_statistics(got, statistics, f"crop {index}")


def test_crops_are_upstreams(goldens: Path) -> None:
    golden = recording(goldens, "crop_l3_sincos")
    network = network_of(golden)
    encoder: Any = network.encoder
    tiling = assert_tiling(network, golden)
    shape = (16, 16, 16)
    lattice = np.indices(shape).reshape(3, -1).T * (tiling.crop_m / 16)
    for index in (0, 8):
        queries = tiling.corner(index) + lattice
        np.testing.assert_allclose(queries, golden[f"crop{index}/queries"], rtol=0, atol=1e-12)
        place = tiling.box(index).normalised(torch.from_numpy(queries)[None], "grid")[0]
        np.testing.assert_allclose(place.numpy(), golden[f"crop{index}/qn/grid"], rtol=0, atol=1e-7)
    scene = (golden["points"], float(golden["unit_size"]), int(golden["query_vol_size"]))
    with recorded_calls(encoder.unet3d) as calls:
        logits = tiles.upstream_crops(network, *scene, 16)
    assert_features(calls[1], golden)
    assert logits.dtype == np.float32
    assert_close(logits, golden["logits"], "logits")

    grid, _ = tiles.value_grid(network, *scene, 16, 0)
    assert_close(grid, golden["value_grid"], "value_grid")
    for index in range(len(tiling)):
        block = tuple(slice(16 * k, 16 * (k + 1)) for k in np.unravel_index(index, tiling.counts))
        np.testing.assert_allclose(grid[block], logits[index], rtol=0, atol=1e-4)
    level = threshold_of(golden)
    assert_mesh(golden["value_grid"], level, tiling.counts.max() * 16, golden, 1e-9)
    # From our own values: within a hundredth of a lattice step, for rounding moves the surface.
    assert_mesh(grid, level, tiling.counts.max() * 16, golden, 0.01 * tiling.crop_m / 16)


def threshold_of(golden: Golden) -> float:
    share = json.loads(str(golden["config"]))["test"]["threshold"]
    return float(np.log(share) - np.log(1 - share))


def test_refined_crops_are_upstreams(goldens: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    golden = recording(goldens, "crop_l3_mise")
    network = network_of(golden)
    encoder: Any = network.encoder
    tiling = assert_tiling(network, golden)
    generation = json.loads(str(golden["config"]))["generation"]
    resolution, steps = generation["resolution_0"], generation["upsampling_steps"]
    side = resolution * 2**steps
    level = threshold_of(golden)

    rounds: list[tuple[int, int]] = []
    started: list[Mise] = []
    query: Callable[[Mise], np.ndarray] = Mise.query

    def counted(octree: Mise) -> np.ndarray:
        if not any(octree is other for other in started):
            started.append(octree)
        points = query(octree)
        if len(points):
            rounds.append((len(started) - 1, len(points)))
        return points

    monkeypatch.setattr(Mise, "query", counted)
    scene = (golden["points"], float(golden["unit_size"]), int(golden["query_vol_size"]))
    with recorded_calls(encoder.unet3d) as calls:
        grid, _ = tiles.value_grid(network, *scene, resolution, steps, level)
    assert_features(calls[1], golden)
    assert rounds == [tuple(row) for row in golden["mise_rounds"].tolist()]
    assert_close(grid, golden["value_grid"], "value_grid")
    assert_mesh(golden["value_grid"], level, tiling.counts.max() * side, golden, 1e-9)
    # From our own values: within a hundredth of a lattice step, for rounding moves the surface.
    assert_mesh(grid, level, tiling.counts.max() * side, golden, 0.01 * tiling.crop_m / side)
