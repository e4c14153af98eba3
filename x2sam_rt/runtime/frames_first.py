"""Frames and an answer made beside them take turns, so that neither slows the other beyond measure."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from torch.overrides import TorchFunctionMode

# What an answer may take of a frame's time behind it. More answers sooner; the next frame waits by as much.
_SHARE = 0.2
# The quickest of so many frames tells a frame's time: one that was held up must not hold up the next.
_FRAMES = 8


class FramesFirst:
    """An answer works in pieces, between frames, and stands back between two of them while a frame is in progress.

    Where frames follow one another without a pause it would never come to an end; so after each frame it goes on for a
    share of a frame's time, until the piece ends that it is at then, and the next frame waits for it. A frame that
    comes at another time, as a camera's do, waits for the piece at work. Side by side both would take longer than in
    turns, as all of a frame's threads wait for the one whose core is taken; but no frame waits longer than the share,
    whatever the piece.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._in_progress = 0  # frames
        self._seconds: deque[float] = deque(maxlen=_FRAMES)  # of the last frames
        self._waits, self._at_work = False, False  # the answer
        self._until = 0.0  # when its share is used up

    @contextlib.contextmanager
    def frame(self) -> Iterator[FrameInProgress]:
        """A frame's work; any number of threads may be in one."""
        frame = FrameInProgress(self)
        self._come()
        try:
            self._wait_for_piece()
            began = time.perf_counter()
            yield frame
            self._seconds.append(time.perf_counter() - began - frame.seconds_aside)
        finally:
            self._leave()

    def _come(self) -> None:
        with self._change:
            self._in_progress += 1

    def _wait_for_piece(self) -> None:
        with self._change:
            self._change.wait_for(lambda: not self._at_work, self._share)

    def _leave(self) -> None:
        with self._change:
            self._in_progress -= 1
            if self._waits:  # its turn begins here: the next frame may come before its thread wakes up
                self._begin_turn()

    @contextlib.contextmanager
    def answer(self) -> Iterator[None]:
        """An answer's work, one at a time."""
        with self._change:
            self._take_turn()
        try:
            yield
        finally:
            with self._change:
                self._end_turn()

    def stand_back(self) -> None:
        """Between two pieces of an answer: waits until it may go on. Called before every operation, so it looks without
        the lock: a frame that comes at this moment waits for one piece more."""
        if self._in_progress and time.perf_counter() > self._until:
            with self._change:
                self._end_turn()
                self._take_turn()

    def _take_turn(self) -> None:
        """At once, or when a frame in progress has ended."""
        if self._in_progress:
            self._waits = True
            self._change.wait_for(lambda: self._at_work)
        else:
            self._begin_turn()

    def _begin_turn(self) -> None:
        self._waits, self._at_work = False, True
        self._until = time.perf_counter() + self._share
        self._change.notify_all()

    def _end_turn(self) -> None:
        self._at_work = False
        self._change.notify_all()

    @property
    def _share(self) -> float:
        """Seconds."""
        return _SHARE * min(self._seconds, default=0.0)


class FrameInProgress:
    """A frame that has its turn."""

    def __init__(self, turns: FramesFirst) -> None:
        self._turns = turns
        self.seconds_aside = 0.0

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """For what is not the frame's own work and may wait for an answer: meanwhile it keeps nobody back."""
        left = time.perf_counter()
        self._turns._leave()
        try:
            yield
        finally:
            self._turns._come()
            self._turns._wait_for_piece()
            self.seconds_aside += time.perf_counter() - left


class BeforeOperations(TorchFunctionMode):
    """Within it, `call` is called before every function of PyTorch's on this thread, inside a model's modules too."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__()
        self._call = call

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._call()
        return func(*args, **(kwargs or {}))
