"""Samples of simulated rooms, and a trainer that learns and survives interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from convonet_ros.datasets.rooms import make_room
from convonet_ros.datasets.samples import read_room, samples_of_room, symmetric, write_rooms
from convonet_ros.geometry import Lattice
from convonet_ros.model import zoo
from convonet_ros.model.crops import CropSpec
from convonet_ros.training.calibrate import calibration_error, fit_temperature
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


def test_some_steps_lower_the_loss_and_lift_the_iou(
    data: tuple[Path, Path], tmp_path: Path
) -> None:
    config = TrainConfig(*map(str, data), steps=60, batch=4, lr=5e-3, ema=0.9, validate_every=30)
    trainer = Trainer(config, SPEC, tmp_path)
    before = trainer.validate()
    best = trainer.run()
    after = trainer.validate()
    assert after["val_loss"] < 0.75 * before["val_loss"]
    assert after["val_iou"] > before["val_iou"] + 0.1
    assert after["calibration_error"] < 0.1
    network, about = zoo.load(best)
    assert network.spec == SPEC
    assert about["val_iou"] == pytest.approx(trainer.best_iou)
    assert (tmp_path / "curves.png").stat().st_size > 1000
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


def test_resumed_training_equals_uninterrupted(data: tuple[Path, Path], tmp_path: Path) -> None:
    whole = TrainConfig(*map(str, data), steps=8, batch=2, validate_every=4)
    straight = Trainer(whole, SPEC, tmp_path / "straight")
    straight.run()
    Trainer(whole, SPEC, tmp_path / "halves").run(stop_at=4)
    second = Trainer(whole, SPEC, tmp_path / "halves")
    assert second.step == 4
    second.run()
    a, b = straight.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_missing_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="convonet rooms"):
        Trainer(TrainConfig(str(tmp_path), str(tmp_path)), SPEC, tmp_path / "run")


def test_temperature_is_found_and_calibrates() -> None:
    generator = torch.Generator().manual_seed(0)
    honest = torch.randn(200_000, generator=generator) * 3
    truth = torch.rand(200_000, generator=generator) < torch.sigmoid(honest)
    bold = honest * 2.5
    assert fit_temperature(bold, truth) == pytest.approx(2.5, rel=0.03)
    assert calibration_error(torch.sigmoid(honest), truth) < 0.005
    assert calibration_error(torch.sigmoid(bold), truth) > 0.05
