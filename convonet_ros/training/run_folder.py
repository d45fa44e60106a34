"""The folder of a training run: its state, log, curves and best network."""

from __future__ import annotations

import csv
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from convonet_ros.storage import DAMAGED, write_bytes

_LOG = ("step", "loss", "lr", "val_loss", "val_iou", "minutes")


class RunFolder:
    """`last.pt` has everything to go on after an interruption, `best.pt` is the averaged network
    with the best validation IoU, `log.csv` has a row and `curves.png` a point per validation.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last, self.best = folder / "last.pt", folder / "best.pt"
        self.log, self.curves = folder / "log.csv", folder / "curves.png"

    def write_state(self, state: dict[str, Any], settings: Mapping[str, Any]) -> None:
        """Write last.pt whole or not at all. settings: what the run may not go on without."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / "last.partial"
        torch.save({**state, "settings": dict(settings)}, partial)
        partial.replace(self.last)

    def read_state(self, settings: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was written, None before the first time.

        Raises ValueError for a damaged file, and for a run that was started with other settings.
        """
        if not self.last.exists():
            return None
        try:
            state = torch.load(self.last, "cpu", weights_only=True)
            began = state.pop("settings")
        except (*DAMAGED, pickle.UnpicklingError) as error:
            raise ValueError(
                f"{self.last}: expected the state of a run, got a damaged or foreign file "
                f"({str(error).strip().splitlines()[0] if str(error) else type(error).__name__}); "
                "choose another folder"
            ) from error
        other = [
            f"{name} {_said(began, name)} (now {_said(settings, name)})"
            for name in dict.fromkeys([*began, *settings])
            if began.get(name) != settings.get(name)
        ]
        if other:
            raise ValueError(
                f"{self.folder}: the run there was started with {', '.join(other)}; give the same "
                f"to go on, or another folder for a new run"
            )
        return state

    def trim_log(self, step: int) -> None:
        """Forget the rows beyond a step, which will be written again."""
        if self.log.exists():
            rows = [row for row in self._rows() if float(row["step"]) <= step]
            lines = [",".join(_LOG), *(",".join(row[name] for name in _LOG) for row in rows)]
            write_bytes(self.log, "".join(f"{line}\n" for line in lines).encode())

    def add_to_log(self, **values: float) -> None:
        """Append a row, values by the names of the columns, and draw the curves anew."""
        new = not self.log.exists()
        with self.log.open("a") as file:
            if new:
                file.write(",".join(_LOG) + "\n")
            file.write(",".join(f"{values[name]:.6g}" for name in _LOG) + "\n")
        self._plot()

    def _rows(self) -> list[dict[str, str]]:
        with self.log.open() as file:  # a row that was cut off by a crash is left out
            return [row for row in csv.DictReader(file) if all(row.get(name) for name in _LOG)]

    def _plot(self) -> None:
        """Loss and validation IoU over the steps."""
        from matplotlib.figure import Figure

        rows = [{name: float(row[name]) for name in _LOG} for row in self._rows()]
        figure = Figure(figsize=(7, 3.5), layout="constrained")
        left = figure.subplots()
        steps = [row["step"] for row in rows]
        left.plot(steps, [row["loss"] for row in rows], label="training loss")
        left.plot(steps, [row["val_loss"] for row in rows], label="validation loss")
        left.set(xlabel="step", ylabel="cross-entropy")
        right = left.twinx()
        right.plot(steps, [row["val_iou"] for row in rows], color="black", label="validation IoU")
        right.set(ylabel="IoU")
        figure.legend(loc="outside upper center", ncols=3)
        figure.savefig(self.curves, dpi=100)


def _said(settings: Mapping[str, Any], name: str) -> str:
    value = settings.get(name)
    return "none" if value is None or value == [] else str(value)
