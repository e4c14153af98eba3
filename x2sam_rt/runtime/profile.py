"""A profile of a stream: how long every stage takes, how soon the first mask comes, and what memory does."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import psutil
import torch

from x2sam_rt.runtime.bundle import Manifest
from x2sam_rt.runtime.run import RunFrame

TOTAL = "frame"


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds per frame."""

    p50: float
    p95: float
    p99: float
    mean: float


@dataclass(frozen=True)
class Profile:
    """stages: in the order they run, `frame` = all of them together, decoding and writing included. The first frame
    counts into first_mask_ms only: it carries the instruction and the engines' first allocations.

    resident_mb: resident memory, MiB, at the frame numbers of memory_frames.
    """

    frames: int
    backend: str
    precision: str
    machine: str
    threads: int
    torch: str
    first_mask_ms: float
    frames_per_second: float
    stages: dict[str, StageTimes]
    memory_frames: tuple[int, ...]
    resident_mb: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def profile_run(frames: Iterable[RunFrame], manifest: Manifest, started: float, samples: int = 200) -> Profile:
    """Takes a run frame by frame. started: `time.perf_counter()` before the run, so that the first mask's latency holds
    everything a user waits for. samples: about how many readings of the memory are kept.
    """
    timings: list[Mapping[str, float]] = []
    memory: list[tuple[int, float]] = []
    first_mask_ms, steady = 0.0, started
    for frame in frames:
        if frame.result.index == 0:
            first_mask_ms, steady = (time.perf_counter() - started) * 1e3, time.perf_counter()
        timings.append(frame.timings)
        memory.append((frame.result.index, resident_mb()))
        ended = time.perf_counter()
    elapsed = ended - steady
    kept = memory[:: max(1, len(memory) // samples)]
    return Profile(
        frames=len(timings),
        backend=manifest.backend,
        precision=manifest.precision,
        machine=f"{platform.processor() or platform.machine()}, {platform.system()}",
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        first_mask_ms=first_mask_ms,
        frames_per_second=(len(timings) - 1) / elapsed if len(timings) > 1 else 0.0,
        stages=stage_times(timings[1:] or timings),
        memory_frames=tuple(index for index, _ in kept),
        resident_mb=tuple(megabytes for _, megabytes in kept),
    )


def stage_times(timings: Sequence[Mapping[str, float]]) -> dict[str, StageTimes]:
    """Percentiles per stage over the frames that ran it, and of their sum."""
    names = list(dict.fromkeys(name for frame in timings for name in frame))
    times = {name: _percentiles([frame[name] for frame in timings if name in frame]) for name in names}
    return {**times, TOTAL: _percentiles([sum(frame.values()) for frame in timings])}


def resident_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


def _percentiles(milliseconds: Sequence[float]) -> StageTimes:
    p50, p95, p99 = (float(value) for value in np.percentile(milliseconds, (50, 95, 99)))
    return StageTimes(p50, p95, p99, float(np.mean(milliseconds)))
