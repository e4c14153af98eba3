"""What Prometheus is told: one registry per server."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    def __init__(self, sessions: Callable[[], int], memory: Callable[[], int], workers: Callable[[], int]) -> None:
        """sessions: open now. memory: resident bytes of the server and its workers. workers: that run."""
        self._registry = CollectorRegistry()
        at = self._registry
        self.frames = Counter("x2sam_frames", "Frames that were segmented.", registry=at)
        self.dropped = Counter("x2sam_frames_dropped", "Frames that gave way to newer ones, or were lost.", registry=at)
        self.answers = Counter("x2sam_answers", "Instructions that were answered.", registry=at)
        self.refused = Counter("x2sam_refused", "Sessions and requests that were turned away.", ["code"], registry=at)
        self.errors = Counter("x2sam_errors", "Errors that clients were told.", ["code"], registry=at)
        self.lost = Counter("x2sam_workers_lost", "Workers that ended and were replaced.", registry=at)
        self.latency = Histogram(
            "x2sam_frame_seconds", "From a frame's receipt to its result.", buckets=_SECONDS, registry=at
        )
        self.stages = Histogram("x2sam_stage_seconds", "Per stage.", ["stage"], buckets=_SECONDS, registry=at)
        for name, what, read in (
            ("x2sam_sessions", "Sessions that are open.", sessions),
            ("x2sam_memory_bytes", "Resident memory of the server and its workers.", memory),
            ("x2sam_workers", "Workers that run.", workers),
        ):
            Gauge(name, what, registry=at).set_function(read)

    def text(self) -> bytes:
        return generate_latest(self._registry)
