"""The training loop: resumable, seeded, and plain enough to be read in one go."""

from __future__ import annotations

import csv
import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from convonet_ros.datasets.samples import Sample, read_room, symmetric
from convonet_ros.geometry import Lattice
from convonet_ros.model import zoo
from convonet_ros.model.features import batch_boxes
from convonet_ros.model.network import CropNetwork, CropSpec
from convonet_ros.training.calibrate import calibration_error, fit_temperature

_LOG = ("step", "loss", "lr", "val_loss", "val_iou", "minutes")


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """What a training run depends on besides the network's spec."""

    data: str  # folder of `convonet rooms`, training rooms
    validation: str  # likewise, rooms of other seeds
    steps: int = 3000
    batch: int = 8
    lr: float = 2e-3
    weight_decay: float = 1e-4
    ema: float = 0.997
    validate_every: int = 200
    seed: int = 0


class Trainer:
    """Trains a crop network in `folder`, which holds the log, the curves and the checkpoints.

    `last.pt` has everything to go on after an interruption, `best.pt` is the averaged network
    with the best validation IoU, loadable by `zoo.load`.
    """

    def __init__(self, config: TrainConfig, spec: CropSpec, folder: Path) -> None:
        self.config, self.folder = config, folder
        folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(config.seed)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.network = CropNetwork(spec).to(self.device)
        average = torch.optim.swa_utils.get_ema_multi_avg_fn(config.ema)
        self.averaged = torch.optim.swa_utils.AveragedModel(self.network, multi_avg_fn=average)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
        self.lattice = Lattice(spec.voxel_m, spec.crop_voxels, spec.halo_voxels)
        self.rooms = sorted(Path(config.data).glob("room-*.npz"))
        held_out = sorted(Path(config.validation).glob("room-*.npz"))
        if not self.rooms or not held_out:
            raise ValueError(
                f"training data: expected room-*.npz in {config.data} and {config.validation}, "
                f"got {len(self.rooms)} and {len(held_out)}; make them with 'convonet rooms'"
            )
        self.validation = [s for path in held_out for s in read_room(path, self.lattice)]
        self.step, self.seconds, self.best_iou = 0, 0.0, 0.0
        if (folder / "last.pt").exists():
            self._resume(torch.load(folder / "last.pt", self.device, weights_only=True))

    @property
    def averaged_network(self) -> CropNetwork:
        """The exponential moving average of the weights."""
        assert isinstance(self.averaged.module, CropNetwork)
        return self.averaged.module

    # ---- data -------------------------------------------------------------------------------

    def batches(self, step: int) -> Iterator[list[Sample]]:
        """Batches from a step on; batch k is the same whether resumed or not.

        Rooms are taken in a shuffled order per epoch; `_POOL` rooms are mixed at a time so that
        a batch does not come from one room.
        """
        epoch, skip, ready = 0, step, 0
        while True:
            if epoch and not ready:
                raise ValueError(
                    f"training data: expected at least {self.config.batch} crops in "
                    f"{_POOL} rooms, got fewer; make more rooms or smaller batches"
                )
            rng = np.random.default_rng([self.config.seed, epoch])
            order = rng.permutation(len(self.rooms))
            for start in range(0, len(order), _POOL):
                rooms = order[start : start + _POOL]
                pool = [s for r in rooms for s in read_room(self.rooms[r], self.lattice)]
                picked = rng.permutation(len(pool))
                size = self.config.batch
                for k in range(0, len(pool) - size + 1, size):
                    ready += 1
                    if skip:
                        skip -= 1
                        continue
                    turns = np.random.default_rng([self.config.seed, epoch, start, k])
                    yield [symmetric(pool[i], turns) for i in picked[k : k + size]]
            epoch += 1

    # ---- one step ---------------------------------------------------------------------------

    def loss(self, network: CropNetwork, batch: list[Sample]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean cross-entropy, and (B Q,) logits and truth."""
        boxes = batch_boxes([s.box for s in batch])
        boxes = type(boxes)(*(getattr(boxes, k).to(self.device) for k in boxes.__slots__))
        with torch.autocast(self.device.type, torch.bfloat16):
            grid = network.encode(boxes)  # B C n n n
            logits = torch.cat(
                [network.decode(grid[i], s.queries.to(self.device)) for i, s in enumerate(batch)]
            ).float()
        truth = torch.cat([s.occupied for s in batch]).to(self.device)
        return binary_cross_entropy_with_logits(logits, truth.float()), logits, truth

    def run(self, stop_at: int | None = None) -> Path:
        """Train until config.steps (or stop early, to go on later); returns the best checkpoint."""
        config = self.config
        end = config.steps if stop_at is None else min(stop_at, config.steps)
        started = time.monotonic() - self.seconds
        losses: list[float] = []
        data = self.batches(self.step)
        with tqdm(total=end, initial=self.step, unit="step", mininterval=5) as bar:
            while self.step < end:
                lr = _cosine(self.step, config.steps, config.lr)
                for group in self.optimizer.param_groups:
                    group["lr"] = lr
                self.network.train()
                loss, _, _ = self.loss(self.network, next(data))
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
        norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        network.train()
        for batch in itertools.islice(self.batches(0), _STATISTICS_BATCHES):
            self.loss(network, batch)
        network.eval()

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Scores of the averaged network over the validation crops.

        val_loss and val_iou as the network stands, the temperature that calibrates it, and the
        expected calibration error with that temperature.
        """
        network = self.averaged_network.eval()
        size = self.config.batch
        results = [
            self.loss(network, self.validation[k : k + size])[1:]
            for k in range(0, len(self.validation), size)
        ]
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
                "rooms": len(self.rooms),
                "train": asdict(config),
                "command": (
                    f"convonet train --data {config.data} --validation {config.validation} "
                    f"-o {self.folder} --steps {config.steps} --batch {config.batch} "
                    f"--lr {config.lr:g} --seed {config.seed}"
                ),
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


_POOL = 12
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
