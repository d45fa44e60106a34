"""A training run that survives: interruption, other settings, bad steps, and several processes."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from convonet_ros.training.distributed import Processes, torchrun_processes
from convonet_ros.training.fine_tuning import start_from
from convonet_ros.training.interruption import wish_to_stop
from convonet_ros.training.trainer import TrainConfig, Trainer

CONFIG = TrainConfig(steps=8, lr=0.1, validate_every=4, save_every=3, settings={"batch": 4})


class Net(nn.Sequential):
    """Chance takes part in its training, and statistics."""

    def __init__(self, plain: bool = False, inputs: int = 3) -> None:
        mixed = [] if plain else [nn.BatchNorm1d(16), nn.Dropout(0.2)]
        super().__init__(nn.Linear(inputs, 16), *mixed, nn.ReLU(), nn.Linear(16, 1))
        self.config: dict[str, Any] = {}


class Halves:
    """Which half of a cube is solid; a sample has as many queries as its place in the batch."""

    def __init__(self, plain: bool = False, bad: frozenset[int] = frozenset()) -> None:
        torch.manual_seed(0)
        self.network: Any = Net(plain)
        self.bad = bad  # batches with a number that is none
        self.about = {"shapes": 1}
        self.validation = [self.batch(1000)[:3], self.batch(1001)]

    def batch(self, number: int, rank: int = 0, world: int = 1) -> list[Tensor]:
        chance = torch.Generator().manual_seed(number)
        batch = [torch.rand(10 * k, 3, generator=chance) - 0.5 for k in (1, 2, 3, 4)]
        if number in self.bad:
            batch[2][0] = torch.nan
        return batch[rank::world]

    def loss(self, network: nn.Module, batch: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        queries = torch.cat(batch)
        logits, truth = network(queries)[:, 0], queries[:, 0] > 0
        return binary_cross_entropy_with_logits(logits, truth.float()), logits, truth

    def steps(self, batch: list[Tensor]) -> Tensor:
        return torch.zeros(sum(map(len, batch)))


def trainer(folder: Path, task: Halves | None = None, **changes: Any) -> Trainer:
    values = {name: getattr(CONFIG, name) for name in CONFIG.__slots__} | changes
    return Trainer(TrainConfig(**values), task or Halves(), folder)


def at(trainer: Trainer, step: int) -> Callable[[], bool]:
    return lambda: trainer.step == step


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key in value for leaf in (key, *leaves(value[key]))]
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def same(a: Any, b: Any) -> bool:
    pairs = list(zip(leaves(a), leaves(b), strict=True))
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs)


def content(folder: Path) -> dict[str, Any]:
    """All that a run leaves behind, but for the time that it took."""
    state = torch.load(folder / "last.pt", weights_only=True)
    best = torch.load(folder / "best.pt", weights_only=True)
    del state["progress"][2], best["about"]["minutes"]
    with (folder / "log.csv").open() as file:
        rows = [row[:-1] for row in csv.reader(file)]
    return {"state": state, "best": best, "log": rows}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("straight")
    assert trainer(folder).run().exists()
    assert [row[0] for row in content(folder)["log"]] == ["step", "4", "8"]
    return content(folder)


# ---- interruption ------------------------------------------------------------------------------


@pytest.mark.parametrize("step", range(1, 9))
def test_interrupted_at_any_step_equals_uninterrupted(
    step: int, tmp_path: Path, straight: dict[str, Any]
) -> None:
    first = trainer(tmp_path)
    first.run(stop=at(first, step))
    assert not first.finished
    torch.manual_seed(step)  # chance goes on where it was, not here
    second = trainer(tmp_path)
    assert second.step == step
    second.run()
    assert second.finished
    assert same(content(tmp_path), straight)


class Crash(Exception):
    pass


def crash(*_: Any) -> None:
    raise Crash


@pytest.mark.parametrize(("step", "saved"), [(2, 0), (5, 4), (7, 6)])
def test_a_crash_loses_what_was_not_saved(
    step: int, saved: int, tmp_path: Path, straight: dict[str, Any]
) -> None:
    first = trainer(tmp_path)
    with pytest.raises(Crash):
        first.run(stop=lambda: first.step == step and bool(crash()))
    second = trainer(tmp_path)
    assert second.step == saved
    second.run()
    assert same(content(tmp_path), straight)


def test_a_crash_in_the_validation_loses_only_it(
    tmp_path: Path, straight: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = trainer(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("convonet_ros.training.trainer.validated", crash)
        with pytest.raises(Crash):
            first.run()
    second = trainer(tmp_path)
    assert (second.step, second.validated) == (4, 0)
    second.run()
    assert same(content(tmp_path), straight)


def test_rows_beyond_the_save_are_written_anew(tmp_path: Path, straight: dict[str, Any]) -> None:
    first = trainer(tmp_path)
    first.run(stop=at(first, 3))
    shutil.copy(tmp_path / "last.pt", tmp_path / "kept.pt")
    trainer(tmp_path).run()
    with (tmp_path / "log.csv").open("a") as file:
        file.write("8,0.1")  # half a row
    (tmp_path / "kept.pt").replace(tmp_path / "last.pt")
    trainer(tmp_path).run()
    assert same(content(tmp_path), straight)


def test_more_steps_go_on_and_other_settings_do_not(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    again = trainer(tmp_path)
    assert again.finished
    again.run()  # nothing to do
    with pytest.raises(ValueError, match=r"started with lr 0.1 \(now 0.2\), batch 4 \(now none\)"):
        trainer(tmp_path, lr=0.2, settings={})
    longer = trainer(tmp_path, steps=10)
    longer.run()
    assert [row[0] for row in content(tmp_path)["log"]] == ["step", "4", "8", "10"]


def test_a_damaged_state_is_named(tmp_path: Path) -> None:
    trainer(tmp_path).run()
    whole = (tmp_path / "last.pt").read_bytes()
    for damaged in (b"", b"text", whole[: len(whole) // 2]):
        (tmp_path / "last.pt").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"last\.pt: expected the state of a run"):
            trainer(tmp_path)
    (tmp_path / "last.pt").write_bytes(whole)
    with pytest.raises(ValueError, match=r"last\.pt: expected the state of this network"):
        trainer(tmp_path, Halves(plain=True))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_wish_and_the_second_one_an_order(number: int) -> None:
    before = signal.getsignal(number)
    with wish_to_stop() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert signal.getsignal(number) == before


# ---- bad steps ---------------------------------------------------------------------------------


def test_a_step_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    run = trainer(tmp_path, Halves(bad=frozenset({1, 2})))
    run.run(stop=at(run, 1))
    before = [weight.clone() for weight in run.network.parameters()]
    run = trainer(tmp_path, Halves(bad=frozenset({1, 2})))
    run.run(stop=at(run, 3))
    assert same(before, list(run.network.parameters()))
    run = trainer(tmp_path)
    run.run()
    assert run.skipped == 2
    assert all(weight.isfinite().all() for weight in run.averaged_network.parameters())
    assert content(tmp_path)["best"]["about"]["skipped_steps"] == 2


def test_many_of_them_end_the_training(tmp_path: Path) -> None:
    run = trainer(tmp_path, Halves(bad=frozenset(range(2, 99))), steps=20, validate_every=50)
    with pytest.raises(ValueError, match=r"10 steps in a row, up to step 12; .*lower --lr"):
        run.run()


# ---- fine-tuning -------------------------------------------------------------------------------


def test_a_network_starts_as_another_one_and_may_see_more() -> None:
    donor, wider = Net(plain=True), Net(plain=True, inputs=5)
    start_from(wider, donor)
    seen = torch.rand(20, 5)
    assert torch.allclose(wider(seen), donor(seen[:, :3]), atol=1e-6)
    assert not wider[0].weight[:, 3:].any()
    with pytest.raises(ValueError, match=r"0.weight is \(16, 5\) instead of \(16, 3\)"):
        start_from(donor, wider)
    with pytest.raises(ValueError, match=r"and \d+ more"):
        start_from(Net(), donor)


# ---- several processes -------------------------------------------------------------------------


def test_alone_without_torchrun() -> None:
    with torchrun_processes() as processes:
        assert processes == Processes()
        assert processes.first


def train_share(rank: int, port: int, folder: Path) -> None:
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    torch.set_num_threads(1)
    with torchrun_processes() as processes:
        with pytest.raises(ValueError, match="only the first"):
            processes.from_first(lambda: refuse(processes.first))
        for plain in (True, False):
            own = folder / ("plain" if plain else "mixed")
            # The others' disks have nothing of the run.
            place = own if rank == 0 else folder / "elsewhere"
            first = Trainer(CONFIG, Halves(plain), place, processes)
            first.run(stop=lambda run=first: rank == 1 and run.step == 5)  # type: ignore[misc]
            assert first.step == 5
            second = Trainer(CONFIG, Halves(plain), place, processes)
            assert second.step == 5
            second.run()
            state = second.network.state_dict(), second.averaged.state_dict()
            torch.save(state, folder / f"{plain}-{rank}.pt")
    assert not (folder / "elsewhere").exists()
    threads = [(t / "comm").read_text() for t in Path("/proc/self/task").iterdir()]
    assert not any("gloo" in name for name in threads), "the process would abort at its end"


def refuse(first: bool) -> None:
    if not first:
        raise AssertionError
    raise ValueError("only the first one knows")


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(train_share, (port, tmp_path), nprocs=2)
    for plain in (True, False):
        assert same(*(torch.load(tmp_path / f"{plain}-{rank}.pt") for rank in (0, 1)))
    together, _ = torch.load(tmp_path / "True-0.pt")
    alone = trainer(tmp_path / "alone", Halves(plain=True))
    alone.run()
    for name, weight in alone.network.state_dict().items():
        assert torch.allclose(together[name], weight, atol=1e-4), name
    log = content(tmp_path / "plain")["log"], content(tmp_path / "alone")["log"]
    for row, expected in zip(*(rows[1:] for rows in log), strict=True):
        assert [float(v) for v in row] == pytest.approx([float(v) for v in expected], rel=1e-3)
