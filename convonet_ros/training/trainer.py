"""The training loop: it survives interruption, is seeded, and plain enough to be read in one go."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.modules.batchnorm import _BatchNorm
from tqdm import tqdm

from convonet_ros.model import zoo
from convonet_ros.model.calibration import calibration_error, fitted, reliability
from convonet_ros.training.batches import Shares, moved, read_ahead
from convonet_ros.training.distributed import Processes
from convonet_ros.training.run_folder import RunFolder

if TYPE_CHECKING:
    from convonet_ros.training.tasks import Task

_BAD_STEPS = 10  # in a row, then it is given up


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How long and how fast a task is trained, and the command that checkpoints tell.

    settings: what else a run may not go on without (batch, seed, data), by its name on the command
    line. steps, validate_every and save_every may change when it goes on.
    """

    steps: int = 3000
    lr: float = 2e-3
    weight_decay: float = 1e-4
    ema: float = 0.997
    validate_every: int = 200
    save_every: int = 50
    command: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


class Trainer:
    """Trains the network of a task in a folder, see `RunFolder`.

    A run that goes on from a save equals one that was not interrupted, bit for bit on the CPU of
    one machine in one process. With several processes each computes its share of every batch, and
    only the first one validates, logs and saves; the others need no folder.
    """

    def __init__(
        self, config: TrainConfig, task: Task, folder: Path, processes: Processes | None = None
    ) -> None:
        self.config, self.task, self.folder = config, task, RunFolder(folder)
        self.processes = processes or Processes()
        self.device = self.processes.device
        torch.backends.cudnn.benchmark = True  # boxes have one size
        self.network = task.network.to(self.device)
        self.averaged = torch.optim.swa_utils.AveragedModel(
            self.network, multi_avg_fn=partial(_average, decay=config.ema)
        )
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.step, self.validated = 0, 0  # the last step that was trained, and validated
        self.seconds, self.best_iou = 0.0, -1.0
        self.skipped, self._bad_in_a_row = 0, 0  # steps without a finite loss and gradient
        self.losses: list[float] = []  # since the last validation
        self._settings = {
            "lr": config.lr, "weight_decay": config.weight_decay, "ema": config.ema,
            **config.settings, **task.about,
        }  # fmt: skip
        state = self.processes.from_first(lambda: self.folder.read_state(self._settings))
        if state is not None:
            self._resume(state)
        self.processes.as_first(self.network.state_dict().values())
        if self.processes.first:
            self.folder.trim_log(self.validated)

    @property
    def averaged_network(self) -> Any:
        """The exponential moving average of the weights, a network as the task's."""
        return self.averaged.module

    @property
    def finished(self) -> bool:
        """Whether all steps are trained and the last one validated."""
        return self.step >= self.config.steps and self.validated == self.step

    def run(self, stop: Callable[[], bool] = lambda: False) -> Path:
        """Train to the end, or until `stop`, which is asked after each step; saves at both.

        Returns the place of the best network, where it is after the first validation. Raises
        ValueError when too many steps in a row have no finite loss and gradient.
        """
        config = self.config
        started = time.monotonic() - self.seconds
        bar = tqdm(
            total=config.steps, initial=self.step, unit="step", mininterval=5,
            disable=not self.processes.first,
        )  # fmt: skip
        numbers = range(self.step, config.steps)
        share = Shares(self.task, self.processes.rank, self.processes.count)
        with closing(read_ahead(share, numbers, self.device)) as data, bar:
            while True:
                if self._due():
                    self._validate()
                if self.step >= config.steps:
                    break
                self._train(next(data))
                self.seconds = time.monotonic() - started
                bar.update()
                bar.set_postfix(self._progress())
                stopped = self.processes.anywhere(stop())
                if stopped or self._due() or self.step % config.save_every == 0:
                    self._save()
                if stopped:
                    break
        return self.folder.best

    def _due(self) -> bool:
        """Whether it is time to validate."""
        last = self.step >= self.config.steps
        return (last or self.step % self.config.validate_every == 0) and self.validated != self.step

    def _progress(self) -> dict[str, str]:
        progress = {"loss": f"{_mean(self.losses[-50:]):.4f}"}
        if self.validated:
            progress["iou"] = f"{self.best_iou:.4f}"
        if self.skipped:
            progress["skipped"] = str(self.skipped)
        return progress

    def _train(self, batch: Any) -> None:
        """One step; without effect on the weights when its loss or gradient is not finite."""
        for group in self.optimizer.param_groups:
            group["lr"] = _cosine(self.step, self.config.steps, self.config.lr)
        self.network.train()
        loss, logits, _ = self.task.loss(self.network, batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        mean = self.processes.average(self.network, loss.detach(), logits.numel()).item()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0).item()
        self.step += 1
        if math.isfinite(mean) and math.isfinite(norm):
            self.optimizer.step()
            self.averaged.update_parameters(self.network)
            self.losses.append(mean)
            self._bad_in_a_row = 0
            return
        self.skipped += 1
        self._bad_in_a_row += 1
        if self._bad_in_a_row >= _BAD_STEPS:
            raise ValueError(
                f"training: no finite loss and gradient in {_BAD_STEPS} steps in a row, up to step "
                f"{self.step}; start a new run in another folder with a lower --lr "
                f"(now {self.config.lr:g}), and look at the data if that does not help"
            )

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
        # Whole ones, behind any curriculum, always the same.
        numbers = range(self.config.steps, self.config.steps + _STATISTICS_BATCHES)
        for batch in read_ahead(Shares(self.task), numbers, self.device):
            self.task.loss(network, batch)
        network.eval()

    def _validate(self) -> None:
        if self.processes.first:
            self.settle_statistics()
            scores = validated(self.task, self.averaged_network, self.device)
            self.folder.add_to_log(
                step=self.step, loss=_mean(self.losses), lr=self.optimizer.param_groups[0]["lr"],
                val_loss=scores["val_loss"], val_iou=scores["val_iou"], minutes=self.seconds / 60,
            )  # fmt: skip
            if scores["val_iou"] > self.best_iou:
                self.best_iou = scores["val_iou"]
                self._write_best(scores)
        self.validated = self.step
        self.losses.clear()
        if self.processes.first:
            self._save()
        # The others wait here. Each has statistics of its own shares until now.
        self.processes.as_first([*self.network.buffers(), *self.averaged.buffers()])

    def _write_best(self, scores: dict[str, float]) -> None:
        about = {
            "step": self.step,
            **scores,
            "minutes": self.seconds / 60,
            "skipped_steps": self.skipped,
            **self.task.about,
            "lr": self.config.lr,
            "steps": self.config.steps,
            "command": self.config.command,
        }
        zoo.save(self.folder.best, self.averaged_network, about)

    # ---- interruption -----------------------------------------------------------------------

    def _save(self) -> None:
        if not self.processes.first:
            return
        state = {
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": [self.step, self.validated, self.seconds, self.best_iou],
            "skipped": [self.skipped, self._bad_in_a_row],
            "losses": self.losses,
            "random": _random_state(self.device),
        }
        self.folder.write_state(state, self._settings)

    def _resume(self, state: dict[str, Any]) -> None:
        try:
            self.network.load_state_dict(state["network"])
            self.averaged.load_state_dict(state["averaged"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.validated, self.seconds, self.best_iou = state["progress"]
            self.skipped, self._bad_in_a_row = state["skipped"]
            self.losses = list(state["losses"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(
                f"{self.folder.last}: expected the state of this network, got another ({reason}); "
                "choose another folder"
            ) from error
        _set_random_state(state["random"], self.device)


@torch.inference_mode()
def validated(task: Task, network: Any, device: torch.device) -> dict[str, float]:
    """Scores of a network on the device over a task's validation batches, of whatever sizes.

    val_loss and val_iou as it stands, the parameters of the calibration, and the expected
    calibration error with them.
    """
    network.eval()
    logits, truth, steps = [], [], []  # of each batch, on the CPU
    for batch in task.validation:
        _, logit, solid = task.loss(network, moved(batch, device))
        logits.append(logit.float().cpu())
        truth.append(solid.cpu())
        steps.append(task.steps(batch))
    said, true, away = torch.cat(logits), torch.cat(truth), torch.cat(steps)
    del logits, truth, steps
    calibration = fitted(said, away, true)
    sums = reliability(calibration(said, away).sigmoid().numpy(), true.numpy())
    solid = said > 0
    return {
        "val_loss": binary_cross_entropy_with_logits(said, true.float()).item(),
        "val_iou": int((solid & true).sum()) / max(1, int((solid | true).sum())),
        **asdict(calibration),
        "calibration_error": float(calibration_error(sums)),
    }


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


def _mean(losses: list[float]) -> float:
    return float(np.mean(losses)) if losses else math.nan


def _random_state(device: torch.device) -> list[Tensor]:
    """Of the processor, and of the GPU where one is used."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(states: list[Tensor], device: torch.device) -> None:
    torch.set_rng_state(states[0])
    if device.type == "cuda" and len(states) > 1:
        torch.cuda.set_rng_state(states[1], device)
