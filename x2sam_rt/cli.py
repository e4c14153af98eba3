"""The command line: export, run, verify, inspect, profile, eval, train."""

from __future__ import annotations

import time
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from x2sam_rt import cli_eval, cli_train
from x2sam_rt.errors import PromptError, VerificationError
from x2sam_rt.model.embedded import EMBEDDED, embedded_checkpoint
from x2sam_rt.runtime.asking import Ask
from x2sam_rt.runtime.postprocess.options import PostProcessOptions
from x2sam_rt.runtime.prompts import parse_region
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.tasks import TASKS, task
from x2sam_rt.terminal import console, linked_text, print_text, progress_bar, reporting, warn_untrained, with_progress

_EPILOG = "Exit codes: 0 done · 1 an error, which says what to do · 2 wrong usage · 3 engines out of bounds."
app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Run X2SAM as a live stream.", epilog=_EPILOG)
app.add_typer(cli_train.app, name="train")
app.command("eval", epilog=_EPILOG)(cli_eval.evaluate)


class EngineName(StrEnum):
    onnxruntime = "onnxruntime"
    torch = "torch"


class PrecisionName(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"


Bundle = Annotated[Path, typer.Argument(help="Folder made by `x2sam-rt export`.")]
Video = Annotated[Path | None, typer.Option(help="Video file to stream.")]
Phrases = Annotated[list[str] | None, typer.Option("--prompt", "-p", help="What to look for; repeat for several.")]
TaskName = Annotated[str, typer.Option("--task", "-t", help=f"One of: {', '.join(TASKS)}.")]
Names = Annotated[str, typer.Option(help="Category names, separated by commas.")]
Regions = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        "-r",
        help='"point:x,y", "box:x0,y0,x1,y1", "scribble:x,y;x,y;…" or "mask:file.png", with "@frame" behind.',
    ),
]
Threshold = Annotated[float | None, typer.Option(help="Least score of a result, 0…1; default: the task's own.")]
Truncated = Annotated[bool, typer.Option("--allow-truncated", help="Keep the frames before a break in the file.")]


@app.command(epilog=_EPILOG)
def export(
    checkpoint: Annotated[
        str, typer.Argument(help=f'Checkpoint file or folder, or "{EMBEDDED}" for the embedded one.')
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to make.")],
    vlm: Annotated[str | None, typer.Option(help="Base Qwen3-VL of a training checkpoint: folder or hub name.")] = None,
    engine: Annotated[EngineName, typer.Option(help="What runs the stages.")] = EngineName.onnxruntime,
    precision: Annotated[PrecisionName, typer.Option(help="bf16 needs --engine torch.")] = PrecisionName.fp32,
    config: Annotated[Path | None, typer.Option(help="Model configuration; default: beside the checkpoint.")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Tokenizer folder; default: beside the checkpoint.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a bundle that is there.")] = False,
) -> None:
    """Turn a trained checkpoint into a bundle of engines.

    Example: x2sam-rt export pytorch_model.bin --vlm Qwen/Qwen3-VL-4B-Instruct -o bundle
    """
    from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
    from x2sam_rt.model.checkpoint import load_checkpoint

    with reporting(), progress_bar() as progress:
        bar = progress.add_task("load checkpoint", total=8)
        path = embedded_checkpoint() if checkpoint == EMBEDDED else Path(checkpoint)
        loaded = load_checkpoint(path, vlm=vlm, config=config, tokenizer=tokenizer)
        plan = ExportPlan(loaded, engine.value, precision.value)
        manifest = export_bundle(
            plan,
            output,
            overwrite=overwrite,
            on_step=lambda step: progress.update(bar, advance=1, description=step),
        )
        progress.update(bar, completed=8, description="done")
    console.print(
        f"{output}: {len(manifest.stages)} stages for {manifest.backend}, {manifest.num_bytes / 2**20:.1f} MiB"
    )


@app.command(epilog=_EPILOG)
def run(
    bundle: Bundle,
    video: Video = None,
    image: Annotated[Path | None, typer.Option(help="Image file.")] = None,
    prompt: Phrases = None,
    task_name: TaskName = "referring",
    things: Names = "",
    stuff: Names = "",
    region: Regions = None,
    explain: Annotated[bool, typer.Option("--explain", help="Have the answer explained (reasoning).")] = False,
    generate: Annotated[bool, typer.Option("--generate", help="Let the model write its answer.")] = False,
    answer: Annotated[
        str | None, typer.Option(help="Take this text as the answer, with its <p>…</p> and <SEG>.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Where a generated answer is cut off.")] = 2048,
    threshold: Threshold = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output", "-o", help=".mp4, .mkv: overlay video; .png, .jpg: overlay image; .jsonl: COCO RLE masks."
        ),
    ] = None,
    davis: Annotated[Path | None, typer.Option(help="Folder for indexed PNGs in the DAVIS layout.")] = None,
    panoptic: Annotated[Path | None, typer.Option(help="Folder for COCO panoptic PNGs and JSON.")] = None,
    allow_truncated: Truncated = False,
) -> None:
    """Segment a video or an image.

    Example: x2sam-rt run bundle --video clip.mp4 --prompt "the jumping boy" -o masked.mp4
    """
    from x2sam_rt.runtime.run import answer_video, run_image
    from x2sam_rt.runtime.runtime import Runtime
    from x2sam_rt.runtime.writers.opening import open_writers

    media = video or image
    if media is None or (video and image):
        raise typer.BadParameter("give one of --video and --image", param_hint="--video / --image")
    with reporting():
        asked = _ask(task_name, prompt, things, stuff, region, threshold)
        ask = replace(asked, explain=explain, generate=generate, answer=answer, max_new_tokens=max_new_tokens)
        with Runtime.load(bundle) as runtime:
            warn_untrained(runtime.manifest.trained)
            if video and not task(ask.task).draws_masks:
                answer_video(runtime, video, ask, allow_truncated=allow_truncated, on_text=print_text)
                console.print()
                return
            writers = open_writers(media, output or [], davis, panoptic)
            if image:
                _print_result(run_image(runtime, image, ask, writers))
                return
            for frame in with_progress(runtime, media, ask, writers, allow_truncated):
                last = frame.result
            _print_result(last)
            console.print(f"{last.index + 1} frames; last frame above.")


