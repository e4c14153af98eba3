"""A frame's work on a GPU, recorded once and replayed: the host starts one graph instead of some thousand kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    """Records on a device. Its graphs share one pool of memory, since they never run at the same time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, prepare: Work, finish: Work) -> Work:
        with torch.cuda.device(self._device):
            self._warm_up(prepare)
            graph = torch.cuda.CUDAGraph()
            # Other threads may go on meanwhile: frames while a step of an answer is recorded, and the other way round.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                prepare()
                finish()
        return graph.replay

    def _warm_up(self, prepare: Work) -> None:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UP):
                prepare()
        torch.cuda.current_stream().wait_stream(stream)
