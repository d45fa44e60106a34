"""The benchmark runs and its figures are figures."""

from __future__ import annotations

import pytest

from convonet_ros.cli import main


def test_bench_prints_times_beside_plain_fusion_and_memory(
    capsys: pytest.CaptureFixture[str],
) -> None:
    small = ["map.window_xy_crops=4", "map.window_z_crops=2", "update.budget_s=0"]
    options = [part for setting in small for part in ("--set", setting)]
    assert main(["bench", "--frames", "2", "--metres", "1", *options]) == 0
    lines = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line]
    figures = {cells[0].strip(): float(cells[1]) for cells in lines if "." in cells[1]}
    assert {"integrate a scan", "infer a crop", "TSDF: integrate a scan"} <= figures.keys()
    assert all(value > 0 for value in figures.values())
    memory = [float(cells[1]) for cells in lines[-2:]]
    assert all(100 < value < 5000 for value in memory)
