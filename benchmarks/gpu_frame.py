"""A whole frame on a GPU: recorded as a graph, stage by stage, and beside the same model run eagerly in one process.

    python benchmarks/gpu_frame.py              # on the GPU machine
    python benchmarks/gpu_frame.py --dry-run    # anywhere: the same path at 64², on the CPU

Status: only dry-run so far; not yet run on a GPU.

Random weights of the published widths (SAM 2.1 tiny's trunk), 20 conditions. While frames are measured, anything that
makes the host wait is an error, and memory taken from the driver is counted. `ahead`: the same frames in a row, each
encoded beside the one before. Last, a long stream at 256² must not grow.

Prints a table and writes results/gpu_frame.json after every row, so that a run that is cut off keeps what it measured;
a dry run writes nothing there. --seconds is kept to: what does not fit is cut short (`frames` says how many there were)
or left out, and said so.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from bench_frame import full_width, moving_clip, random_model, random_prompt
from reference_frame import ReferenceFrame
from rich.console import Console
from rich.table import Table
from timer import save

from x2sam_rt.config import ModelConfig
from x2sam_rt.export.engines import build_engines
from x2sam_rt.kernels import available
from x2sam_rt.model.precision import Precision, cast_weights, dtype_of
from x2sam_rt.model.prompt_encoder import PromptEmbeddings
from x2sam_rt.model.stages import stage_contracts, stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.device import wait_for
from x2sam_rt.runtime.engines.engine import Engines
from x2sam_rt.runtime.engines.torch_engine import TorchEngine
from x2sam_rt.runtime.pipeline import Pipeline


@dataclass(frozen=True)
class Setting:
    """frames: to measure. loop: different ones, shown in turn."""

    side: int
    slots: int
    precision: Precision
    frames: int
    loop: int = 16


@dataclass(frozen=True)
class Row:
    """Milliseconds per frame. frames: measured ones. ahead_ms: per frame of the same in a row. stages: median and p99,
    each waited for. peak_mib: of PyTorch's allocator, weights included. taken: pieces of memory asked of the driver
    after the warm-up. grown_mib: from the first measured frame to the last.
    """

    side: int
    slots: int
    precision: str
    frames: int
    p50_ms: float
    p99_ms: float
    ahead_ms: float
    eager_ms: float
    stages: dict[str, tuple[float, float]]
    peak_mib: float
    taken: int
    grown_mib: float


FULL = [Setting(side, slots, "bf16", 100) for side in (1024, 512) for slots in (5, 8)]
LONG = Setting(256, 5, "bf16", 10_000)
DRY = [Setting(64, slots, "fp32", 2, loop=2) for slots in (1, 2)]


@contextlib.contextmanager
def waiting_forbidden(device: torch.device) -> Iterator[None]:
    """On a GPU, whatever makes the host wait raises RuntimeError."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def engines_on(model: X2SAM, precision: Precision, device: torch.device) -> Engines:
    if device.type == "cpu":
        with tempfile.TemporaryDirectory() as folder:
            return build_engines(model, "torch", Path(folder), precision)
    contracts = stage_contracts(model.config, dtype_of(precision))
    return Engines.of(TorchEngine(contract, stage_module(model, contract.name), device) for contract in contracts)


@dataclass(frozen=True)
class Deadline:
    """at: of `time.monotonic()`."""

    at: float

    @property
    def left(self) -> float:
        """Seconds."""
        return self.at - time.monotonic()


def measure(setting: Setting, device: torch.device, deadline: Deadline, *, alone: bool = False) -> Row:
    """alone: whole frames one by one and nothing else."""
    torch.manual_seed(0)
    config = full_width(setting.side)
    config = replace(config, memory=replace(config.memory, slots=setting.slots))
    model = random_model(config).to(device)
    asked = PromptEmbeddings(*(tensor.to(device) for tensor in vars(random_prompt(config)).values()))
    clip = [frame.to(device, dtype_of(setting.precision)) for frame in moving_clip(config.image_size, setting.loop)]
    own = cast_weights(copy.deepcopy(model), dtype_of(setting.precision)) if setting.precision != "fp32" else model
    engines = engines_on(own, setting.precision, device)
    pipeline = Pipeline(engines, config)
    times, peak, taken, grown = measure_recorded(pipeline, asked, clip, setting.frames, device, deadline)
    ahead = eager = float("nan")
    stages: dict[str, tuple[float, float]] = {}
    if not alone:
        ahead = measure_ahead(pipeline, asked, clip, device)
        stages = measure_stages(engines, config, asked, clip)
        eager = measure_eager(model, config, asked, clip, device)
    p50, p99 = (float(value) for value in np.percentile(times, (50, 99)))
    asked_for = (setting.side, setting.slots, setting.precision)
    return Row(*asked_for, len(times), p50, p99, ahead, eager, stages, peak, taken, grown)


