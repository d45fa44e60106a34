"""Samples of simulated rooms, and a trainer that learns and survives interruption."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml

from convonet_ros.cli import main
from convonet_ros.datasets.generated import ShapeKind, write_shapes
from convonet_ros.datasets.samples import (
    read_sample,
    samples_of_room,
    symmetric,
    views_of_samples,
    write_rooms,
)
from convonet_ros.datasets.world.scenes import make_scene
from convonet_ros.geometry import Lattice
from convonet_ros.model import zoo
from convonet_ros.model.crops import CropNetwork, CropSpec
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.storage import write_arrays
from convonet_ros.training.tasks import RoomCrops, ShapeFolder, Task
from convonet_ros.training.trainer import TrainConfig, Trainer, validated

SPEC = CropSpec(
    crop_voxels=16, halo_voxels=4, point_features=16, voxel_features=16, hidden=16, maps=8, levels=3
)
LATTICE = Lattice(SPEC.voxel_m, SPEC.crop_voxels, SPEC.halo_voxels)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("rooms")
    for name, seeds in (("train", range(4)), ("val", range(100, 102))):
        assert len(list(write_rooms(root / name, seeds, LATTICE, workers=2))) == len(seeds)
    return root / "train", root / "val"


def test_samples_are_deterministic_and_survive_the_disk(data: tuple[Path, Path]) -> None:
    made = samples_of_room(0, LATTICE)
    file = data[0] / "room-000000.npz"
    stored = [read_sample(file, i, LATTICE) for i in range(len(views_of_samples(file)))]
    assert len(made) == len(stored) > 4
    for a, b in zip(made, stored, strict=True):
        assert torch.equal(a.box.points, b.box.points)
        assert torch.allclose(a.box.directions, b.box.directions, atol=1e-6)
        assert torch.equal(a.box.visibility, b.box.visibility)
        assert torch.allclose(a.box.weights, b.box.weights, atol=0.01)
        assert a.views == b.views
        assert torch.equal(a.occupied, b.occupied)
        assert torch.allclose(a.queries, b.queries, atol=0.02)
    with pytest.raises(ValueError, match=r"made for voxels of 0\.05 m, crops of 16 and"):
        read_sample(file, 0, Lattice())


def test_damaged_samples_are_one_sentence(data: tuple[Path, Path], tmp_path: Path) -> None:
    whole = (data[0] / "room-000000.npz").read_bytes()
    broken = tmp_path / "room-000000.npz"
    for content in (whole[:3000], whole[:3000] + bytes(300) + whole[3300:]):
        broken.write_bytes(content)
        with pytest.raises(ValueError, match=r"room-000000\.npz: expected samples of [^\n]+$"):
            [read_sample(broken, i, LATTICE) for i in range(len(views_of_samples(broken)))]
    empty = {"views": np.zeros(0, np.uint8), "lattice": np.zeros(3)}
    write_arrays(broken, **empty)
    with pytest.raises(ValueError, match="hold no samples"):
        RoomCrops(str(tmp_path), str(data[1]), CropNetwork(SPEC), 2, seed=0, easy_steps=0)
    voxels = zoo.build("voxel_shapenet_3plane")
    with pytest.raises(ValueError, match="one that takes voxels"):
        RoomCrops(*map(str, data), voxels, 2, seed=0, easy_steps=0)


def test_the_curriculum_ends(data: tuple[Path, Path]) -> None:
    task = crops(data, 2)
    task.views[0] = 16
    assert [task.fewest_views(step) for step in (0, 6, 11, 12, 99)] == [10, 5, 1, 1, 1]
    task.easy_steps = 0
    assert task.fewest_views(0) == 1


def test_free_space_and_points_agree_with_the_truth() -> None:
    """Observed free sub-voxels are free in the true room, but for those a noisy surface cuts."""
    truth = []
    for sample in samples_of_room(1, LATTICE):
        cell = (LATTICE.SUB * sample.queries).floor().long()
        free = sample.box.visibility[tuple(cell.T)] < 0
        truth.append(sample.occupied[free])
    assert len(torch.cat(truth)) > 5000
    assert torch.cat(truth).float().mean() < 0.05


def test_symmetries_move_everything_together() -> None:
    sample = samples_of_room(2, LATTICE)[0]
    n = LATTICE.box_voxels
    free = int((sample.box.visibility < 0).sum())
    seen = set()
    for seed in range(40):
        turned = symmetric(sample, np.random.default_rng(seed))
        assert (turned.box.visibility < 0).sum() == free
        assert torch.equal(turned.queries[:, 2], sample.queries[:, 2])
        centred = (turned.queries - n / 2).norm(dim=1)
        assert torch.allclose(centred, (sample.queries - n / 2).norm(dim=1), atol=1e-4)
        # distance of a point to a query and its direction keep their angle
        a = ((turned.queries[0] - turned.box.points[0]) * turned.box.directions[0]).sum()
        b = ((sample.queries[0] - sample.box.points[0]) * sample.box.directions[0]).sum()
        assert torch.isclose(a, b, atol=1e-3)
        cell = (LATTICE.SUB * turned.box.points).floor().long()
        assert (turned.box.visibility[tuple(cell.T)] > 0).all()  # one with points is never free
        seen.add(tuple(turned.queries[0].tolist()))
    assert len(seen) == 8


def test_truth_is_the_rooms_occupancy() -> None:
    """Queries of a crop, taken back to the map, have the room's own occupancy."""
    room = make_scene(3)
    for sample in samples_of_room(3, LATTICE)[:3]:
        # The crop's place is not stored: find it among the window's crops by its labels.
        agreement = max(
            float(
                (
                    room.occupied(
                        np.array([x, y, z]) * LATTICE.crop_m
                        + (sample.queries.numpy() - LATTICE.halo_voxels) * LATTICE.voxel_m
                    )
                    == sample.occupied.numpy()
                ).mean()
            )
            for x in range(-3, 4)
            for y in range(-3, 4)
            for z in range(-2, 4)
        )
        assert agreement == 1.0


