"""`x2sam-rt run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    ModelKnob,
    Names,
    Overwrite,
    Phrases,
    Regions,
    TaskName,
    Threads,
    Threshold,
    Truncated,
    Video,
    asked,
    use_threads,
)
from x2sam_rt.cli.terminal import (
    GrowingAnswer,
    console,
    error_console,
    linked_text,
    printable,
    reporting,
    with_progress,
)
from x2sam_rt.tasks.table import task

if TYPE_CHECKING:
    from x2sam_rt.media.source import FrameSource
    from x2sam_rt.model.knobs import ModelKnobs
    from x2sam_rt.runtime.asking import ReAsk
    from x2sam_rt.runtime.results import FrameResult
    from x2sam_rt.runtime.runtime import Runtime
    from x2sam_rt.runtime.writers.opening import OutputPlan, RunOutputs
    from x2sam_rt.tasks.instruction import Instruction

Load = Callable[[], "Runtime"]


def run(
    bundle: Bundle,
    source: Annotated[
        list[str] | None,
        typer.Argument(
            help="A video, an image; a folder, pattern or .txt list of images; a camera (0); an address (rtsp://…); - "
            "for standard input."
        ),
    ] = None,
    video: Video = None,
    image: Annotated[Path | None, typer.Option(help="Image file.")] = None,
    prompt: Phrases = None,
    task_name: TaskName = "referring",
    things: Names = "",
    stuff: Names = "",
    region: Regions = None,
    avoid: Annotated[
        list[str] | None, typer.Option(help="What is not meant, as --region (interactive, object, vgd).")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Have the answer explained (reasoning).")] = False,
    generate: Annotated[bool, typer.Option("--generate", help="Let the model write its answer.")] = False,
    answer: Annotated[
        str | None, typer.Option(help="Take this text as the answer, with its <p>…</p> and <SEG>.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Where a generated answer is cut off.")] = 2048,
    stop: Annotated[
        list[str] | None, typer.Option(help="A text that ends a generated answer where it begins; repeat for several.")
    ] = None,
    wording: Annotated[
        Path | None, typer.Option(help="Words for questions and known answers: an edited copy of the bundle's own.")
    ] = None,
    ask_again: AskAgain = "once",
    context: Context = None,
    knob: ModelKnob = None,
    threshold: Threshold = None,
    presence: Annotated[
        float | None, typer.Option(help="Show nothing that scores less, 0…1: nothing here looks like that.")
    ] = None,
    output: Annotated[
        list[Path] | None,
        typer.Option(
            "--output",
            "-o",
            help=".mp4, .mkv, .mov, .webm: overlay video; .png, .jpg: overlay image; .jsonl: COCO RLE masks.",
        ),
    ] = None,
    davis: Annotated[Path | None, typer.Option(help="Folder for indexed PNGs in the DAVIS layout.")] = None,
    panoptic: Annotated[Path | None, typer.Option(help="Folder for COCO panoptic PNGs and JSON.")] = None,
    matte: Annotated[
        Path | None, typer.Option(help="White where a segment is: a video, an image, or a folder of PNGs.")
    ] = None,
    cutout: Annotated[
        Path | None,
        typer.Option(
            help="Segments without their background: .mov (ProRes 4444), .webm, .mkv (VP9), .png, or a folder of PNGs."
        ),
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="h264, hevc, av1, vp9 or prores, for -o and --matte; default: by suffix.")
    ] = None,
    crf: Annotated[int | None, typer.Option(help="Its quality, 0 (best) to 51 or 63.")] = None,
    sound: Annotated[bool, typer.Option("--sound/--no-sound", help="Copy the sound of a file to its videos.")] = True,
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
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--no-live",
            help="Answer on the first frame, and of cameras and streams take the newest only; default: so for those.",
        ),
    ] = None,
    start: Annotated[float, typer.Option(help="Begin at this second of the source.")] = 0.0,
    end: Annotated[float | None, typer.Option(help="End before this second.")] = None,
    stride: Annotated[int, typer.Option(help="Take every so many frames only.")] = 1,
    max_frames: Annotated[int | None, typer.Option(help="Stop after so many frames.")] = None,
    raw_size: Annotated[
        str | None, typer.Option(help="WIDTHxHEIGHT of plain RGB bytes on standard input, 25 frames a second.")
    ] = None,
    allow_truncated: Truncated = False,
    allow_playlists: Annotated[
        bool, typer.Option("--allow-playlists", help="Read files that open others on this machine (.m3u8, ffconcat).")
    ] = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Segment a video, images, a camera or a stream.

    Example: x2sam-rt run bundle clip.mp4 --prompt "the jumping boy" -o masked.mp4
    """
    from x2sam_rt.media.encoding import Encoding
    from x2sam_rt.media.source import Part
    from x2sam_rt.media.sources import is_one_image, open_source
    from x2sam_rt.model.knobs import ModelKnobs
    from x2sam_rt.runtime.asking import ReAsk
    from x2sam_rt.runtime.writers import OverlayStyle
    from x2sam_rt.runtime.writers.opening import OutputPlan

    given = [*(source or ()), *(str(one) for one in (video, image) if one is not None)]
    if len(given) != 1:
        raise typer.BadParameter(
            f"give one source, as SOURCE, --video or --image; {len(given)} were given (of several images their folder, "
            'or a pattern in quotes: "shots/*.png"; several videos: x2sam-rt batch)'
        )
    address = given[0]
    with reporting():
        use_threads(threads)
        meant = asked(task_name, prompt, things, stuff, region, threshold, avoid)
        instruction = replace(
            meant,
            options=replace(meant.options, presence=presence),
            explain=explain,
            generate=generate,
            answer=answer,
            max_new_tokens=max_new_tokens,
            stop=tuple(stop or ()),
        )
        again = ReAsk.parse(ask_again)
        plan = OutputPlan(
            outputs=tuple(output or ()),
            davis=davis,
            panoptic=panoptic,
            matte=matte,
            cutout=cutout,
            overwrite=overwrite,
            keep_partial=keep_partial,
            style=OverlayStyle(alpha, outline, legend),
            regions=instruction.regions,
            encoding=Encoding(codec, crf),
            sound=sound,
        )
        part = Part(start, end, stride, max_frames)
        knobs = ModelKnobs.parse(knob or ())
        load = partial(_load, bundle, device, context, knobs, wording)
        opened = partial(
            open_source,
            address,
            part,
            live=live,
            allow_truncated=allow_truncated,
            allow_playlists=allow_playlists,
            raw_size=_size(raw_size),
        )
        if image is not None or is_one_image(address):
            _run_image(load, Path(address), instruction, plan)
        elif task(instruction.task).draws_masks:
            _run_frames(load, opened, instruction, plan, again)
        else:
            _run_words(load, opened, instruction, plan)


