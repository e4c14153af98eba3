"""A profile of a stream: how long every stage takes, how soon the first mask comes, and what memory does."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from rich.table import Table

from x2sam_rt.errors import require_extra
from x2sam_rt.media.atomic import atomic_file
from x2sam_rt.runtime.run import RunFrame
from x2sam_rt.runtime.runtime import Runtime

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

    context, cache_mb: tokens of the longest prompt, and MiB that were taken for them when the bundle was loaded.
    resident_mb: resident memory, MiB, at the frame numbers of memory_frames.
    """

    frames: int
    backend: str
    precision: str
    machine: str
    threads: int
    torch: str
    context: int
    cache_mb: float
    first_mask_ms: float
    frames_per_second: float
    stages: dict[str, StageTimes]
    memory_frames: tuple[int, ...]
    resident_mb: tuple[float, ...]

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def profile_run(frames: Iterable[RunFrame], runtime: Runtime, started: float, samples: int = 200) -> Profile:
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
        backend=runtime.manifest.backend,
        precision=runtime.manifest.precision,
        machine=f"{platform.processor() or platform.machine()}, {platform.system()}",
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        context=runtime.language.context,
        cache_mb=runtime.language.cache_bytes / 2**20,
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


def profile_table(profile: Profile) -> Table:
    title = f"{profile.frames} frames · {profile.backend} {profile.precision} · {profile.threads} threads"
    table = Table(
        title=title,
        caption=(
            f"first mask {profile.first_mask_ms:.0f} ms · {profile.frames_per_second:.1f} frames/s · "
            f"language cache {profile.cache_mb:.0f} MiB for {profile.context} tokens · "
            f"resident {profile.resident_mb[0]:.0f} → {profile.resident_mb[-1]:.0f} MiB"
        ),
    )
    table.add_column("stage")
    for column in ("p50 ms", "p95 ms", "p99 ms", "mean ms"):
        table.add_column(column, justify="right")
    for name, times in profile.stages.items():
        table.add_row(name, *(f"{value:.2f}" for value in (times.p50, times.p95, times.p99, times.mean)))
    return table


def write_profile(profile: Profile, path: Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(profile.to_json(), indent=1) + "\n")


def draw_profile(profile: Profile, path: Path) -> None:
    """Writes a PNG: the median of each stage with its p95 and p99, and resident memory over the stream.

    Raises MissingExtra.
    """
    require_extra("plot")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    bars, memory = figure.subplots(1, 2)
    names = list(profile.stages)[::-1]
    stages = [profile.stages[name] for name in names]
    bars.barh(names, [s.p50 for s in stages], color="#4472c4", label="p50")
    bars.plot([s.p95 for s in stages], names, "o", color="#ed7d31", label="p95")
    bars.plot([s.p99 for s in stages], names, "x", color="#a5a5a5", label="p99")
    bars.set_xlabel("milliseconds per frame")
    bars.legend()
    memory.plot(profile.memory_frames, profile.resident_mb)
    memory.set_ylim(0, max(profile.resident_mb) * 1.1)
    memory.set_xlabel("frame")
    memory.set_ylabel("resident memory, MiB")
    figure.suptitle(f"{profile.backend} {profile.precision}: {profile.frames_per_second:.1f} frames/s")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
