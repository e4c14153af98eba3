"""One timer for all benchmarks: the sides take turns, so that a busy machine slows them alike."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from x2sam_rt.evaluation.results import this_machine, versions

RESULTS = Path(__file__).parent / "results"
SAMPLE_MS = 5.0  # a sample repeats the call until it lasts about this long


@dataclass(frozen=True)
class Timing:
    """Milliseconds of one call. best: the least disturbed sample. samples: how many the median and p99 come from."""

    median_ms: float
    p99_ms: float
    best_ms: float
    samples: int


@dataclass(frozen=True)
class Comparison:
    """Two sides measured in turns. speedup: median over the rounds of baseline time / own time."""

    own: Timing
    baseline: Timing
    speedup: float


def compare(
    own: Callable[[], object], baseline: Callable[[], object], *, rounds: int = 25, device: str = "cpu"
) -> Comparison:
    """Times both, in turns, after a warm-up. device: "cuda" measures with CUDA events instead of the clock."""
    sides = (own, baseline)
    measure = _cuda_ms if device == "cuda" else _clock_ms
    calls = [_calls_per_sample(side, measure) for side in sides]
    samples = [[measure(side, count) for side, count in zip(sides, calls, strict=True)] for _ in range(rounds)]
    speedup = statistics.median(baseline_ms / own_ms for own_ms, baseline_ms in samples)
    own_samples, baseline_samples = ([pair[side] for pair in samples] for side in (0, 1))
    return Comparison(_timing(own_samples), _timing(baseline_samples), speedup)


def save(name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Writes results/`name`.json: the machine, the versions and one row per measurement."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {"machine": asdict(this_machine()), "versions": versions(), "rows": rows}
    path.write_text(json.dumps(content, indent=2, default=_plain) + "\n")
    return path


def _plain(value: object) -> object:
    if isinstance(value, Timing | Comparison):
        return {key: _rounded(part) for key, part in asdict(value).items()}
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def _timing(samples: list[float]) -> Timing:
    ordered = sorted(samples)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    return Timing(statistics.median(ordered), p99, ordered[0], len(ordered))


def _calls_per_sample(side: Callable[[], object], measure: Callable[[Callable[[], object], int], float]) -> int:
    for _ in range(3):
        side()
    return max(1, round(SAMPLE_MS / max(measure(side, 1), 1e-3)))


def _clock_ms(side: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        side()
    return (time.perf_counter() - start) * 1e3 / calls


def _cuda_ms(side: Callable[[], object], calls: int) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    start.record()
    for _ in range(calls):
        side()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / calls
