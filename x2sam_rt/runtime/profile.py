"""A profile of a stream: how long every stage takes, how near that comes to what the machine can, how soon the first
mask comes, and what memory does."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from torch.profiler import ProfilerActivity, profile, record_function

from x2sam_rt.config import MemoryConfig
from x2sam_rt.errors import VideoError
from x2sam_rt.media.atomic import atomic_file
from x2sam_rt.media.types import BoolMask
from x2sam_rt.model.cost import StageCost, stage_costs
from x2sam_rt.model.precision import dtype_of
from x2sam_rt.model.stages import EXAMPLE_SIZES, STAGES
from x2sam_rt.runtime.bundle import Manifest
from x2sam_rt.runtime.device import wait_for
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.run import RunFrame
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.timing import Mark, stages_marked, unmarked

TOTAL = "frame"
TRACED = 3
# Long enough for a processor's best, short beside any stream.
_CEILING_SECONDS = 0.4
_PRODUCT_SIDE = {"cpu": 1024, "cuda": 8192}
_COPY_BYTES = {"cpu": 2**27, "cuda": 2**30}


@dataclass(frozen=True)
class StageTimes:
    """Milliseconds per frame."""

    p50: float
    p95: float
    p99: float
    mean: float


@dataclass(frozen=True)
class Ceilings:
    """The most this machine did beside the run. flop_per_second: of a large matrix product in the engines' precision.
    bytes_per_second: of a copy, read and written."""

    flop_per_second: float
    bytes_per_second: float

    def least_ms(self, cost: StageCost) -> float:
        """How long a stage takes at least."""
        return 1e3 * max(cost.flop / self.flop_per_second, cost.bytes / self.bytes_per_second)


@dataclass(frozen=True)
class StageWork:
    """What a stage computes and moves in a frame (see `StageCost`), at what rates at its median, and as what share of
    the machine's ceilings: the least time they allow, in the median's. bound_by: the ceiling that is met first."""

    flop: int
    bytes: int
    flop_per_second: float
    bytes_per_second: float
    share: float
    bound_by: str


@dataclass(frozen=True)
class Comparison:
    """The same frames, in turns, by another runtime: its bundle and stages. speedup: median over the frames of its time
    / ours. ious: of every frame's masks, see `labels_iou`."""

    bundle: str
    stages: dict[str, StageTimes]
    speedup: float
    ious: tuple[float, ...]


@dataclass(frozen=True)
class Profile:
    """stages: in the order they run, `frame` = all of them together, decoding and writing included. The first frame
    counts into first_mask_ms only: it carries the instruction and the engines' first allocations. Frames that were
    traced count nowhere.

    work: of the stages that engines run; empty, and ceilings None, where nobody asked. frame_ms: of every frame that
    counts, frame_numbers says which they are.
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
    work: dict[str, StageWork]
    ceilings: Ceilings | None
    frame_numbers: tuple[int, ...]
    frame_ms: tuple[float, ...]
    memory_frames: tuple[int, ...]
    resident_mb: tuple[float, ...]
    comparison: Comparison | None

    def to_json(self) -> dict[str, object]:
        return asdict(self)


class FrameTrace:
    """PyTorch's profiler over TRACED frames, written as a Chrome trace (for Perfetto or chrome://tracing)."""

    def __init__(self, path: Path, device: torch.device, first: int) -> None:
        """first: number of the first frame traced, from 1."""
        self.frames = range(first, first + TRACED)
        self._path, self._written, self._running = path, False, False
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
        self._profiler = profile(activities=activities)

    def after(self, index: int) -> None:
        """Tells that a frame is done."""
        if index + 1 == self.frames.start:
            self._profiler.start()
            self._running = True
        elif index + 1 == self.frames.stop:
            self._write()

    def close(self) -> None:
        """Writes what was traced of a stream that ended early. Raises VideoError when that is nothing."""
        if self._running:
            self._write()
        if not self._written:
            raise VideoError(
                f"The video ended before frame {self.frames.start}, where the trace begins; take a longer one."
            )

    def _write(self) -> None:
        self._profiler.stop()
        with atomic_file(self._path) as temporary:
            self._profiler.export_chrome_trace(str(temporary))
        self._running, self._written = False, True


