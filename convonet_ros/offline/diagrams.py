"""Diagrams of figures, drawn with Matplotlib."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convonet_ros.model.calibration import reliability
from convonet_ros.storage import write_bytes

_BINS = 15


def reliability_diagram(
    path: str | Path, found: Mapping[str, tuple[np.ndarray, np.ndarray]]
) -> None:
    """Write a PNG: how often what was said with some probability is true, and how often it is said.

    found: {title: (probability (N,), truth (N,) bool)}, each with a column of its own. A calibrated
    method follows the diagonal. Bins without points stay empty.
    """
    from matplotlib.figure import Figure

    if not found:
        raise ValueError("found: expected something said, got nothing")
    edges = np.linspace(0.0, 1.0, _BINS + 1)
    figure = Figure(figsize=(3.2 * len(found), 4.4), layout="constrained")
    axes = figure.subplots(
        2, len(found), sharex=True, squeeze=False, height_ratios=(3, 1), sharey="row"
    )
    for (above, below), (title, (said, true)) in zip(axes.T, found.items(), strict=True):
        count, _, was = reliability(said, true, _BINS)
        share = np.divide(was, count, out=np.full(_BINS, np.nan), where=count > 0)
        above.plot([0, 1], [0, 1], color="0.6", linewidth=1)
        above.bar(edges[:-1], share, 1 / _BINS, align="edge", color="#e0904f", edgecolor="white")
        above.set(title=f"{title}, {len(said)} points", xlim=(0, 1), ylim=(0, 1))
        below.bar(edges[:-1], count / max(1, len(said)), 1 / _BINS, align="edge", color="0.6")
        below.set(xlabel="probability said", yscale="log", ylim=(1e-4, 1))
    axes[0, 0].set_ylabel("share occupied")
    axes[1, 0].set_ylabel("share of points")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue())
