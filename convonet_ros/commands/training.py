"""What the commands that make data and train do; `cli` has their arguments."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from convonet_ros.commands.arguments import CROP, crop_spec, model_config, writable

if TYPE_CHECKING:
    from convonet_ros.training.distributed import Processes
    from convonet_ros.training.trainer import Trainer

SPLITS = {"train": 600, "val": 48, "test": 40}  # shapes by default
_SEEDS_PER_SPLIT = 1_000_000
_VALIDATIONS, _SAVES = 20, 100  # of a long training


def run_rooms(parsed: argparse.Namespace) -> None:
    writable(parsed.out)
    from tqdm import tqdm

    from convonet_ros.datasets.samples import write_rooms
    from convonet_ros.datasets.world.scenes import make_scene
    from convonet_ros.geometry import Lattice
    from convonet_ros.model.crops import CropSpec
    from convonet_ros.offline.pictures import picture_of_room

    spec = CropSpec()
    lattice = Lattice(spec.voxel_m, spec.crop_voxels, spec.halo_voxels)
    seeds = range(parsed.seed, parsed.seed + parsed.rooms)
    written = write_rooms(parsed.out, seeds, lattice, parsed.workers)
    for _ in tqdm(written, total=len(seeds), unit="room"):
        pass
    picture = parsed.out / "room.png"
    picture_of_room(picture, make_scene(parsed.seed))
    print(f"{len(seeds)} rooms in {parsed.out}; the first one: {picture}")


def run_shapes(parsed: argparse.Namespace) -> None:
    writable(parsed.out)
    _make_shapes(parsed.out, parsed.kind, {s: getattr(parsed, s) for s in SPLITS}, parsed.workers)


def _make_shapes(folder: Path, kind: str, counts: dict[str, int], workers: int = 2) -> None:
    from tqdm import tqdm

    from convonet_ros.datasets.generated import write_shapes

    # Every split has seeds of its own.
    for first, (split, count) in enumerate(counts.items()):
        seeds = range(first * _SEEDS_PER_SPLIT, first * _SEEDS_PER_SPLIT + count)
        written = write_shapes(folder, kind, seeds, split, workers)  # type: ignore[arg-type]
        for _ in tqdm(written, total=count, unit="shape", desc=f"{split} {kind}", leave=False):
            pass
    print(f"{', '.join(f'{n} {split}' for split, n in counts.items())} {kind} in {folder}")


def run_train(parsed: argparse.Namespace) -> None:
    from convonet_ros.training.distributed import torchrun_processes
    from convonet_ros.training.interruption import wish_to_stop

    with torchrun_processes() as processes:
        trainer = _trainer(parsed, processes)
        if processes.first and trainer.step:
            print(f"convonet train: going on from step {trainer.step}", file=sys.stderr)
        with wish_to_stop() as stop:
            best = trainer.run(stop)
    if not trainer.finished:
        raise KeyboardInterrupt(
            f"saved at step {trainer.step} of {trainer.config.steps} in {parsed.out}; "
            "the same command goes on"
        )
    if processes.first:
        print(f"validation IoU {trainer.best_iou:.4f}: {best}")


def _trainer(parsed: argparse.Namespace, processes: Processes) -> Trainer:
    """What the arguments of `train` describe, ready to run or to go on."""
    import torch

    from convonet_ros.model import zoo
    from convonet_ros.model.crops import CropNetwork
    from convonet_ros.training.fine_tuning import start_from
    from convonet_ros.training.tasks import EASY_SHARE, RoomCrops, ShapeFolder, Task
    from convonet_ros.training.trainer import TrainConfig, Trainer

    config = None if parsed.model == CROP else model_config(parsed)
    processes.from_first(lambda: writable(parsed.out))
    command = f"convonet train --model {parsed.model}"
    data = parsed.data
    if config is None and (data is None or parsed.validation is None):
        raise ValueError("--data, --validation: expected folders of 'convonet rooms', got none")
    if parsed.validation and data is None:
        raise ValueError("--data: expected a folder of 'convonet rooms' beside --validation")
    batch, seed = parsed.batch or 8, parsed.seed or 0
    if batch < processes.count:
        raise ValueError(
            f"--batch: expected a sample for each of {processes.count} processes, got {batch}"
        )
    if data is None:
        assert config is not None
        kind = "rooms" if config.get("data", {}).get("multi_files") else "objects"
        data = str(parsed.out / "data")
        counts = {"train": SPLITS["train"], "val": SPLITS["val"]}
        processes.from_first(lambda: _make_shapes(Path(data), kind, counts))
    else:
        command += f" --data {data}"
    if parsed.validation:
        command += f" --validation {parsed.validation}"
    for setting in parsed.set:
        command += f" --set {setting}"
    if parsed.init:
        command += f" --init {parsed.init}"
    given = {name: getattr(parsed, name) for name in ("steps", "lr")}
    given = {name: value for name, value in given.items() if value is not None}
    defaults = TrainConfig(**given)
    command += (
        f" -o {parsed.out} --steps {defaults.steps} --batch {batch} --lr {defaults.lr:g} "
        f"--seed {seed}"
    )
    settings = {"model": parsed.model, "set": list(parsed.set), "batch": batch, "seed": seed}
    for name in ("data", "validation"):
        folder = getattr(parsed, name)
        settings[name] = str(Path(folder).resolve()) if folder else None
    torch.manual_seed(seed)
    task: Task
    if config is None or parsed.validation:
        network = CropNetwork(crop_spec(parsed)) if config is None else zoo.from_upstream(config)
        easy_steps = 0 if parsed.init else round(EASY_SHARE * defaults.steps)
        settings["init"] = bool(parsed.init)  # for the curriculum
        task = RoomCrops(data, parsed.validation, network, batch, seed, easy_steps)
    else:
        task = ShapeFolder(data, config, batch, seed)

    def start() -> None:  # the others get these weights from the first process
        if parsed.init and not (parsed.out / "last.pt").exists():
            start_from(task.network, zoo.load(parsed.init, config)[0])

    processes.from_first(start)
    train_config = replace(
        defaults,
        command=command,
        settings=settings,
        validate_every=max(defaults.validate_every, defaults.steps // _VALIDATIONS),
        save_every=max(defaults.save_every, defaults.steps // _SAVES),
    )
    return Trainer(train_config, task, parsed.out, processes)


def run_calibrate(parsed: argparse.Namespace) -> None:
    import torch

    from convonet_ros.model import zoo
    from convonet_ros.model.calibration import Calibration
    from convonet_ros.model.network import OccupancyNetwork
    from convonet_ros.training.tasks import RoomCrops
    from convonet_ros.training.trainer import validated

    writable(parsed.out.parent)
    network, about = zoo.load(parsed.weights)
    if isinstance(network, OccupancyNetwork) and "map" not in network.config:
        raise ValueError(f"weights {parsed.weights}: expected a network that was trained on rooms")
    folder = str(parsed.validation)
    task = RoomCrops(folder, folder, network, batch=8, seed=0, easy_steps=0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = validated(task, network.to(device), device)
    names = (*asdict(Calibration()), "calibration_error")
    calibration = {name: found[name] for name in names}
    zoo.save(parsed.out, network, about | calibration | {"calibrated_on": task.about})
    told = ", ".join(f"{name} {value:.4f}" for name, value in calibration.items())
    print(f"{told}, of {task.about['samples']} samples: {parsed.out}")
