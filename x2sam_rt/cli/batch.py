"""`x2sam-rt batch`."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from x2sam_rt.cli.options import (
    AskAgain,
    Bundle,
    Context,
    ModelKnob,
    Names,
    OnRay,
    Phrases,
    Regions,
    TaskName,
    Threshold,
    asked,
)
from x2sam_rt.cli.terminal import FAILED, console, error_console, progress_bar, reporting

if TYPE_CHECKING:
    from x2sam_rt.serve.batch import Batch, BatchVideo, Outcome, Workers


def batch(
    bundle: Bundle,
    videos: Annotated[
        list[Path],
        typer.Argument(help='Videos, and .jsonl manifests: {"video": "clip.mp4", "name": …, "phrases": […]} a line.'),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for results, NAME.jsonl, and report.json.")],
    prompt: Phrases = None,
    task_name: TaskName = "referring",
    things: Names = "",
    stuff: Names = "",
    region: Regions = None,
    threshold: Threshold = None,
    ask_again: AskAgain = "once",
    context: Context = None,
    knob: ModelKnob = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help='"cpu", "cuda:N", a process each; repeat for several. Default: as many as fit.'),
    ] = None,
    on_ray: OnRay = None,
) -> None:
    """Segment many videos, one result each. Running it again goes on with what has none yet.

    Example: x2sam-rt batch bundle *.mp4 --prompt "the jumping boy" -o results

    A video that fails is named in report.json, and the exit code is 1 then; the others go on.
    """
    from x2sam_rt.model.knobs import ModelKnobs
    from x2sam_rt.runtime.asking import ReAsk
    from x2sam_rt.serve.batch import Batch, Segmenter, batch_videos

    with reporting():
        given = prompt or things or stuff or region or task_name != "referring"
        instruction = asked(task_name, prompt, things, stuff, region, threshold) if given else None
        wanted = batch_videos(videos, instruction)
        segmenter = Segmenter(bundle, context, ModelKnobs.parse(knob or ()), ReAsk.parse(ask_again))
        with Batch(segmenter, wanted, output) as made:
            if made.waiting and on_ray is not None:
                _run_on_cluster(made, on_ray, device)
            elif made.waiting:
                _run_here(made, device)
    console.print(f"{len(wanted) - len(made.failed)} results in {output}")
    if made.failed:
        error_console.print(f"{len(made.failed)} failed: {', '.join(made.failed)}", soft_wrap=True)
        raise typer.Exit(FAILED)


def _run_here(made: Batch, device: list[str] | None) -> None:
    from x2sam_rt.runtime.bundle import read_manifest
    from x2sam_rt.serve.processes import Processes, fitting_devices

    devices = device or fitting_devices(read_manifest(made.segmenter.bundle), len(made.waiting))
    _run(made, Processes(made.segmenter, devices[: len(made.waiting)], made.unfinished))


def _run_on_cluster(made: Batch, address: str, device: list[str] | None) -> None:
    from x2sam_rt.errors import require_extra

    if device is not None:
        raise typer.BadParameter("Ray chooses the devices; leave --device out", param_hint="--ray")
    require_extra("ray")
    from x2sam_rt.serve.cluster import RayWorkers, joined, ray_places

    with joined(address):
        _run(made, RayWorkers(made.segmenter, ray_places(made.segmenter.bundle, len(made.waiting))))


def _run(made: Batch, workers: Workers) -> None:
    with contextlib.closing(workers), progress_bar() as progress:
        bar = progress.add_task("segment", total=len(made.waiting))

        def tell(video: BatchVideo, outcome: Outcome) -> None:
            progress.update(bar, advance=1)
            if outcome.error is not None:
                error_console.print(f"{video.path}: {outcome.error}", soft_wrap=True)

        made.run(workers, tell)
