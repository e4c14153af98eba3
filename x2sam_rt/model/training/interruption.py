"""Ctrl-C, heard between steps instead of in the middle of one."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType


class Interruption:
    """Within it, Ctrl-C sets `asked` and calls `pass_on`; a second one raises KeyboardInterrupt, unless patient.

    Use it on the main thread, which is the only one that gets signals.
    """

    def __init__(self, pass_on: Callable[[], None] = lambda: None, *, patient: bool = False) -> None:
        self.asked = False
        self._pass_on, self._patient = pass_on, patient

    def __enter__(self) -> Interruption:
        self._before = signal.signal(signal.SIGINT, self._hear)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def is_asked(self) -> bool:
        return self.asked

    def _hear(self, _signal: int, _frame: FrameType | None) -> None:
        if self.asked and not self._patient:
            raise KeyboardInterrupt
        self.asked = True
        self._pass_on()
