"""The training loop: resumable, seeded, and plain enough to be read in one go."""

from __future__ import annotations

import csv
import itertools
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from convonet_ros.model import zoo
from convonet_ros.training.calibrate import calibration_error, fit_temperature
from convonet_ros.training.tasks import Task

_LOG = ("step", "loss", "lr", "val_loss", "val_iou", "minutes")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How long and how fast a task is trained, and the command that checkpoints tell."""

    steps: int = 3000
    lr: float = 2e-3
    weight_decay: float = 1e-4
    ema: float = 0.997
    validate_every: int = 200
    command: str = ""


class Trainer:
    """Trains the network of a task in `folder`, which holds the log, the curves, the checkpoints.

    `last.pt` has everything to go on after an interruption, `best.pt` is the averaged network
    with the best validation IoU, loadable by `zoo.load`.
    """

    def __init__(self, config: TrainConfig, task: Task, folder: Path) -> None:
        self.config, self.task, self.folder = config, task, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = task.network.to(self.device)
        self.averaged = torch.optim.swa_utils.AveragedModel(
            self.network, multi_avg_fn=partial(_average, decay=config.ema)
        )
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.step, self.seconds, self.best_iou = 0, 0.0, -1.0
        if (folder / "last.pt").exists():
            self._resume(torch.load(folder / "last.pt", self.device, weights_only=True))

    @property
    def averaged_network(self) -> Any:
        """The exponential moving average of the weights, a network as the task's."""
        return self.averaged.module

    def run(self, stop_at: int | None = None) -> Path:
        """Train until config.steps (or stop early, to go on later); returns the best checkpoint."""
        config = self.config
        end = config.steps if stop_at is None else min(stop_at, config.steps)
        started = time.monotonic() - self.seconds
        losses: list[float] = []
        data = _ahead(self.task.batches(self.step))
        with tqdm(total=end, initial=self.step, unit="step", mininterval=5) as bar:
            while self.step < end:
                lr = _cosine(self.step, config.steps, config.lr)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                self.network.train()
                loss, _, _ = self.task.loss(self.network, next(data))
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
                self.optimizer.step()
                self.averaged.update_parameters(self.network)
                self.step += 1
                losses.append(loss.item())
                bar.update()
                bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}", iou=f"{self.best_iou:.4f}")
                if self.step % config.validate_every == 0 or self.step == end:
                    self.seconds = time.monotonic() - started
                    self._validate(float(np.mean(losses)), lr)
                    losses.clear()
        return self.folder / "best.pt"

    @torch.no_grad()
    def settle_statistics(self) -> None:
        """Measure the batch normalisation's statistics of the averaged network.

        The average of the statistics is not the statistics of the averaged weights.
        """
        network = self.averaged_network
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm)]
        if not norms:
            return
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        network.train()
        for batch in itertools.islice(self.task.batches(0), _STATISTICS_BATCHES):
            self.task.loss(network, batch)
        network.eval()

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Scores of the averaged network over the validation batches.

        val_loss and val_iou as the network stands, the temperature that calibrates it, and the
        expected calibration error with that temperature.
        """
        network = self.averaged_network.eval()
        results = [self.task.loss(network, batch)[1:] for batch in self.task.validation]
        logits, truth = (torch.cat(parts).cpu() for parts in zip(*results, strict=True))
        temperature = fit_temperature(logits, truth)
        occupied = logits > 0
        return {
            "val_loss": binary_cross_entropy_with_logits(logits, truth.float()).item(),
            "val_iou": (occupied & truth).sum().item() / max(1, (occupied | truth).sum().item()),
            "temperature": temperature,
            "calibration_error": calibration_error(torch.sigmoid(logits / temperature), truth),
        }

    def _validate(self, loss: float, lr: float) -> None:
        config = self.config
        self.settle_statistics()
        scores = self.validate()
        log = self.folder / "log.csv"
        new = not log.exists()
        with log.open("a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(_LOG)
            row = (self.step, loss, lr, scores["val_loss"], scores["val_iou"], self.seconds / 60)
            writer.writerow([f"{value:.6g}" for value in row])
        if scores["val_iou"] > self.best_iou:
            self.best_iou = scores["val_iou"]
            about = {
                "step": self.step,
                **scores,
                "minutes": self.seconds / 60,
                **self.task.about,
                "lr": config.lr,
                "steps": config.steps,
                "command": config.command,
            }
            zoo.save(self.folder / "best.pt", self.averaged_network, about)
        self._save()
        plot_curves(log, self.folder / "curves.png")

    # ---- interruption -----------------------------------------------------------------------

    def _save(self) -> None:
        partial = self.folder / "last.partial"
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": [self.step, self.seconds, self.best_iou],
        }
        torch.save(state, partial)
        partial.replace(self.folder / "last.pt")

    def _resume(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds, self.best_iou = state["progress"]


def _ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """The same batches, each read from the disk while the one before it is trained on."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches)
        while True:
            batch = coming.result()
            coming = pool.submit(next, batches)
            yield batch


@torch.no_grad()
def _average(averaged: Any, current: Any, count: Any, decay: float) -> None:
    """Exponential moving average that forgets the first weights quickly."""
    early = (1 + float(count)) / (10 + float(count))
    torch._foreach_lerp_(averaged, current, 1 - min(decay, early))


_STATISTICS_BATCHES = 24
_WARM_UP = 100


def _cosine(step: int, steps: int, peak: float) -> float:
    """Linear warm-up, then half a cosine down to a hundredth of the peak."""
    if step < _WARM_UP:
        return peak * (step + 1) / _WARM_UP
    share = (step - _WARM_UP) / max(1, steps - _WARM_UP)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, share))))


def plot_curves(log: Path, picture: Path) -> None:
    """Loss and validation IoU over the steps of a log.csv as a PNG."""
    from matplotlib.figure import Figure

    with log.open() as file:
        rows = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
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
    figure.savefig(picture, dpi=100)