def _load(bundle: Path, device: str | None, context: int | None, knobs: ModelKnobs, wording: Path | None) -> Runtime:
    from x2sam_rt.model.checkpoint.files import checkpoint_file, embedded_checkpoint
    from x2sam_rt.runtime.bundle import file_sha256
    from x2sam_rt.runtime.runtime import Runtime

    runtime = Runtime.load(bundle, device=device, context=context, knobs=knobs, wording=wording)
    if runtime.manifest.checkpoint_sha256 == file_sha256(checkpoint_file(embedded_checkpoint())):
        error_console.print(
            "x2sam-toy knows its made-up world of moving shapes only (x2sam-rt demo-media writes some); what it draws "
            "on other pictures means nothing.",
            style="dim",
        )
    return runtime


def _run_image(load: Load, path: Path, instruction: Instruction, plan: OutputPlan) -> None:
    from x2sam_rt.media.image import read_image
    from x2sam_rt.runtime.writers.opening import RunOutputs

    instruction.require_media("image")
    _require_masks(instruction, plan, path)
    pixels = read_image(path)
    for region in instruction.regions:
        region.mask(*pixels.shape[:2])  # refused before the model is loaded
    with RunOutputs(plan, path, None) as outputs, load() as runtime:
        result = runtime.segment_image(pixels, instruction)
        outputs.write(pixels, result)
    _print_result(result)


def _run_words(load: Load, opened: Callable[[], FrameSource], instruction: Instruction, plan: OutputPlan) -> None:
    from x2sam_rt.runtime.prompt_frames import require_regions
    from x2sam_rt.runtime.run import answer_video

    instruction.require_media("video")
    with opened() as source:
        _require_masks(instruction, plan, Path(source.name))
        require_regions(source, instruction)
        with load() as runtime:
            text = GrowingAnswer()
            answer_video(runtime, source, instruction, on_text=text)
            text.finish()


def _run_frames(
    load: Load, opened: Callable[[], FrameSource], instruction: Instruction, plan: OutputPlan, again: ReAsk
) -> None:
    from x2sam_rt.runtime.prompt_frames import require_regions
    from x2sam_rt.runtime.writers.opening import RunOutputs

    last = None
    instruction.require_media("video")
    with opened() as source:
        name = Path(source.name)
        require_regions(source, instruction)
        with (
            RunOutputs(plan, name, source.frame_rate, source.audio, source.frame_size(0)) as outputs,
            _saying_what_is_kept(outputs, plan.paths(name)),
            load() as runtime,
        ):
            for note in outputs.notes:
                error_console.print(note, style="dim", soft_wrap=True)
            for frame in with_progress(runtime, source, instruction, [outputs], again):
                last = frame.result
    assert last is not None, "a source without frames has raised"
    _print_result(last)
    dropped = f", {source.dropped} dropped" if source.dropped else ""
    frames = "1 frame" if last.index == 0 else f"{last.index + 1} frames"
    console.print(f"{frames}{dropped}; last frame above.")


def _require_masks(instruction: Instruction, plan: OutputPlan, source: Path) -> None:
    from x2sam_rt.errors import PromptError

    if plan.paths(source) and not task(instruction.task).draws_masks:
        raise PromptError(f"{instruction.task} answers in words: there is nothing to write to {plan.paths(source)[0]}.")


def _size(text: str | None) -> tuple[int, int] | None:
    """WIDTHxHEIGHT."""
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isdigit() and height.isdigit()):
        raise typer.BadParameter(f"{text!r} is no size; wanted WIDTHxHEIGHT, as 640x360", param_hint="--raw-size")
    return int(width), int(height)


@contextmanager
def _saying_what_is_kept(outputs: RunOutputs, paths: Sequence[Path]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if paths:
            names = ", ".join(map(str, paths))
            said = "are kept in" if outputs.kept else "are not kept (--keep-partial keeps them) in"
            error_console.print(f"{outputs.frames} frames {said} {names}", soft_wrap=True)
        raise


def _print_result(result: FrameResult) -> None:
    if result.text:
        console.print(linked_text(result))
    if not result.segments:
        console.print("no segments")
    for segment in result.segments:
        label = printable(segment.label)
        console.print(f"{segment.id:4d}  {segment.score:.3f}  {segment.area:9d} px  {label}")
