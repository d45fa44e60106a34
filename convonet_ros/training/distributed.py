"""Processes that train one network together, each on its share of every batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch

# Its functions keep the group that exists when they are imported, which an optimizer's first step
# does: then the group outlives its end, and its threads abort the process as Python finalizes.
import torch.distributed.nn.functional
from torch import Tensor, distributed, nn

T = TypeVar("T")
_TOLD_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PATIENCE = timedelta(hours=1)  # the others wait while the first one validates


def _this_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True, slots=True)
class Processes:
    """How many there are, which one this is, and what they tell each other; by default it is alone.

    Every method has to be called by all of them. Raises ConnectionError when another is gone.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=_this_device)

    @property
    def first(self) -> bool:
        """Whether this is the one that validates, logs and saves."""
        return self.rank == 0

    def from_first(self, make: Callable[[], T]) -> T:
        """What `make` gives on the first one, or the ValueError or OSError that it raises there."""
        if self.count == 1:
            return make()
        parcel: list[Any] = [None, None]
        if self.first:
            try:
                parcel[0] = make()
            except (ValueError, OSError) as error:
                parcel[1] = str(error)
        with _connected():
            distributed.broadcast_object_list(parcel, src=0)
        if parcel[1] is not None:
            raise ValueError(parcel[1])
        return parcel[0]

    def anywhere(self, here: bool) -> bool:
        """Whether it holds in at least one of them."""
        if self.count == 1:
            return here
        flag = torch.tensor(float(here), device=self.device)
        with _connected():
            distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag)

    @torch.no_grad()
    def average(self, network: nn.Module, loss: Tensor, queries: int) -> Tensor:
        """The mean loss, and in place the gradients, of the whole batch.

        loss: mean over the queries of this share, (). Shares count by their queries.
        """
        if self.count == 1:
            return loss
        for weight in network.parameters():
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        numbers = torch.stack([loss.float(), torch.ones_like(loss, dtype=torch.float32)])
        summed = torch.cat([*(g.flatten().float() for g in gradients), numbers]) * queries
        with _connected():
            distributed.all_reduce(summed)
        summed /= summed[-1].clone()
        parts = summed[:-2].split([g.numel() for g in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return summed[-2]

    @torch.no_grad()
    def as_first(self, tensors: Iterable[Tensor]) -> None:
        """Give tensors the values that they have on the first one."""
        if self.count > 1:
            with _connected():
                for tensor in tensors:
                    distributed.broadcast(tensor, src=0)


@contextmanager
def torchrun_processes() -> Iterator[Processes]:
    """The processes that torchrun started on this and other machines, else this one alone.

    On GPUs each has one of its own.
    """
    if not all(os.environ.get(name) for name in _TOLD_BY_TORCHRUN) or _number("WORLD_SIZE") == 1:
        yield Processes()
        return
    device = _this_device()
    if device.type == "cuda":
        gpus, local = torch.cuda.device_count(), _number("LOCAL_RANK")
        if local >= gpus:
            raise ValueError(
                f"--nproc-per-node: expected at most {gpus}, as many as there are GPUs"
            )
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    over_nccl = device.type == "cuda" and distributed.is_nccl_available()
    with _connected():
        distributed.init_process_group("nccl" if over_nccl else "gloo", timeout=_PATIENCE)
    yield Processes(_number("RANK"), _number("WORLD_SIZE"), device)
    distributed.destroy_process_group()  # not after an error: it would wait for the others


def _number(name: str) -> int:
    return int(os.environ.get(name, "0"))


@contextmanager
def _connected() -> Iterator[None]:
    """RuntimeErrors of torch.distributed, which have many lines, as one sentence."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0].split(". ")[0]
        raise ConnectionError(
            "another process of this training ended or cannot be reached; start all of them again, "
            f"the run goes on from its last save ({reason})"
        ) from error
