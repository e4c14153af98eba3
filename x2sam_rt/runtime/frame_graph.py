"""A frame's work on a GPU, recorded once and replayed: the host starts one graph instead of some thousand kernels. And
work on the next frame, beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

Work = Callable[[], None]
Recorder = Callable[[Work, Work], Work]

_WARM_UP = 2  # libraries choose algorithms and take workspaces at the first calls; neither can be recorded


class FrameGraph:
    """Work on fixed memory that neither waits for the host nor asks it anything. Recorded at the first call, so that a
    fill level never reached costs nothing.

    parts: may be run again on the same memory with the same results. finish: may not, as it overwrites what they read.
    record: makes a replay of both; None = they are called, one by one, as on a CPU.
    """

    def __init__(self, parts: Sequence[Work], finish: Work, record: Recorder | None) -> None:
        self._parts, self._finish, self._record = tuple(parts), finish, record
        self._replay: Work | None = None

    def __call__(self) -> None:
        if self._replay is None:
            self._replay = self._both if self._record is None else self._record(self._prepare, self._finish)
        self._replay()

    def _prepare(self) -> None:
        for part in self._parts:
            part()

    def _both(self) -> None:
        self._prepare()
        self._finish()


class CudaRecorder:
    """Records on a device. Its graphs share one pool of memory and what libraries keep for a stream, so they never run
    at the same time; those of another recorder may."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, prepare: Work, finish: Work) -> Work:
        with torch.cuda.device(self._device):
            self._warm_up(prepare)
            graph = torch.cuda.CUDAGraph()
            # An instruction may be being answered on another thread, which takes memory as it likes.
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                prepare()
                finish()
        return graph.replay

    def _warm_up(self, prepare: Work) -> None:
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(_WARM_UP):
                prepare()
        current.wait_stream(self._stream)


class Beside(Protocol):
    """A second line of work."""

    def mark(self) -> None:
        """What is begun here from now on sees what was started up to now."""

    def begin(self, work: Work) -> None:
        """Runs beside what was started since the last `mark`."""

    def join(self) -> None:
        """What is started from now on sees what was begun here."""


class InTurn:
    """No second line: at once, one after the other."""

    def mark(self) -> None: ...

    def begin(self, work: Work) -> None:
        work()

    def join(self) -> None: ...


class CudaBeside:
    """A stream of its own beside the current one. The host waits for neither."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._marked = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def mark(self) -> None:
        self._marked.record(torch.cuda.current_stream(self._device))

    def begin(self, work: Work) -> None:
        self._stream.wait_event(self._marked)
        with torch.cuda.stream(self._stream):
            work()

    def join(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
