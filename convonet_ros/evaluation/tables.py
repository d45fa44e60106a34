"""Means of figures, and tables of them beside each other."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from convonet_ros.offline.bench import table
from convonet_ros.storage import write_bytes


class Column(NamedTuple):
    """Title, key of a row, digits, factor from the row's unit to the shown one, whether more is
    better (None: nothing is), and a sentence."""

    title: str
    key: str
    digits: int
    factor: float
    more: bool | None
    sentence: str


Rows = Mapping[str, Mapping[str, float]]  # {method: {key of a column and more: mean}}


def table_of(title: str, columns: Iterable[Column], rows: Rows) -> str:
    """A markdown table, the best of each column bold; what a row does not have is a dash."""
    columns = tuple(columns)
    cells: dict[str, list[str]] = {name: [] for name in rows}
    for column in columns:
        shown = {
            name: f"{column.factor * row.get(column.key, math.nan):.{column.digits}f}"
            for name, row in rows.items()
        }
        known = [float(text) for text in shown.values() if text != "nan"]
        best = None
        if known and column.more is not None and len(rows) > 1:
            best = max(known) if column.more else min(known)
        for name, text in shown.items():
            if text == "nan":
                text = "-"
            cells[name].append(f"**{text}**" if text != "-" and float(text) == best else text)
    return table([title, *(column.title for column in columns)], list(cells.items()))


def mean(values: Iterable[float]) -> float:
    """The mean of what is not NaN; NaN of nothing."""
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def write_results(folder: str | Path, markdown: str, everything: Mapping[str, Any]) -> None:
    """Write table.md and results.json into a folder; each whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps(_plain(everything), indent=1, allow_nan=False) + "\n"
    write_bytes(folder / "table.md", markdown.encode())
    write_bytes(folder / "results.json", content.encode())


def _plain(value: Any) -> Any:
    """What JSON has: NaN becomes null, and what is no number, text or container its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)