@pytest.mark.parametrize("world", [2, 3])
def test_shares_make_up_the_batch(world: int, data: tuple[Path, Path], shapes: Path) -> None:
    rooms = crops(data, 4)
    folder = ShapeFolder(str(shapes / "rooms"), small("room_grid32"), 4, 0)
    for number in (0, 7):
        whole, *shares = (
            [rooms.batch(number).queries, folder.batch(number)[1]],
            *(
                [rooms.batch(number, r, world).queries, folder.batch(number, r, world)[1]]
                for r in range(world)
            ),
        )
        for k in range(2):
            for rank, share in enumerate(shares):
                assert torch.equal(share[k], whole[k][rank::world])


def crops(data: tuple[Path, Path], batch: int) -> RoomCrops:
    torch.manual_seed(0)
    return RoomCrops(*map(str, data), CropNetwork(SPEC), batch, seed=0, easy_steps=12)


def test_some_steps_lower_the_loss_and_lift_the_iou(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    config = TrainConfig(steps=60, lr=5e-3, ema=0.9, validate_every=30, command="convonet train")
    trainer = Trainer(config, crops(data, 4), tmp_path)
    before = validated(trainer.task, trainer.averaged_network, trainer.device)
    best = trainer.run()
    after = validated(trainer.task, trainer.averaged_network, trainer.device)
    assert after["val_loss"] < 0.75 * before["val_loss"]
    assert after["val_iou"] > before["val_iou"] + 0.1
    assert after["calibration_error"] < 0.1
    network, about = zoo.load(best)
    assert isinstance(network, CropNetwork)
    assert network.spec == SPEC
    assert about["val_iou"] == pytest.approx(trainer.best_iou)
    assert about["command"] == "convonet train"
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


def resumed_equals_uninterrupted(make_task: Callable[[], Task], folder: Path) -> None:
    whole = TrainConfig(steps=8, validate_every=4)
    straight = Trainer(whole, make_task(), folder / "straight")
    straight.run()
    first = Trainer(whole, make_task(), folder / "halves")
    first.run(stop=lambda: first.step == 3)
    second = Trainer(whole, make_task(), folder / "halves")
    assert second.step == 3
    second.run()
    for name in ("network", "averaged"):
        a, b = (getattr(run, name).state_dict() for run in (straight, second))
        assert all(torch.equal(a[k], b[k]) for k in a)


def test_resumed_training_equals_uninterrupted(data: tuple[Path, Path], tmp_path: Path) -> None:
    resumed_equals_uninterrupted(lambda: crops(data, 2), tmp_path)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="convonet rooms"):
        RoomCrops(str(tmp_path), str(tmp_path), CropNetwork(SPEC), 1, 0, 1)
    with pytest.raises(ValueError, match="train"):
        ShapeFolder(str(tmp_path), small("room_3plane"), 1, 0)


# ---- the published family ----------------------------------------------------------------------


