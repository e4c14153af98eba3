"""How long each stage of a step took."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class StageTimer:
    """Collects milliseconds by stage name; `take` hands them over and starts anew."""

    def __init__(self) -> None:
        self._milliseconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._milliseconds[stage] = self._milliseconds.get(stage, 0.0) + (time.perf_counter() - started) * 1e3

    def take(self) -> dict[str, float]:
        taken, self._milliseconds = self._milliseconds, {}
        return taken
