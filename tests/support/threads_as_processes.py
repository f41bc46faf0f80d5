"""Threads in place of the processes of a run, which gather and reduce as an Accelerator does."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch

from openddpm.errors import UserError


@dataclass
class Process:
    """One of several, in place of its Accelerator."""

    process_index: int
    num_processes: int
    barrier: threading.Barrier
    said: dict[int, torch.Tensor]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def is_main_process(self) -> bool:
        """Whether it is the first."""
        return self.process_index == 0

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what all have given, by rank."""
        self.said[self.process_index] = tensor
        self.barrier.wait(60)
        gathered = torch.cat([self.said[rank] for rank in range(self.num_processes)])
        self.barrier.wait(60)
        return gathered

    def reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of what all have given."""
        return self.gather(tensor[None]).sum(0)


def by_all(number: int, act: Callable[[Any], Any]) -> list[Any]:
    """Return what `act` returns or raises in each of so many processes."""
    barrier, said = threading.Barrier(number), {}

    def outcome(rank: int) -> Any:
        try:
            return act(Process(rank, number, barrier, said))
        except UserError as error:
            return error

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(outcome, range(number)))
