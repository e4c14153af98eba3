"""`x2sam-rt verify`, and its results for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import TimeRemainingColumn
from rich.text import Text

from x2sam_rt.cli.options import Bundle, Device, Threads, use_threads
from x2sam_rt.cli.terminal import console, progress_bar, reporting
from x2sam_rt.errors import VerificationError

if TYPE_CHECKING:
    from rich.table import Table

    from x2sam_rt.export.verify import Bounds, Check


def verify(
    bundle: Bundle,
    device: Device = None,
    threads: Threads = None,
    quick: Annotated[bool, typer.Option("--quick", help="Every stage alone, at fewer sizes; no clips.")] = False,
) -> None:
    """Check a bundle's engines against PyTorch on this machine, stage by stage and over a whole clip."""
    from x2sam_rt.export.verify import bounds_of, planned_checks, verify_bundle
    from x2sam_rt.runtime.bundle import load_manifest

    with reporting():
        use_threads(threads)
        manifest = load_manifest(bundle)
        bounds = bounds_of(manifest)
        with progress_bar(TimeRemainingColumn()) as progress:
            bar = progress.add_task("hashes", total=planned_checks(manifest, quick=quick))
            checks = []
            for check in verify_bundle(bundle, device, quick=quick):
                checks.append(check)
                progress.update(bar, advance=1, description=_name(check))
                if not progress.console.is_terminal:
                    left = progress.tasks[bar].time_remaining
                    passed = "ok" if check.passed(bounds) else "out of bounds"
                    progress.console.print(
                        f"{_name(check)}: {passed}" + ("" if left is None else f", about {left:.0f} s left")
                    )
        for table in verification_tables(checks, bounds):
            console.print(table)
        failed = [check for check in checks if not check.passed(bounds)]
        if failed:
            raise VerificationError(
                f"{len(failed)} of {len(checks)} checks are out of bounds (marked above). "
                "Do not use this bundle here; export it again on this machine, or with --engine torch."
            )
    console.print(f"{len(checks)} checks passed.")


def _name(check: Check) -> str:
    from x2sam_rt.export.verify import ClipCheck, PromptCheck, StageCheck

    match check:
        case StageCheck():
            return f"{check.stage} ({check.sizes})"
        case ClipCheck():
            return f"frame {check.frame} of a clip"
        case PromptCheck():
            return f"rounded weights, {check.question}"
        case _:
            return f"accuracy, {check.part}"


def verification_tables(checks: Sequence[Check], bounds: Bounds) -> Iterator[Table]:
    """One table per kind of check; kinds that were not run have none."""
    from rich.table import Table

    from x2sam_rt.export.verify import AccuracyCheck, ClipCheck, PromptCheck, StageCheck

    stages = Table("stage", "sizes", "error", "", title=f"stages (error ≤ {bounds.error:g})")
    clip = Table("frame", "live slots", "error", "mask IoU", "", title=f"made-up clip (IoU ≥ {bounds.iou:g})")
    limits = f"cosine ≥ {bounds.cosine:g}, IoU ≥ {bounds.prompt_iou:g}"
    prompts = Table("question", "cosine", "mask IoU", "", title=f"rounded language model ({limits})")
    accuracy = Table("part", "clips", "J&F", "PyTorch fp32", "", title=f"accuracy (difference ≤ {bounds.j_and_f:g})")
    for check in checks:
        mark = Text("ok") if check.passed(bounds) else Text("out of bounds", "red")
        match check:
            case StageCheck():
                stages.add_row(check.stage, check.sizes, f"{check.error:.1e}", mark)
            case ClipCheck():
                clip.add_row(str(check.frame), str(check.live_slots), f"{check.error:.1e}", f"{check.iou:.5f}", mark)
            case PromptCheck():
                prompts.add_row(check.question, f"{check.cosine:.5f}", f"{check.iou:.4f}", mark)
            case AccuracyCheck():
                accuracy.add_row(check.part, str(check.clips), f"{check.ours:.4f}", f"{check.reference:.4f}", mark)
    yield from (table for table in (stages, clip, prompts, accuracy) if table.row_count)
