"""`x2sam-rt export`."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer
from rich.progress import TimeRemainingColumn
from rich.text import Text

from x2sam_rt.cli.options import EMBEDDED, checkpoint_named
from x2sam_rt.cli.terminal import console, error_console, progress_bar, reporting
from x2sam_rt.config import Turns
from x2sam_rt.runtime.engines import BACKENDS, find_backend

SECONDS_BETWEEN_LINES = 10.0
_SLOWER = 1.2
_TRACING = 1e8  # weights

if TYPE_CHECKING:
    from rich.progress import Progress
    from rich.table import Table

    from x2sam_rt.export.bundle_writer import ExportPlan
    from x2sam_rt.model.precision import Precision
    from x2sam_rt.model.quantization import LanguageWeights

    EngineName = str
    PrecisionName = str
    LanguagePrecision = str
    LanguageWeightsName = str
    TurnsName = str
else:  # what help, completion and the check of arguments show is what the table holds
    EngineName = StrEnum("EngineName", {name: name for name in BACKENDS})
    PrecisionName = StrEnum("PrecisionName", {name: name for row in BACKENDS.values() for name in row.precisions})
    LanguagePrecision = StrEnum("LanguagePrecision", ["fp32", "bf16"])
    LanguageWeightsName = StrEnum("LanguageWeightsName", ["full", "int8", "int4"])
    TurnsName = StrEnum("TurnsName", {name: name for name in get_args(Turns)})
_COMPUTES = "; ".join(f"{row.name}: {', '.join(row.precisions)}" for row in BACKENDS.values())


def export(
    checkpoint: Annotated[
        str, typer.Argument(help=f'Checkpoint file, folder or hub name, or "{EMBEDDED}" for the embedded one.')
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    vlm: Annotated[str | None, typer.Option(help="Base Qwen3-VL of a training checkpoint: folder or hub name.")] = None,
    engine: Annotated[EngineName, typer.Option(help="What runs the stages.")] = "onnxruntime",
    precision: Annotated[PrecisionName, typer.Option(help=f"What it computes in. {_COMPUTES}.")] = "fp32",
    language_weights: Annotated[
        LanguageWeightsName, typer.Option(help="What the text model's weights are rounded to; int8, int4: [quant].")
    ] = "full",
    targets: Annotated[
        str, typer.Option(help='GPUs that TensorRT engines are for: "sm86,sm89,sm120" (the default) or "this-gpu".')
    ] = "",
    config: Annotated[Path | None, typer.Option(help="Model configuration; default: beside the checkpoint.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer folder; default: beside the checkpoint.")] = None,
    sam2: Annotated[
        Path | None, typer.Option(help="SAM 2.1 checkpoint (.pt) whose image encoder takes the mask encoder's place.")
    ] = None,
    language_precision: Annotated[
        LanguagePrecision | None, typer.Option(help="Of the language side's weights; default: as the stages'.")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side of the segmentor's square input; default: what it was trained with.")
    ] = None,
    slots: Annotated[int | None, typer.Option(help="Frames the memory holds; default: as trained.")] = None,
    vision_budget: Annotated[
        int | None, typer.Option(help="Most pixels of an image that the language side sees; default: as published.")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Video of your own, for --precision int8: activations get the ranges they have there."),
    ] = None,
    memory_scales: Annotated[
        str | None, typer.Option(help='Approximation: scales that look at the memory, as "low" or "low+middle".')
    ] = None,
    memory_every: Annotated[
        int | None, typer.Option(help="Approximation: only every so-many-th frame is remembered.")
    ] = None,
    memory_reads: Annotated[
        TurnsName | None, typer.Option(help="Which frames look at the memory: frames = all; writes = those remembered.")
    ] = None,
    memory_gaps: Annotated[
        TurnsName | None, typer.Option(help="What a memory's age counts: frames = all; writes = those remembered.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Do not measure the stages against PyTorch.")] = False,
    plan_only: Annotated[bool, typer.Option("--plan", help="Print what the export takes, and stop.")] = False,
) -> None:
    """Turn a trained checkpoint into a bundle of engines.

    Example: x2sam-rt export pytorch_model.bin --vlm Qwen/Qwen3-VL-4B-Instruct -o bundle
    """
    from x2sam_rt.export.bundle_writer import ExportPlan, check_request, export_bundle
    from x2sam_rt.export.int8 import Calibration, check_calibration
    from x2sam_rt.model.checkpoint.loading import load_checkpoint
    from x2sam_rt.model.knobs import ModelKnobs

    backend, computes = str(engine), cast("Precision", str(precision))
    spoken = cast("Precision | None", None if language_precision is None else str(language_precision))
    names = tuple(name.strip() for name in targets.split(",") if name.strip())
    with reporting():
        check_request(backend, computes, names, output, overwrite)
        calibration = None if calibrate is None else Calibration(calibrate)
        check_calibration(computes, calibration)
        opened = load_checkpoint(checkpoint_named(checkpoint), vlm=vlm, config=config, tokenizer=tokenizer, sam2=sam2)
        turned = {
            "image_size": image_size,
            "slots": slots,
            "vision_budget": vision_budget,
            "memory_scales": memory_scales,
            "memory_every": memory_every,
            "memory_reads": memory_reads,
            "memory_gaps": memory_gaps,
        }
        knobs = ModelKnobs.parse([f"{name}={value}" for name, value in turned.items() if value is not None])
        opened = replace(opened, config=knobs.turned(opened.config))
        rounded = cast("LanguageWeights", str(language_weights))
        plan = ExportPlan(
            opened, backend, computes, names, rounded, spoken, verify=not no_verify, calibration=calibration
        )
        (console if plan_only else error_console).print(_needs_table(plan))  # of an export, the result is the output
        _warn_of_slow_precision(plan)
        if plan_only:
            return
        with progress_bar(TimeRemainingColumn()) as progress:
            shown = _Shown(progress, _shares(plan))
            manifest = export_bundle(plan, output, overwrite=overwrite, on_step=shown.step, on_progress=shown.part)
    console.print(
        f"{output}: {len(manifest.stages)} stages for {manifest.backend}, {manifest.num_bytes / 2**20:.1f} MiB"
    )


def _shares(plan: ExportPlan) -> dict[str, float]:
    """What the steps take of the time, against each other: tracing a graph has its price whatever the stage's size,
    and a weight that is only written or hashed costs a tenth of one that is built into an engine."""
    written = sum(plan.needs.stage_parameters.values()) + plan.needs.language_parameters
    built = {name: _TRACING + count for name, count in plan.needs.stage_parameters.items()}
    return {**built, "weights": written / 10, "manifest": written / 10}


class _Shown:
    """Progress on a terminal; where there is none, a line per step and, in long steps, one now and then."""

    def __init__(self, progress: Progress, shares: Mapping[str, float]) -> None:
        """shares: of the time, by step."""
        self._progress, self._shares, self._step = progress, shares, ""
        self._bar = progress.add_task("export", total=sum(shares.values()))
        self._done, self._started = 0.0, time.monotonic()
        self._said = self._started

    def step(self, what: str) -> None:
        self._done += self._shares.get(self._step, 0)
        self._step = what
        self._progress.update(self._bar, completed=self._done, description=what)
        self._say(what)

    def part(self, what: str, done: float) -> None:
        completed = self._done + done * self._shares.get(self._step, 0)
        self._progress.update(self._bar, completed=completed, description=f"{self._step}: {what} {done:.0%}")
        if time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._say(f"{self._step}: {what} {done:.0%}")

    def _say(self, text: str) -> None:
        if self._progress.console.is_terminal:
            return
        self._said = time.monotonic()
        remaining = self._progress.tasks[self._bar].time_remaining
        left = "" if remaining is None else f", about {remaining:.0f} s left"
        self._progress.console.print(f"{self._said - self._started:7.1f} s  {text}{left}")


def _warn_of_slow_precision(plan: ExportPlan) -> None:
    if plan.precision == "bf16" and find_backend(plan.backend).home == "cpu" and (share := _bf16_share()) > _SLOWER:
        error_console.print(
            Text("warning:", "yellow"),
            f"on this processor a matrix product in bf16 takes {share:.1f} times as long as "
            "in fp32: it has neither AVX512-bf16 nor AMX. Unless the bundle is for another machine or a GPU, export "
            "with --precision fp32.",
            soft_wrap=True,
        )


@functools.cache
def _bf16_share() -> float:
    from x2sam_rt.model.precision import bf16_share

    return bf16_share()


def _suited() -> str:
    """What runs fastest on this machine's processor, and why."""
    share = _bf16_share()
    if share < 1:
        return f"--engine torch --precision bf16: a matrix product takes {share:.2f} of the time it takes in fp32"
    return f"--engine onnxruntime --precision fp32: a matrix product in bf16 takes {share:.1f} times as long"


