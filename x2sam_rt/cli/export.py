"""`x2sam-rt export`."""

from __future__ import annotations

import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from x2sam_rt.cli.terminal import console, error_console, progress_bar, reporting
from x2sam_rt.config import Turns
from x2sam_rt.runtime.engines import BACKENDS

EMBEDDED = "toy"

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
    LanguagePrecision = PrecisionName
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
    from x2sam_rt.model.checkpoint.files import embedded_checkpoint
    from x2sam_rt.model.checkpoint.loading import load_checkpoint
    from x2sam_rt.model.knobs import ModelKnobs

    backend, computes = str(engine), cast("Precision", str(precision))
    spoken = cast("Precision | None", None if language_precision is None else str(language_precision))
    names = tuple(name.strip() for name in targets.split(",") if name.strip())
    with reporting():
        check_request(backend, computes, names, output, overwrite)
        path = embedded_checkpoint() if checkpoint == EMBEDDED else checkpoint
        opened = load_checkpoint(path, vlm=vlm, config=config, tokenizer=tokenizer)
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
        plan = ExportPlan(opened, backend, computes, names, rounded, spoken, verify=not no_verify)
        if plan_only:
            console.print(_needs_table(plan))
            return
        error_console.print(_needs_table(plan))  # the result alone is the output
        with progress_bar() as progress:
            shown = _Shown(progress, len(plan.contracts) + 2)
            manifest = export_bundle(plan, output, overwrite=overwrite, on_step=shown.step, on_progress=shown.part)
    console.print(
        f"{output}: {len(manifest.stages)} stages for {manifest.backend}, {manifest.num_bytes / 2**20:.1f} MiB"
    )


class _Shown:
    """Progress on a terminal; a line per step where there is none."""

    def __init__(self, progress: Progress, steps: int) -> None:
        self._progress, self._step = progress, ""
        self._bar = progress.add_task("export", total=steps)
        self._started = time.monotonic()

    def step(self, what: str) -> None:
        if self._step:
            self._progress.update(self._bar, advance=1)
        self._step = what
        self._progress.update(self._bar, description=what)
        if not self._progress.console.is_terminal:
            self._progress.console.print(f"{time.monotonic() - self._started:7.1f} s  {what}")

    def part(self, what: str, done: float) -> None:
        self._progress.update(self._bar, description=f"{self._step}: {what} {done:.0%}")


def _needs_table(plan: ExportPlan) -> Table:
    from rich.table import Table

    from x2sam_rt.export.needs import free_memory, gigabytes
    from x2sam_rt.model.cost import frame_flop
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
        "time": f"at least {needs.seconds:.0f} s to read and write" + (", and the checks" if plan.verify else ""),
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table
