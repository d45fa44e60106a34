"""SIGINT (Ctrl-C) and SIGTERM as a wish to stop, instead of an end in the middle of something."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_ANSWER = b"\nstopping after this step; once more stops at once\n"


@contextmanager
def wish_to_stop() -> Iterator[Callable[[], bool]]:
    """Whether a signal came. A second one raises KeyboardInterrupt. Main thread only."""
    came: list[int] = []
    own = os.getpid()

    def note(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        if len(came) > 1:
            raise KeyboardInterrupt
        if os.getpid() == own:  # and not one that reads batches, which Ctrl-C reaches too
            os.write(2, _ANSWER)  # print may not be called in the middle of a print

    before = {number: signal.signal(number, note) for number in _SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
