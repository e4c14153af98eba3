"""The results of a verification, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from x2sam_rt.export.verify import AccuracyCheck, Bounds, Check, ClipCheck, StageCheck


def verification_tables(checks: Sequence[Check], bounds: Bounds) -> Iterator[Table]:
    """One table per kind of check; kinds that were not run have none."""
    stages = Table("stage", "sizes", "error", "", title=f"stages (error ≤ {bounds.error:g})")
    clip = Table("frame", "live slots", "error", "mask IoU", "", title=f"made-up clip (IoU ≥ {bounds.iou:g})")
    accuracy = Table("part", "clips", "J&F", "PyTorch fp32", "", title=f"accuracy (difference ≤ {bounds.j_and_f:g})")
    for check in checks:
        mark = "ok" if check.passed(bounds) else "[red]out of bounds[/red]"
        match check:
            case StageCheck():
                stages.add_row(check.stage, check.sizes, f"{check.error:.1e}", mark)
            case ClipCheck():
                clip.add_row(str(check.frame), str(check.live_slots), f"{check.error:.1e}", f"{check.iou:.5f}", mark)
            case AccuracyCheck():
                accuracy.add_row(check.part, str(check.clips), f"{check.ours:.4f}", f"{check.reference:.4f}", mark)
    yield from (table for table in (stages, clip, accuracy) if table.row_count)
