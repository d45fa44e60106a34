"""The crop network and its checkpoints."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from convonet_ros.model import zoo
from convonet_ros.model.crops import CropNetwork, CropSpec, UnitBoxes
from convonet_ros.model.decoder import sample_nearest, sample_trilinear
from convonet_ros.model.encoder import scatter_mean
from convonet_ros.model.features import BoxContent, batch_boxes

SPEC = CropSpec(
    crop_voxels=8, halo_voxels=4, point_features=8, voxel_features=8, hidden=8, maps=4, levels=3
)


def random_box(seed: int, points: int = 200) -> BoxContent:
    generator = torch.Generator().manual_seed(seed)
    n = 16
    return BoxContent(
        torch.rand(points, 3, generator=generator) * n,
        torch.nn.functional.normalize(torch.randn(points, 3, generator=generator), dim=1),
        torch.rand(points, generator=generator),
        torch.randint(-2, 3, (2 * n,) * 3, generator=generator, dtype=torch.int8),
    )


@pytest.fixture
def network() -> CropNetwork:
    torch.manual_seed(0)
    network = CropNetwork(SPEC)
    for module in network.modules():  # statistics as after training
        if isinstance(module, torch.nn.BatchNorm3d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def test_scatter_mean_is_the_mean_per_cell() -> None:
    rng = np.random.default_rng(0)
    features, cell = rng.normal(size=(50, 3)).astype(np.float32), rng.integers(0, 7, 50)
    cell[cell == 3] = 2
    result = scatter_mean(torch.from_numpy(features), torch.from_numpy(cell), 7).numpy()
    for k in range(7):
        expected = features[cell == k].mean(axis=0) if k != 3 else np.zeros(3)
        assert np.allclose(result[k], expected, atol=1e-6)


def test_trilinear_sampling_equals_torch_grid_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    grid = torch.randn(5, 9, 9, 9, generator=generator)
    points = torch.rand(300, 3, generator=generator) * 11 - 1  # some outside: constant there
    scaled = (points - 0.5) / 8 * 2 - 1
    expected = torch.nn.functional.grid_sample(
        grid[None], scaled.flip(1)[None, :, None, None], align_corners=True, padding_mode="border"
    )[0, :, :, 0, 0].T
    assert torch.allclose(sample_trilinear(grid, points), expected, atol=1e-5)


def test_a_point_takes_the_feature_of_its_voxel_or_a_mean_of_those_around(
    network: CropNetwork,
) -> None:
    nearest = CropNetwork(replace(SPEC, interpolation="nearest")).eval()
    nearest.load_state_dict(network.state_dict())
    grid = torch.randn(SPEC.voxel_features, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    voxels = torch.tensor([[0, 1, 2], [3, 3, 3]])
    with torch.inference_mode():
        middle = nearest.decode_centres(grid, voxels)
        for one in (network, nearest):
            torch.testing.assert_close(one.decode(grid, voxels + 0.5), middle)
        assert (nearest.decode(grid, voxels + 0.9) - network.decode(grid, voxels + 0.9))[0] != 0
    points = voxels + torch.tensor([[0.1, 0.9, 0.3], [0.2, 7.0, 0.9]])  # one beyond the grid
    assert torch.equal(sample_nearest(grid, points), grid[:, [0, 3], [1, 3], [2, 3]].T)
    with pytest.raises(ValueError, match="interpolation: expected trilinear or nearest, got 'x'"):
        CropSpec(interpolation="x")


def test_a_box_gives_the_same_in_any_batch(network: CropNetwork) -> None:
    boxes = [random_box(seed, points) for seed, points in ((1, 200), (2, 50), (3, 400))]
    with torch.inference_mode():
        together = network.encode(batch_boxes(boxes))
        for i, box in enumerate(boxes):
            alone = network.encode(batch_boxes([box]))[0]
            assert torch.allclose(together[i], alone, atol=1e-5)


def test_order_of_the_points_does_not_matter(network: CropNetwork) -> None:
    box = random_box(1)
    order = torch.randperm(len(box.points), generator=torch.Generator().manual_seed(0))
    shuffled = BoxContent(
        box.points[order], box.directions[order], box.weights[order], box.visibility
    )
    with torch.inference_mode():
        a, b = (network.encode(batch_boxes([x])) for x in (box, shuffled))
    assert torch.allclose(a, b, atol=1e-5)


def test_networks_of_the_unit_cube_may_be_asked_nothing() -> None:
    unit = zoo.build("onet_room").eval()
    unit.config["map"] = {"voxel_m": 0.05, "crop_voxels": 8, "halo_voxels": 4}
    boxes = UnitBoxes(unit)
    with torch.inference_mode():
        (features,) = boxes.encode_boxes([random_box(1)])
        assert boxes.decode(features, torch.zeros(3, 3)).shape == (3,)
        assert boxes.decode(features, torch.zeros(0, 3)).shape == (0,)


def test_folding_changes_nothing(network: CropNetwork) -> None:
    batch = batch_boxes([random_box(1)])
    with torch.inference_mode():
        before = network.encode(batch)
        network.unet.fold()
        after = network.encode(batch)
    assert not any(isinstance(m, torch.nn.BatchNorm3d) for m in network.modules())
    assert torch.allclose(before, after, atol=1e-4 * before.abs().max())


def test_gradients_reach_every_parameter(network: CropNetwork) -> None:
    box = random_box(1)
    torch.manual_seed(0)
    for module in network.modules():  # the last layers of the blocks start at zero
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.3)
    grid = network.train().encode(batch_boxes([box]))[0]
    network.decode(grid, box.points + 0.1).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in network.parameters())


def test_checkpoint_round_trip(network: CropNetwork, tmp_path: Path) -> None:
    zoo.save(tmp_path / "a.pt", network, {"step": 3})
    loaded, about = zoo.load(tmp_path / "a.pt")
    assert about == {"step": 3}
    assert loaded.spec == network.spec
    assert not loaded.training
    state = loaded.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())


class _Evil:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_bad_checkpoints_give_one_sentence_and_run_nothing(
    network: CropNetwork, tmp_path: Path
) -> None:
    good = tmp_path / "good.pt"
    zoo.save(good, network, {})
    (tmp_path / "truncated.pt").write_bytes(good.read_bytes()[:3000])
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"model": {}}, tmp_path / "foreign.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save(_Evil(tmp_path / "ran"), tmp_path / "evil.pt")
    content = torch.load(good, weights_only=True)
    torch.save({**content, "spec": {**content["spec"], "maps": 8}}, tmp_path / "mismatch.pt")
    for name in ("missing", "truncated", "text", "empty", "foreign", "list", "evil", "mismatch"):
        with pytest.raises(ValueError, match=rf"weights .*{name}\.pt: [^\n]+$"):
            zoo.load(tmp_path / f"{name}.pt")
    assert not (tmp_path / "ran").exists()


def test_the_shipped_weights_say_where_they_come_from() -> None:
    network, about = zoo.load()
    assert zoo.SHIPPED.stat().st_size < 8_000_000
    assert {"step", "val_iou", "minutes", "rooms", "samples", "command"} <= about.keys()
    assert {"temperature", "shift_near", "shift_far", "calibration_error"} <= about.keys()
    assert network.spec.box_voxels % 2 ** (network.spec.levels - 1) == 0