def measure_recorded(
    pipeline: Pipeline,
    asked: PromptEmbeddings,
    clip: list[torch.Tensor],
    frames: int,
    device: torch.device,
    deadline: Deadline,
) -> tuple[list[float], float, int, float]:
    """Milliseconds of each frame; peak MiB, pieces taken from the driver, MiB grown."""
    for number in range(2 * pipeline.bank.slots + 2):
        pipeline.step(clip[number % len(clip)], asked)
    wait_for(device)
    before = memory(device)
    times: list[float] = []
    while len(times) < frames and (deadline.left > 0 or not times):
        number, started = len(times), time.perf_counter()
        with waiting_forbidden(device):
            pipeline.step(clip[number % len(clip)], asked)
        wait_for(device)
        times.append((time.perf_counter() - started) * 1e3)
    after = memory(device)
    return times, after[1], after[2] - before[2], after[0] - before[0]


def measure_ahead(pipeline: Pipeline, asked: PromptEmbeddings, clip: list[torch.Tensor], device: torch.device) -> float:
    """Of one frame, when every frame's successor is there."""

    def run(frames: int) -> None:
        for number in range(frames):
            following = clip[(number + 1) % len(clip)]
            pipeline.step(clip[number % len(clip)], asked, lambda following=following: following)  # type: ignore[misc]
        wait_for(device)

    run(len(clip))
    started = time.perf_counter()
    run(2 * len(clip))
    return (time.perf_counter() - started) * 1e3 / (2 * len(clip))


def memory(device: torch.device) -> tuple[float, float, int]:
    """MiB in use, MiB at the peak, pieces taken from the driver so far; of a CPU nothing is known."""
    if device.type != "cuda":
        return 0.0, 0.0, 0
    stats = torch.cuda.memory_stats(device)
    used, peak = stats["allocated_bytes.all.current"], stats["allocated_bytes.all.peak"]
    return used / 2**20, peak / 2**20, int(stats["num_device_alloc"])


def measure_stages(
    engines: Engines, config: ModelConfig, asked: PromptEmbeddings, clip: list[torch.Tensor]
) -> dict[str, tuple[float, float]]:
    pipeline = Pipeline(engines.waited_for(), config)
    taken = []
    for number in range(config.memory.slots + 1 + len(clip)):
        pipeline.step(clip[number % len(clip)], asked)
        taken.append(pipeline.timer.take())
    steady = taken[config.memory.slots + 1 :]
    times = {name: np.percentile([frame[name] for frame in steady], (50, 99)) for name in steady[0]}
    return {name: (float(p50), float(p99)) for name, (p50, p99) in times.items()}


def measure_eager(
    model: X2SAM, config: ModelConfig, asked: PromptEmbeddings, clip: list[torch.Tensor], device: torch.device
) -> float:
    """Median of the same model as its publishers would run it."""
    reference, times = ReferenceFrame(model.segmentor, config), []
    for number in range(config.memory.slots + 1 + len(clip)):
        started = time.perf_counter()
        # fp32 weights under autocast: how the published code runs in bf16.
        with torch.autocast(device.type, torch.bfloat16, enabled=clip[0].dtype == torch.bfloat16):
            reference.step(clip[number % len(clip)], asked)
        wait_for(device)
        times.append((time.perf_counter() - started) * 1e3)
    return float(np.median(times[config.memory.slots + 1 :]))


def print_table(rows: list[Row]) -> None:
    settings, times = ("side", "slots", "precision", "frames"), ("p50 ms", "p99 ms", "ahead ms", "eager ms", "×")
    table = Table(*settings, *times, "peak MiB", "taken", "grown MiB", *rows[0].stages, title="one frame")
    for row in rows:
        numbers = (row.p50_ms, row.p99_ms, row.ahead_ms, row.eager_ms, row.eager_ms / row.p50_ms, row.peak_mib)
        texts = (*(f"{number:.2f}" for number in numbers), str(row.taken), f"{row.grown_mib:.1f}")
        stages = (f"{p50:.2f} / {p99:.2f}" for p50, p99 in row.stages.values())
        table.add_row(str(row.side), str(row.slots), row.precision, str(row.frames), *texts, *stages)
    Console(width=200).print(table)


def attempts(
    settings: list[Setting], device: torch.device, deadline: Deadline, dry: bool
) -> tuple[list[Row], list[str]]:
    """Rows, and what became of the settings without one: a failure costs its row, not the run."""
    rows: list[Row] = []
    failures: list[str] = []
    for setting in settings:
        if rows and deadline.left <= 0:
            failures.append(f"{setting}: left out, the time is up")
            continue
        try:
            rows.append(measure(setting, device, deadline, alone=setting == LONG))
        except RuntimeError as error:
            failures.append(f"{setting}: {type(error).__name__}: {error}")
        if not dry:
            save("gpu_frame", [asdict(row) for row in rows])
    return rows, failures


def main() -> int:
    """Returns 1 when a setting failed or was left out, memory grew or was taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="64², a few frames, on the CPU")
    parser.add_argument("--seconds", type=float, default=170, help="what all together may take; default: 170")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device; use --dry-run")
    device = torch.device("cpu") if options.dry_run else torch.device("cuda", 0)
    print(f"kernels: {available()}")
    settings = DRY if options.dry_run else [*FULL, LONG]
    deadline = Deadline(time.monotonic() + options.seconds)
    rows, failures = attempts(settings, device, deadline, options.dry_run)
    if rows:
        print_table(rows)
    print("\n".join(failures))
    if options.dry_run:
        print(json.dumps([asdict(row) for row in rows]))
    return int(bool(failures) or any(row.taken or row.grown_mib > 1 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
