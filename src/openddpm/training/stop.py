"""Turns SIGINT and SIGTERM into a request to finish the step, save and end."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

import torch
from accelerate import Accelerator

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Context in which the first SIGINT or SIGTERM is remembered in `signal`; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._remember) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def agreed(self, accelerator: Accelerator) -> bool:
        """Return whether any process was asked to stop. A collective call when there are several."""
        if accelerator.num_processes == 1:
            return self.signal is not None
        asked = torch.tensor([self.signal or 0], device=accelerator.device)
        self.signal = int(accelerator.gather(asked).max()) or None  # type: ignore[union-attr]
        return self.signal is not None

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
