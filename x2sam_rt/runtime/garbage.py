"""Python's garbage collector, kept from halting a frame."""

from __future__ import annotations

import gc
import threading


class LongLivedObjects:
    """What is there when a runtime has been loaded, modules and weights, is there until it is closed. The collector
    would look through all of it every now and then, which takes as long as ten frames with PyTorch and transformers
    loaded; so it is told not to. What comes after is collected as ever."""

    def __init__(self) -> None:
        self._holders, self._lock = 0, threading.Lock()

    def hold(self) -> None:
        """What exists now is not looked at any more."""
        with self._lock:
            self._holders += 1
            gc.collect()
            gc.freeze()

    def release(self) -> None:
        """The last one to release makes all of it subject to collection again."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                gc.unfreeze()


LONG_LIVED = LongLivedObjects()  # one collector per process
