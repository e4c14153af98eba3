"""Frames and an answer made beside them take turns, so that neither slows the other beyond measure."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator

# What an answer may take of a frame's time behind it. More answers sooner; the next frame waits by as much.
_SHARE = 0.2
# The quickest of so many frames tells a frame's time: one that was held up must not hold up the next.
_FRAMES = 8


class FramesFirst:
    """An answer works in pieces, between frames, and stands back between two of them while a frame is in progress.

    Where frames follow one another without a pause it would never come to an end; so after each frame it goes on for a
    share of a frame's time, or for one piece where that takes longer, and the next frame waits for it. A frame that
    comes at another time, as a camera's do, waits for the piece at work. Side by side both would take longer than in
    turns, as all of a frame's threads wait for the one whose core is taken; but no frame waits longer than the share,
    whatever the piece.
    """

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._in_progress = 0  # frames
        self._seconds: deque[float] = deque(maxlen=_FRAMES)  # of the last frames
        self._waits, self._at_work = False, False  # the answer
        self._piece_began = self._until = 0.0  # its piece at work, and when its share is used up

    @contextlib.contextmanager
    def frame(self) -> Iterator[None]:
        """A frame's work; any number of threads may be in one."""
        with self._change:
            self._in_progress += 1
            self._change.wait_for(lambda: not self._at_work, self._share)
        began = time.perf_counter()
        try:
            yield
        finally:
            with self._change:
                self._in_progress -= 1
                self._seconds.append(time.perf_counter() - began)
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
        """Between two pieces of an answer: waits until it may go on."""
        with self._change:
            now = time.perf_counter()
            next_ends = now + (now - self._piece_began)  # if it takes as long as the one that ended
            if self._in_progress and next_ends > self._until:
                self._end_turn()
                self._take_turn()
            self._piece_began = time.perf_counter()

    def _take_turn(self) -> None:
        """At once, or when a frame in progress has ended."""
        if self._in_progress:
            self._waits = True
            self._change.wait_for(lambda: self._at_work)
        else:
            self._begin_turn()

    def _begin_turn(self) -> None:
        self._waits, self._at_work = False, True
        self._piece_began = time.perf_counter()
        self._until = self._piece_began + self._share
        self._change.notify_all()

    def _end_turn(self) -> None:
        self._at_work = False
        self._change.notify_all()

    @property
    def _share(self) -> float:
        """Seconds."""
        return _SHARE * min(self._seconds, default=0.0)
