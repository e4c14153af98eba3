"""`x2sam-rt profile`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

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
    Truncated,
    asked,
)
from x2sam_rt.cli.terminal import console, reporting, with_progress


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
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the profile as JSON.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write the profile as a PNG.")] = None,
    overwrite: Overwrite = False,
    allow_truncated: Truncated = False,
    device: Device = None,
) -> None:
    """Measure a stream: percentiles per stage, first-mask latency, frames per second, memory.

    Decoding and post-processing are in. Example: x2sam-rt profile bundle --video clip.mp4 --json profile.json
    """
    from x2sam_rt.errors import require_extra
    from x2sam_rt.media.atomic import any_file, check_free, nothing
    from x2sam_rt.media.sources import VideoFile
    from x2sam_rt.runtime.asking import ReAsk
    from x2sam_rt.runtime.profile import draw_profile, profile_run, profile_table, write_profile
    from x2sam_rt.runtime.runtime import Runtime

    with reporting():
        if picture is not None:
            require_extra("plot")
        for written in (json_path, picture):
            if written is not None:
                check_free(written, any_file if overwrite else nothing)
        if task_name == "referring" and not prompt:
            prompt = ["the object"]
        instruction = asked(task_name, prompt, things, stuff, region, None)
        again = ReAsk.parse(ask_again)
        with Runtime.load(bundle, device=device, context=context) as runtime:
            started = time.perf_counter()
            with VideoFile(video, allow_truncated=allow_truncated) as source:
                measured = profile_run(with_progress(runtime, source, instruction, again=again), runtime, started)
        console.print(profile_table(measured))
        if json_path is not None:
            write_profile(measured, json_path)
        if picture is not None:
            draw_profile(measured, picture)
