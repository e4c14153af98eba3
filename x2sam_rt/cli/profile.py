"""`x2sam-rt profile`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
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
    Truncated,
    asked,
    use_threads,
)
from x2sam_rt.cli.terminal import console, reporting, with_progress

if TYPE_CHECKING:
    from x2sam_rt.media.sources import VideoFile
    from x2sam_rt.runtime.asking import ReAsk
    from x2sam_rt.runtime.profile import FrameTrace, Profile
    from x2sam_rt.runtime.runtime import Runtime
    from x2sam_rt.tasks.instruction import Instruction


def profile(
    bundle: Bundle,
    video: Annotated[Path, typer.Option(help="Video file to stream.")],
    prompt: Phrases = None,
    task_name: TaskName = "referring",
    things: Names = "",
    stuff: Names = "",
    region: Regions = None,
    ask_again: AskAgain = "once",
    context: Context = None,
    knob: ModelKnob = None,
    compare: Annotated[
        Path | None, typer.Option(help="Bundle to run beside, as exported: speed and mask IoU against it.")
    ] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the profile as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write the profile as a PNG.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write the profile as a page of its own, pictures in it.")] = None,
    trace: Annotated[
        Path | None, typer.Option(help="Write what three steady frames did as a Chrome trace, for Perfetto.")
    ] = None,
    overwrite: Overwrite = False,
    allow_truncated: Truncated = False,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Measure a stream: percentiles per stage, work and rates beside the machine's ceilings, first mask, memory.

    Decoding and post-processing are in. On a GPU the host waits for every stage, and marks it for Nsight (NVTX).
    Example: x2sam-rt profile bundle --video clip.mp4 --html profile.html
    """
    from x2sam_rt.errors import require_extra
    from x2sam_rt.media.atomic import any_file, check_free, nothing
    from x2sam_rt.media.sources import VideoFile
    from x2sam_rt.model.knobs import ModelKnobs
    from x2sam_rt.runtime.asking import ReAsk
    from x2sam_rt.runtime.profile import staged
    from x2sam_rt.runtime.profile_report import draw_profile, profile_table, write_page, write_profile
    from x2sam_rt.runtime.prompt_frames import require_regions
    from x2sam_rt.runtime.runtime import Runtime

    with reporting():
        use_threads(threads)
        if picture is not None or html is not None:
            require_extra("plot")
        for written in (json_path, picture, html, trace):
            if written is not None:
                check_free(written, any_file if overwrite else nothing)
        if task_name == "referring" and not prompt:
            prompt = ["the object"]
        instruction = asked(task_name, prompt, things, stuff, region, None)
        again, knobs = ReAsk.parse(ask_again), ModelKnobs.parse(knob or ())
        opened = partial(VideoFile, video, allow_truncated=allow_truncated)
        with opened() as source:
            require_regions(source, instruction)
        with contextlib.ExitStack() as stack:

            def load(folder: Path, chosen: ModelKnobs) -> Runtime:
                loaded = Runtime.load(folder, device=device, context=context, knobs=chosen)
                return staged(stack.enter_context(loaded))

            runtime = load(bundle, knobs)
            other = None if compare is None else (compare, load(compare, ModelKnobs()))
            measured = _measure(runtime, opened, instruction, again, trace, other)
        console.print(profile_table(measured))
        if json_path is not None:
            write_profile(measured, json_path)
        if picture is not None:
            draw_profile(measured, picture)
        if html is not None:
            write_page(measured, html)


def _measure(
    runtime: Runtime,
    opened: Callable[[], VideoFile],
    instruction: Instruction,
    again: ReAsk,
    trace: Path | None,
    other: tuple[Path, Runtime] | None,
) -> Profile:
    from x2sam_rt.model.precision import dtype_of
    from x2sam_rt.runtime.profile import Beside, measure_ceilings, profile_run, stage_mark
    from x2sam_rt.runtime.run import run_video
    from x2sam_rt.runtime.timing import stages_marked

    ceilings = measure_ceilings(runtime.device, dtype_of(runtime.manifest.precision))
    mark = stage_mark(runtime.device, traced=trace is not None)
    with opened() as source, opened() as again_read, stages_marked(mark):
        beside = None
        if other is not None:
            beside = Beside(str(other[0]), run_video(other[1], again_read, instruction, again=again))
        started = time.perf_counter()
        return profile_run(
            with_progress(runtime, source, instruction, again=again),
            runtime,
            started,
            ceilings=ceilings,
            trace=None if trace is None else _trace(trace, runtime, source.num_frames),
            beside=beside,
        )


def _trace(path: Path, runtime: Runtime, frames: int | None) -> FrameTrace:
    """Of frames that find the memory full, or of the last ones of a short video."""
    from x2sam_rt.runtime.profile import TRACED, FrameTrace

    full = runtime.manifest.model.memory.slots + 1
    last = full if frames is None else frames - TRACED
    return FrameTrace(path, runtime.device, first=max(1, min(full, last)))
