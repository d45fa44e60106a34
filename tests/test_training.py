"""Samples of simulated rooms, and a trainer that learns and survives interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from convonet_ros.datasets.generated import ShapeKind, write_shapes
from convonet_ros.datasets.rooms import make_room
from convonet_ros.datasets.samples import read_room, samples_of_room, symmetric, write_rooms
from convonet_ros.geometry import Lattice
from convonet_ros.model import zoo
from convonet_ros.model.crops import CropNetwork, CropSpec
from convonet_ros.model.network import OccupancyNetwork
from convonet_ros.training.calibrate import calibration_error, fit_temperature
from convonet_ros.training.tasks import RoomCrops, ShapeFolder, Task
from convonet_ros.training.trainer import TrainConfig, Trainer

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
    stored = read_room(data[0] / "room-000000.npz", LATTICE)
    assert len(made) == len(stored) > 4
    for a, b in zip(made, stored, strict=True):
        assert torch.equal(a.box.points, b.box.points)
        assert torch.allclose(a.box.directions, b.box.directions, atol=1e-6)
        assert torch.equal(a.box.free, b.box.free)
        assert torch.equal(a.occupied, b.occupied)
        assert torch.allclose(a.queries, b.queries, atol=0.02)


def test_free_space_and_points_agree_with_the_truth() -> None:
    """Observed free voxels are free in the true room, but for those a noisy surface cuts."""
    for sample in samples_of_room(1, LATTICE):
        voxel = sample.queries.floor().long()
        free = sample.box.free[tuple(voxel.T)]
        if free.sum() > 50:
            assert sample.occupied[free].float().mean() < 0.08


def test_symmetries_move_everything_together() -> None:
    sample = samples_of_room(2, LATTICE)[0]
    n = LATTICE.box_voxels
    free_at = {tuple(p) for p in sample.box.free.nonzero().tolist()}
    seen = set()
    for seed in range(40):
        turned = symmetric(sample, np.random.default_rng(seed))
        assert turned.box.free.sum() == len(free_at)
        assert torch.equal(turned.queries[:, 2], sample.queries[:, 2])
        centred = (turned.queries - n / 2).norm(dim=1)
        assert torch.allclose(centred, (sample.queries - n / 2).norm(dim=1), atol=1e-4)
        # distance of a point to a query and its direction keep their angle
        a = ((turned.queries[0] - turned.box.points[0]) * turned.box.directions[0]).sum()
        b = ((sample.queries[0] - sample.box.points[0]) * sample.box.directions[0]).sum()
        assert torch.isclose(a, b, atol=1e-3)
        inside = turned.box.free[tuple(turned.box.points.floor().long().T)]
        assert not inside.any()  # a voxel with points is never free
        seen.add(tuple(turned.queries[0].tolist()))
    assert len(seen) == 8


def test_truth_is_the_rooms_occupancy() -> None:
    """Queries of a crop, taken back to the map, have the room's own occupancy."""
    room = make_room(3)
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


def crops(data: tuple[Path, Path], batch: int) -> RoomCrops:
    torch.manual_seed(0)
    return RoomCrops(*map(str, data), SPEC, batch, seed=0)


def test_some_steps_lower_the_loss_and_lift_the_iou(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    config = TrainConfig(steps=60, lr=5e-3, ema=0.9, validate_every=30, command="convonet train")
    trainer = Trainer(config, crops(data, 4), tmp_path)
    before = trainer.validate()
    best = trainer.run()
    after = trainer.validate()
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
    Trainer(whole, make_task(), folder / "halves").run(stop_at=4)
    second = Trainer(whole, make_task(), folder / "halves")
    assert second.step == 4
    second.run()
    a, b = straight.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_resumed_training_equals_uninterrupted(data: tuple[Path, Path], tmp_path: Path) -> None:
    resumed_equals_uninterrupted(lambda: crops(data, 2), tmp_path)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="convonet rooms"):
        RoomCrops(str(tmp_path), str(tmp_path), SPEC, 1, 0)
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
    before = trainer.validate()
    trainer.run()
    after = trainer.validate()
    assert after["val_loss"] < 0.8 * before["val_loss"]


def test_resumed_training_of_shapes(shapes: Path, tmp_path: Path) -> None:
    def task() -> ShapeFolder:
        torch.manual_seed(0)
        return ShapeFolder(str(shapes / "rooms"), small("room_grid32"), 2, 0)

    resumed_equals_uninterrupted(task, tmp_path)


def test_temperature_is_found_and_calibrates() -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(200_000, generator=generator) * 3
    truth = torch.rand(200_000, generator=generator) < torch.sigmoid(honest)
    bold = honest * 2.5
    assert fit_temperature(bold, truth) == pytest.approx(2.5, rel=0.03)
    assert calibration_error(torch.sigmoid(honest), truth) < 0.005
    assert calibration_error(torch.sigmoid(bold), truth) > 0.05