@app.command(epilog=_EPILOG)
def verify(bundle: Bundle) -> None:
    """Check a bundle's engines against PyTorch on this machine, stage by stage and over a whole clip."""
    from x2sam_rt.export.verify import BOUNDS, verify_bundle
    from x2sam_rt.export.verify_report import verification_tables
    from x2sam_rt.runtime.bundle import load_manifest

    with reporting():
        with progress_bar() as progress:
            bar = progress.add_task("verify", total=None)
            checks = []
            for check in verify_bundle(bundle):
                checks.append(check)
                progress.update(bar, advance=1)
        bounds = BOUNDS[load_manifest(bundle).precision]
        for table in verification_tables(checks, bounds):
            console.print(table)
        failed = [check for check in checks if not check.passed(bounds)]
        if failed:
            raise VerificationError(
                f"{len(failed)} of {len(checks)} checks are out of bounds (marked above). "
                "Do not use this bundle here; export it again on this machine, or with --engine torch."
            )
    console.print(f"{len(checks)} checks passed.")


@app.command(epilog=_EPILOG)
def inspect(bundle: Bundle) -> None:
    """Show what a bundle holds: model, stages, precision, errors at export, what it was built with."""
    from x2sam_rt.runtime.bundle import load_manifest
    from x2sam_rt.runtime.inspect import manifest_tables

    with reporting():
        for table in manifest_tables(load_manifest(bundle)):
            console.print(table)


@app.command(epilog=_EPILOG)
def profile(
    bundle: Bundle,
    video: Annotated[Path, typer.Option(help="Video file to stream.")],
    prompt: Phrases = None,
    task_name: TaskName = "referring",
    things: Names = "",
    stuff: Names = "",
    region: Regions = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the profile as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write the profile as a PNG.")] = None,
    allow_truncated: Truncated = False,
) -> None:
    """Measure a stream: percentiles per stage, first-mask latency, frames per second, memory.

    Decoding and post-processing are in. Example: x2sam-rt profile bundle --video clip.mp4 --json profile.json
    """
    from x2sam_rt.runtime.profile import profile_run
    from x2sam_rt.runtime.profile_report import draw_profile, profile_table, write_profile
    from x2sam_rt.runtime.runtime import Runtime

    with reporting():
        if task_name == "referring" and not prompt:
            prompt = ["the object"]
        ask = _ask(task_name, prompt, things, stuff, region, None)
        with Runtime.load(bundle) as runtime:
            started = time.perf_counter()
            frames = with_progress(runtime, video, ask, [], allow_truncated)
            measured = profile_run(frames, runtime.manifest, started)
        console.print(profile_table(measured))
        if json_path is not None:
            write_profile(measured, json_path)
        if picture is not None:
            draw_profile(measured, picture)


def _ask(
    task_name: str,
    prompt: list[str] | None,
    things: str,
    stuff: str,
    region: list[str] | None,
    threshold: float | None,
) -> Ask:
    """The options of a command as an instruction. A task that takes a question gets the prompt as one."""
    takes = task(task_name).takes
    texts = tuple(prompt or ())
    question = None
    if "question" in takes:
        if len(texts) > 1:
            raise PromptError(f"{task_name} takes one question, but --prompt was given {len(texts)} times.")
        question, texts = (texts[0] if texts else None), ()
    return Ask(
        task=task_name,
        phrases=texts,
        things=_split(things),
        stuff=_split(stuff),
        regions=tuple(parse_region(text) for text in region or ()),
        question=question,
        options=PostProcessOptions(threshold=threshold),
    )


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",")) if names.strip() else ()


def _print_result(result: FrameResult) -> None:
    if result.text:
        console.print(linked_text(result))
    if not result.segments:
        console.print("no segments")
    for segment in result.segments:
        console.print(f"{segment.id:4d}  {segment.score:.3f}  {segment.area:9d} px  {segment.label}", markup=False)