def small(name: str) -> dict[str, Any]:
    """A variant of the table, small enough to be trained in a test."""
    config = zoo.variant(name)
    model, data = config["model"], config["data"]
    data |= {"pointcloud_n": 600, "points_subsample": 256}
    kwargs = model["encoder_kwargs"]
    if "plane_resolution" in kwargs:
        kwargs |= {"plane_resolution": 32}
        kwargs["unet_kwargs"] |= {"depth": 2, "start_filts": 8}
    if "unet3d_kwargs" in kwargs:
        kwargs["unet3d_kwargs"] |= {"num_levels": 2, "f_maps": 8}
    if "grid_resolution" in kwargs:
        kwargs |= {"grid_resolution": 16}
    if "unit_size" in data:
        data |= {"unit_size": 0.05, "query_vol_size": 12}
    if config["method"] == "onet" and model["encoder"] == "pointnet_resnet":
        kwargs |= {"hidden_dim": 32}
    if config["method"] == "onet":
        model |= {"c_dim": 32, "decoder_kwargs": {"hidden_size": 32}}
    return config


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    for kind in get_args(ShapeKind):
        for split, seeds in (("train", range(4)), ("val", range(100, 102))):
            list(write_shapes(root / kind, kind, seeds, split, workers=1))
    return root


@pytest.mark.parametrize("name", zoo.VARIANTS)
def test_every_variant_trains(name: str, shapes: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = shapes / ("rooms" if "room" in name else "objects")
    task = ShapeFolder(str(folder), small(name), 2, 0)
    # Layers that start at zero hold back what lies behind them for a step each.
    trainer = Trainer(TrainConfig(steps=4, validate_every=4), task, tmp_path)
    before = {k: v.clone() for k, v in task.network.state_dict().items()}
    network, about = zoo.load(trainer.run())
    assert isinstance(network, OccupancyNetwork)
    assert about["step"] == 4
    after = task.network.state_dict()
    still = [k for k, _ in task.network.named_parameters() if torch.equal(before[k], after[k])]
    assert not still


def test_a_plane_network_learns(shapes: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    task = ShapeFolder(str(shapes / "objects"), small("shapenet_3plane"), 4, 0)
    trainer = Trainer(TrainConfig(steps=60, lr=5e-3, ema=0.9, validate_every=60), task, tmp_path)
    before = validated(trainer.task, trainer.averaged_network, trainer.device)
    trainer.run()
    after = validated(trainer.task, trainer.averaged_network, trainer.device)
    assert after["val_loss"] < 0.8 * before["val_loss"]


def test_resumed_training_of_shapes(shapes: Path, tmp_path: Path) -> None:
    def task() -> ShapeFolder:
        torch.manual_seed(0)
        return ShapeFolder(str(shapes / "rooms"), small("room_grid32"), 2, 0)

    resumed_equals_uninterrupted(task, tmp_path)


def test_the_command_is_interrupted_and_goes_on(
    shapes: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small("shapenet_grid32")))
    command = ["train", "--model", str(tmp_path / "small.yaml"), "--data", str(shapes / "objects")]
    command += ["-o", str(tmp_path / "run"), "--batch", "2"]
    steps, update = [], Trainer._train

    def signalled(trainer: Trainer, batch: Any) -> None:
        update(trainer, batch)
        steps.append(trainer.step)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Trainer, "_train", signalled)
    assert main([*command, "--steps", "3"]) == 130
    assert "saved at step 2 of 3" in capsys.readouterr().err
    assert main([*command, "--steps", "3", "--lr", "0.1"]) == 1
    assert "started with lr 0.002 (now 0.1)" in capsys.readouterr().err
    assert main([*command, "--steps", "3", "--init", "/looked/at/only/at/first"]) == 0
    assert "going on from step 2" in capsys.readouterr().err
    assert steps == [1, 2, 3]
    best = tmp_path / "run" / "best.pt"
    command[command.index("-o") + 1] = str(tmp_path / "tuned")
    assert main([*command, "--steps", "1", "--lr", "1e-12", "--init", str(best)]) == 0
    start, tuned = (zoo.load(path)[0] for path in (best, tmp_path / "tuned" / "best.pt"))
    for (name, a), b in zip(start.named_parameters(), tuned.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6), name
    assert main([*command[:-2], "--init", "/nowhere.pt", "-o", str(tmp_path / "new")]) == 1
    assert "/nowhere.pt: no such file" in capsys.readouterr().err
