"""Batches from the disk to the device, read ahead of their use."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

if TYPE_CHECKING:
    from convonet_ros.training.tasks import Task

_READERS = 8  # processes that read batches for a GPU


@dataclass(frozen=True, slots=True)
class Shares(Dataset[Any]):
    """What one process takes of the batches of a task, by their numbers."""

    task: Task
    rank: int = 0
    world: int = 1

    def __getitem__(self, number: int) -> Any:
        return self.task.batch(number, self.rank, self.world)


def read_ahead(shares: Shares, numbers: range, device: torch.device) -> Generator[Any, None, None]:
    """The batches of these numbers on a device.

    A GPU waits for several processes that read, a processor for none beside itself.
    """
    if device.type == "cuda":
        readers = min(_READERS, os.cpu_count() or 1)
        batches: Iterator[Any] = iter(DataLoader(
            shares, batch_size=None, sampler=numbers, num_workers=readers, pin_memory=True,
        ))  # fmt: skip
    else:
        batches = map(shares.__getitem__, numbers)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield moved(batch, device)


def moved(batch: Any, device: torch.device) -> Any:
    """Nested tuples and dictionaries of tensors, on the device."""
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: moved(part, device) for key, part in batch.items()}
    parts = [moved(part, device) for part in batch]
    return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
