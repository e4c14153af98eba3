"""A whole frame on a GPU: recorded as a graph, stage by stage, and beside the same model run eagerly in one process.

    python benchmarks/gpu_frame.py              # on the GPU machine
    python benchmarks/gpu_frame.py --dry-run    # anywhere: the same path at 64², on the CPU

Status: only dry-run so far; not yet run on a GPU.

Random weights of the published widths (SAM 2.1 tiny's trunk), 20 conditions. While frames are measured, anything that
makes the host wait is an error, and memory taken from the driver is counted. Last, a long stream at 256² must not grow.
Prints a table and writes results/gpu_frame.json; a dry run writes nothing there.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
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
from x2sam_rt.model.precision import Precision, cast_weights, dtype_of
from x2sam_rt.model.prompt_encoder import PromptEmbeddings
from x2sam_rt.model.stages import stage_contracts, stage_module
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.device import wait_for
from x2sam_rt.runtime.engines.engine import Engines
from x2sam_rt.runtime.engines.torch_engine import TorchEngine
from x2sam_rt.runtime.pipeline import Pipeline

LOOP = 16  # different frames, shown in turn


@dataclass(frozen=True)
class Setting:
    side: int
    slots: int
    precision: Precision
    frames: int


@dataclass(frozen=True)
class Row:
    """Milliseconds per frame; stages: medians, each waited for. peak_mib: of PyTorch's allocator, weights included.
    taken: pieces of memory asked of the driver after the warm-up. grown_mib: from the first measured frame to the last.
    """

    side: int
    slots: int
    precision: str
    frames: int
    p50_ms: float
    p99_ms: float
    eager_ms: float
    stages: dict[str, float]
    peak_mib: float
    taken: int
    grown_mib: float


FULL = [Setting(side, slots, "bf16", 100) for side in (1024, 512) for slots in (5, 8)]
LONG = Setting(256, 5, "bf16", 10_000)
DRY = [Setting(64, slots, "fp32", 4) for slots in (2, 3)]


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


def measure(setting: Setting, device: torch.device, *, eager: bool = True) -> Row:
    torch.manual_seed(0)
    config = full_width(setting.side)
    config = replace(config, memory=replace(config.memory, slots=setting.slots))
    model = random_model(config).to(device)
    asked = PromptEmbeddings(*(tensor.to(device) for tensor in vars(random_prompt(config)).values()))
    clip = [frame.to(device, dtype_of(setting.precision)) for frame in moving_clip(config.image_size, LOOP)]
    own = cast_weights(copy.deepcopy(model), dtype_of(setting.precision)) if setting.precision != "fp32" else model
    engines = engines_on(own, setting.precision, device)
    times, peak, taken, grown = measure_recorded(Pipeline(engines, config), asked, clip, setting.frames, device)
    stages = measure_stages(engines, config, asked, clip)
    eager_ms = measure_eager(model, config, asked, clip, device) if eager else float("nan")
    p50, p99 = (float(value) for value in np.percentile(times, (50, 99)))
    return Row(
        setting.side, setting.slots, setting.precision, setting.frames, p50, p99, eager_ms, stages, peak, taken, grown
    )


def measure_recorded(
    pipeline: Pipeline, asked: PromptEmbeddings, clip: list[torch.Tensor], frames: int, device: torch.device
) -> tuple[list[float], float, int, float]:
    """Milliseconds of each frame; peak MiB, pieces taken from the driver, MiB grown."""
    for number in range(2 * pipeline.bank.slots + 2):
        pipeline.step(clip[number % LOOP], asked)
    before = memory(device)
    times = []
    for number in range(frames):
        started = time.perf_counter()
        with waiting_forbidden(device):
            pipeline.step(clip[number % LOOP], asked)
        wait_for(device)
        times.append((time.perf_counter() - started) * 1e3)
    after = memory(device)
    return times, after[1], after[2] - before[2], after[0] - before[0]


def memory(device: torch.device) -> tuple[float, float, int]:
    """MiB in use, MiB at the peak, pieces taken from the driver so far; of a CPU nothing is known."""
    if device.type != "cuda":
        return 0.0, 0.0, 0
    stats = torch.cuda.memory_stats(device)
    used, peak = stats["allocated_bytes.all.current"], stats["allocated_bytes.all.peak"]
    return used / 2**20, peak / 2**20, int(stats["num_device_alloc"])


def measure_stages(
    engines: Engines, config: ModelConfig, asked: PromptEmbeddings, clip: list[torch.Tensor]
) -> dict[str, float]:
    pipeline = Pipeline(engines.waited_for(), config)
    taken = []
    for number in range(config.memory.slots + 1 + LOOP):
        pipeline.step(clip[number % LOOP], asked)
        taken.append(pipeline.timer.take())
    steady = taken[config.memory.slots + 1 :]
    return {name: float(np.median([frame[name] for frame in steady])) for name in steady[0]}


def measure_eager(
    model: X2SAM, config: ModelConfig, asked: PromptEmbeddings, clip: list[torch.Tensor], device: torch.device
) -> float:
    """Median of the same model as its publishers would run it."""
    reference, times = ReferenceFrame(model.segmentor, config), []
    for number in range(config.memory.slots + 1 + LOOP):
        started = time.perf_counter()
        # fp32 weights under autocast: how the published code runs in bf16.
        with torch.autocast(device.type, torch.bfloat16, enabled=clip[0].dtype == torch.bfloat16):
            reference.step(clip[number % LOOP], asked)
        wait_for(device)
        times.append((time.perf_counter() - started) * 1e3)
    return float(np.median(times[config.memory.slots + 1 :]))


def print_table(rows: list[Row]) -> None:
    settings, times = ("side", "slots", "precision", "frames"), ("p50 ms", "p99 ms", "eager ms", "×")
    table = Table(*settings, *times, "peak MiB", "taken", "grown MiB", *rows[0].stages, title="one frame")
    for row in rows:
        numbers = (row.p50_ms, row.p99_ms, row.eager_ms, row.eager_ms / row.p50_ms, row.peak_mib)
        texts = (*(f"{number:.2f}" for number in numbers), str(row.taken), f"{row.grown_mib:.1f}")
        stages = (f"{value:.2f}" for value in row.stages.values())
        table.add_row(str(row.side), str(row.slots), row.precision, str(row.frames), *texts, *stages)
    Console(width=200).print(table)


def attempt(measurement: Callable[[], Row]) -> Row | str:
    """A setting that fails costs its row, not the run."""
    try:
        return measurement()
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"


def main() -> int:
    """Returns 1 when a setting failed, memory grew or was taken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="64², a few frames, on the CPU")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device; use --dry-run")
    device = torch.device("cpu") if options.dry_run else torch.device("cuda", 0)
    settings = DRY if options.dry_run else FULL
    found = [attempt(lambda setting=setting: measure(setting, device)) for setting in settings]  # type: ignore[misc]
    if not options.dry_run:
        found.append(attempt(lambda: measure(LONG, device, eager=False)))
    rows, failures = [one for one in found if isinstance(one, Row)], [one for one in found if isinstance(one, str)]
    if rows:
        print_table(rows)
    print("\n".join(failures))
    contents = [asdict(row) for row in rows]
    print(json.dumps(contents) if options.dry_run else f"written to {save('gpu_frame', contents)}")
    return int(bool(failures) or any(row.taken or row.grown_mib > 1 for row in rows))


if __name__ == "__main__":
    sys.exit(main())