def _needs_table(plan: ExportPlan) -> Table:
    from rich.table import Table

    from x2sam_rt.export.needs import gigabytes
    from x2sam_rt.model.cost import frame_flop
    from x2sam_rt.runtime.needs import free_memory
    from x2sam_rt.runtime.profile_report import quantity

    needs, config = plan.needs, plan.checkpoint.config
    free = free_memory()
    table = Table(show_header=False, title=f"export for {plan.backend}, {plan.precision}")
    rows = {
        "language side": f"{needs.language_parameters / 1e6:.1f} million weights in {plan.language}",
        **{name: f"{count / 1e6:.1f} million weights" for name, count in needs.stage_parameters.items()},
        "input": f"{config.image_size}×{config.image_size}, {config.memory.slots} slots",
        "pixels seen by the language side": f"{config.image_budget.max_pixels} of an image, "
        f"{config.video_budget.max_pixels} of a video",
        "work of a frame": f"{quantity(frame_flop(config), 'FLOP')} with a full memory"
        + "".join(f"; approximation: {name} {value}" for name, value in config.memory.approximations.items()),
        "disk": gigabytes(needs.disk),
        "memory": f"at most {gigabytes(needs.memory)}; free: {'unknown' if free is None else gigabytes(free)}",
        "suits this processor": _suited(),
        "time": f"at least {needs.seconds:.0f} s to read and write" + (", and the checks" if plan.verify else ""),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
