"""`x2sam-rt run`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from x2sam_rt.cli.options import (
    AskAgain,
    Bundle,
    Context,
    Device,
    Names,
    Overwrite,
    Phrases,
    Regions,
    TaskName,
    Threshold,
    Truncated,
    Video,
    asked,
)
from x2sam_rt.cli.terminal import console, error_console, linked_text, print_text, reporting, with_progress
from x2sam_rt.tasks.table import task

if TYPE_CHECKING:
    from x2sam_rt.runtime.results import FrameResult
    from x2sam_rt.runtime.writers.opening import RunOutputs


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
    stop: Annotated[
        list[str] | None, typer.Option(help="A text that ends a generated answer where it begins; repeat for several.")
    ] = None,
    ask_again: AskAgain = "once",
    context: Context = None,
    threshold: Threshold = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output", "-o", help=".mp4, .mkv: overlay video; .png, .jpg: overlay image; .jsonl: COCO RLE masks."
        ),
    ] = None,
    davis: Annotated[Path | None, typer.Option(help="Folder for indexed PNGs in the DAVIS layout.")] = None,
    panoptic: Annotated[Path | None, typer.Option(help="Folder for COCO panoptic PNGs and JSON.")] = None,
    overwrite: Overwrite = False,
    keep_partial: Annotated[
        bool, typer.Option("--keep-partial", help="Stopped by Ctrl-C, keep the frames that are done.")
    ] = False,
    alpha: Annotated[float, typer.Option(help="Strength of an overlay's fill, 0 to 1.")] = 0.5,
    outline: Annotated[int | None, typer.Option(help="Width of its outlines, pixels; default by size.")] = None,
    legend: Annotated[
        bool | None,
        typer.Option(
            "--legend/--no-legend", help="List all segments in a corner; default: those with no name on them."
        ),
    ] = None,
    allow_truncated: Truncated = False,
    device: Device = None,
) -> None:
    """Segment a video or an image.

    Example: x2sam-rt run bundle --video clip.mp4 --prompt "the jumping boy" -o masked.mp4
    """
    from x2sam_rt.errors import PromptError
    from x2sam_rt.media.image import read_image
    from x2sam_rt.media.video import VideoReader
    from x2sam_rt.runtime.asking import ReAsk
    from x2sam_rt.runtime.run import answer_video
    from x2sam_rt.runtime.runtime import Runtime
    from x2sam_rt.runtime.writers import OverlayStyle
    from x2sam_rt.runtime.writers.opening import OutputPlan, RunOutputs

    media = video or image
    if media is None or (video and image):
        raise typer.BadParameter("give one of --video and --image", param_hint="--video / --image")
    with reporting():
        instruction = replace(
            asked(task_name, prompt, things, stuff, region, threshold),
            explain=explain,
            generate=generate,
            answer=answer,
            max_new_tokens=max_new_tokens,
            stop=tuple(stop or ()),
        )
        again = ReAsk.parse(ask_again)
        style = OverlayStyle(alpha, outline, legend)
        plan = OutputPlan(tuple(output or ()), davis, panoptic, overwrite, keep_partial, style, instruction.regions)
        if plan.paths(media) and not task(instruction.task).draws_masks:
            raise PromptError(
                f"{instruction.task} answers in words: there is nothing to write to {plan.paths(media)[0]}."
            )
        load = partial(Runtime.load, bundle, device=device, context=context)
        if image:
            pixels = read_image(image)
            with RunOutputs(plan, image, None) as outputs, load() as runtime:
                result = runtime.segment_image(pixels, instruction)
                outputs.write(pixels, result)
            _print_result(result)
        elif not task(instruction.task).draws_masks:
            with load() as runtime:
                answer_video(runtime, media, instruction, allow_truncated=allow_truncated, on_text=print_text)
            console.print()
        else:
            with (
                VideoReader(media, allow_truncated=allow_truncated) as source,
                RunOutputs(plan, media, source.frame_rate) as outputs,
                _saying_what_is_kept(outputs, plan.paths(media)),
                load() as runtime,
            ):
                for frame in with_progress(runtime, source, instruction, [outputs], again):
                    last = frame.result
            _print_result(last)
            console.print(f"{last.index + 1} frames; last frame above.")


@contextmanager
def _saying_what_is_kept(outputs: RunOutputs, paths: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if paths:
            names = ", ".join(map(str, paths))
            said = "are kept in" if outputs.kept else "are not kept (--keep-partial keeps them) in"
            error_console.print(f"{outputs.frames} frames {said} {names}", markup=False, soft_wrap=True)
        raise


def _print_result(result: FrameResult) -> None:
    if result.text:
        console.print(linked_text(result))
    if not result.segments:
        console.print("no segments")
    for segment in result.segments:
        console.print(f"{segment.id:4d}  {segment.score:.3f}  {segment.area:9d} px  {segment.label}", markup=False)
