"""How long the stages of a frame take, and their marks in the tools that look closer."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar

Mark = Callable[[str], AbstractContextManager[object]]


def unmarked(_stage: str) -> AbstractContextManager[None]:
    """No mark."""
    return contextlib.nullcontext()


_MARK: ContextVar[Mark] = ContextVar("stage mark", default=unmarked)


@contextlib.contextmanager
def stages_marked(mark: Mark) -> Iterator[None]:
    """Within it every stage that is timed runs inside `mark(stage)`: `torch.cuda.nvtx.range` shows it to Nsight,
    `torch.profiler.record_function` to PyTorch's profiler."""
    token = _MARK.set(mark)
    try:
        yield
    finally:
        _MARK.reset(token)


class StageTimer:
    """Collects milliseconds by stage name; `take` hands them over and starts anew."""

    def __init__(self) -> None:
        self._milliseconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        with _MARK.get()(stage):
            yield
        self._milliseconds[stage] = self._milliseconds.get(stage, 0.0) + (time.perf_counter() - started) * 1e3

    def take(self) -> dict[str, float]:
        taken, self._milliseconds = self._milliseconds, {}
        return taken
