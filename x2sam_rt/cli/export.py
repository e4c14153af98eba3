"""`x2sam-rt export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from x2sam_rt.cli.terminal import console, progress_bar, reporting
from x2sam_rt.runtime.engines import BACKENDS

EMBEDDED = "toy"

if TYPE_CHECKING:
    from x2sam_rt.model.precision import Precision
    from x2sam_rt.model.quantization import LanguageWeights

    EngineName = str
    PrecisionName = str
    LanguageWeightsName = str
else:  # what help, completion and the check of arguments show is what the table holds
    EngineName = StrEnum("EngineName", {name: name for name in BACKENDS})
    PrecisionName = StrEnum("PrecisionName", {name: name for row in BACKENDS.values() for name in row.precisions})
    LanguageWeightsName = StrEnum("LanguageWeightsName", ["full", "int8", "int4"])
_COMPUTES = "; ".join(f"{row.name}: {', '.join(row.precisions)}" for row in BACKENDS.values())


def export(
    checkpoint: Annotated[
        str, typer.Argument(help=f'Checkpoint file or folder, or "{EMBEDDED}" for the embedded one.')
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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
) -> None:
    """Turn a trained checkpoint into a bundle of engines.

    Example: x2sam-rt export pytorch_model.bin --vlm Qwen/Qwen3-VL-4B-Instruct -o bundle
    """
    from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
    from x2sam_rt.model.checkpoint.files import embedded_checkpoint
    from x2sam_rt.model.checkpoint.loading import load_checkpoint

    with reporting(), progress_bar() as progress:
        bar = progress.add_task("load checkpoint", total=8)
        step = ""

        def show(what: str) -> None:
            nonlocal step
            step = what
            progress.update(bar, advance=1, description=step)

        def show_part(what: str, done: float) -> None:
            progress.update(bar, description=f"{step}: {what.lower()} {done:.0%}")

        path = embedded_checkpoint() if checkpoint == EMBEDDED else Path(checkpoint)
        loaded = load_checkpoint(path, vlm=vlm, config=config, tokenizer=tokenizer)
        weights = cast("LanguageWeights", str(language_weights))
        names = tuple(name.strip() for name in targets.split(",") if name.strip())
        plan = ExportPlan(loaded, str(engine), cast("Precision", str(precision)), names, weights)
        manifest = export_bundle(
            plan,
            output,
            overwrite=overwrite,
            on_step=show,
            on_progress=show_part,
        )
        progress.update(bar, completed=8, description="done")
    console.print(
        f"{output}: {len(manifest.stages)} stages for {manifest.backend}, {manifest.num_bytes / 2**20:.1f} MiB"
    )
