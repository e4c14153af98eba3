"""Frames and an answer made beside them take turns, so that neither slows the other beyond measure."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

# What an answer may take of the time of a frame before it. More answers sooner; a frame waits by as much.
_SHARE = 0.2


class FramesFirst:
    """An answer works in pieces and stands back between two of them while a frame is in progress.

    Where frames follow one another without a pause it would never come to an end; so after each frame it goes on for a
    share of that frame's time, and the next frame waits for it as long, but no longer, whatever the piece at work. A
    frame that comes later, as a camera's do, begins at once.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._in_progress = self._ended = 0  # frames
        self._share = 0.0  # seconds
        self._at_work, self._until = False, 0.0  # the answer, and when its share is used up

    @contextlib.contextmanager
    def frame(self) -> Iterator[None]:
        """A frame's work; any number of threads may be in one."""
        with self._change:
            self._in_progress += 1
            self._change.wait_for(lambda: not self._at_work, max(0.0, self._until - time.perf_counter()))
        started = time.perf_counter()
        try:
            yield
        finally:
            with self._change:
                self._in_progress -= 1
                self._ended += 1
                self._share = _SHARE * (time.perf_counter() - started)
                self._change.notify_all()

    @contextlib.contextmanager
    def answer(self) -> Iterator[None]:
        """An answer's work, one at a time."""
        with self._change:
            self._start()
        try:
            yield
        finally:
            with self._change:
                self._stop()

    def stand_back(self) -> None:
        """Between two pieces of an answer: waits until it may go on."""
        with self._change:
            if self._in_progress and time.perf_counter() >= self._until:
                self._stop()
                ended = self._ended
                self._change.wait_for(lambda: not self._in_progress or self._ended > ended)
                self._start()

    def _start(self) -> None:
        self._at_work, self._until = True, time.perf_counter() + self._share

    def _stop(self) -> None:
        self._at_work = False
        self._change.notify_all()