@dataclass(frozen=True, eq=False)
class Beside:
    """Another run of the same file, to step in turns with the one that is profiled. bundle: for the record."""

    bundle: str
    frames: Iterator[RunFrame]


@dataclass(frozen=True)
class _Taken:
    """One frame. beside_ms, iou: of the other run."""

    index: int
    timings: Mapping[str, float]
    resident_mb: float
    beside: Mapping[str, float]
    iou: float

    @property
    def milliseconds(self) -> float:
        return sum(self.timings.values())


def profile_run(
    frames: Iterable[RunFrame],
    runtime: Runtime,
    started: float,
    *,
    ceilings: Ceilings | None = None,
    trace: FrameTrace | None = None,
    beside: Beside | None = None,
    samples: int = 200,
) -> Profile:
    """Takes a run frame by frame. started: `time.perf_counter()` before the run, so that the first mask's latency holds
    everything a user waits for. ceilings: what the stages' work is held against. samples: about how many readings of
    the memory are kept.

    Raises VideoError for a video that ends before the trace begins.
    """
    taken = list[_Taken]()
    first_mask_ms = 0.0
    for frame in frames:
        first_mask_ms = first_mask_ms or (time.perf_counter() - started) * 1e3
        with stages_marked(unmarked):  # a trace's stages are those that are profiled
            other = None if beside is None else next(beside.frames)
        taken.append(_take(frame, other))
        if trace is not None:
            trace.after(frame.result.index)
    if trace is not None:
        trace.close()
    steady = [one for one in taken[1:] if trace is None or one.index not in trace.frames] or taken
    stages, kept = stage_times([one.timings for one in steady]), taken[:: max(1, len(taken) // samples)]
    manifest = runtime.manifest
    return Profile(
        frames=len(taken),
        backend=manifest.backend,
        precision=manifest.precision,
        machine=f"{platform.processor() or platform.machine()}, {platform.system()}",
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        context=runtime.language.context,
        cache_mb=runtime.language.cache_bytes / 2**20,
        first_mask_ms=first_mask_ms,
        frames_per_second=1e3 / stages[TOTAL].mean,
        stages=stages,
        work={} if ceilings is None else _work(manifest, stages, [one.index for one in steady], ceilings),
        ceilings=ceilings,
        frame_numbers=tuple(one.index for one in steady),
        frame_ms=tuple(one.milliseconds for one in steady),
        memory_frames=tuple(one.index for one in kept),
        resident_mb=tuple(one.resident_mb for one in kept),
        comparison=None if beside is None else _comparison(beside.bundle, steady),
    )


def _take(frame: RunFrame, beside: RunFrame | None) -> _Taken:
    timings, iou = ({}, 1.0) if beside is None else (beside.timings, labels_iou(frame.result, beside.result))
    return _Taken(frame.result.index, frame.timings, resident_mb(), timings, iou)


def _comparison(bundle: str, frames: Sequence[_Taken]) -> Comparison:
    return Comparison(
        bundle,
        stage_times([one.beside for one in frames]),
        float(np.median([sum(one.beside.values()) / one.milliseconds for one in frames])),
        tuple(one.iou for one in frames),
    )


def labels_iou(ours: FrameResult, other: FrameResult) -> float:
    """IoU of two results of one frame: the pixels that both give a label, over those that either gives it, summed over
    the labels. 1 where neither gives any."""
    both = either = 0
    for label in {segment.label_id for result in (ours, other) for segment in result.segments}:
        one, two = (_labelled(result, label) for result in (ours, other))
        both, either = both + int((one & two).sum()), either + int((one | two).sum())
    return both / either if either else 1.0


def _labelled(result: FrameResult, label: int) -> BoolMask:
    """(H, W)."""
    found = np.zeros(result.segmentation.map.shape, dtype=np.bool_)
    for segment in result.segments:
        if segment.label_id == label:
            found |= segment.mask
    return found


def _work(
    manifest: Manifest, times: Mapping[str, StageTimes], frames: Sequence[int], ceilings: Ceilings
) -> dict[str, StageWork]:
    """Counted for a short prompt, and for as many live slots as the median of these frames looks at."""
    sizes = {**EXAMPLE_SIZES, "slots": _median_slots(manifest.model.memory, frames)}
    costs = stage_costs(manifest.model, [name for name in STAGES if name in times], dtype_of(manifest.precision), sizes)
    return {name: _achieved(cost, times[name].p50, ceilings) for name, cost in costs.items()}


def _achieved(cost: StageCost, milliseconds: float, ceilings: Ceilings) -> StageWork:
    seconds = milliseconds / 1e3
    computes = cost.flop / ceilings.flop_per_second >= cost.bytes / ceilings.bytes_per_second
    return StageWork(
        flop=cost.flop,
        bytes=cost.bytes,
        flop_per_second=cost.flop / seconds,
        bytes_per_second=cost.bytes / seconds,
        share=ceilings.least_ms(cost) / milliseconds,
        bound_by="compute" if computes else "memory",
    )


def stage_times(timings: Sequence[Mapping[str, float]]) -> dict[str, StageTimes]:
    """Percentiles per stage over the frames that ran it, and of their sum."""
    names = list(dict.fromkeys(name for frame in timings for name in frame))
    times = {name: _percentiles([frame[name] for frame in timings if name in frame]) for name in names}
    return {**times, TOTAL: _percentiles([sum(frame.values()) for frame in timings])}


def _percentiles(milliseconds: Sequence[float]) -> StageTimes:
    p50, p95, p99 = (float(value) for value in np.percentile(milliseconds, (50, 95, 99)))
    return StageTimes(p50, p95, p99, float(np.mean(milliseconds)))


def resident_mb() -> float:
    return float(psutil.Process().memory_info().rss) / 2**20


def measure_ceilings(device: torch.device, dtype: torch.dtype) -> Ceilings:
    """Takes about a second. dtype: of the matrices."""
    side, size = _PRODUCT_SIDE[device.type], _COPY_BYTES[device.type]
    one, two, product = (torch.ones(side, side, dtype=dtype, device=device) for _ in range(3))
    source, target = (torch.ones(size, dtype=torch.uint8, device=device) for _ in range(2))
    return Ceilings(
        2 * side**3 / _least_seconds(lambda: torch.mm(one, two, out=product), device),
        2 * size / _least_seconds(lambda: target.copy_(source), device),
    )


def _least_seconds(call: Callable[[], object], device: torch.device) -> float:
    begun, best = time.perf_counter(), float("inf")
    while time.perf_counter() - begun < _CEILING_SECONDS or best == float("inf"):
        started = time.perf_counter()
        call()
        wait_for(device)
        best = min(best, time.perf_counter() - started)
    return best


def stage_mark(device: torch.device, *, traced: bool) -> Mark:
    """What stages are marked with: names in PyTorch's trace; without one, NVTX ranges on a GPU; else nothing."""
    if traced:
        return record_function
    return torch.cuda.nvtx.range if device.type == "cuda" else unmarked


def staged(runtime: Runtime) -> Runtime:
    """The same, for a GPU: one whose every stage the host waits for, so that its clock tells how long each took. It
    shares everything, and is closed with the one it was made of."""
    if runtime.device.type == "cpu":
        return runtime
    return Runtime(runtime.manifest, runtime.engines.waited_for(), runtime.language)


def _median_slots(memory: MemoryConfig, frames: Sequence[int]) -> int:
    """Live slots, of the frames that look at any; at least 1."""
    live = [min(memory.slots, -(-frame // memory.every)) for frame in frames if memory.looks_back(frame)]
    return max(1, round(float(np.median(live)))) if live else 1
