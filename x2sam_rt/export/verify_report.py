"""The results of a verification, for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from x2sam_rt.export.verify import Bounds, ClipCheck, StageCheck


def verification_tables(checks: Sequence[StageCheck | ClipCheck], bounds: Bounds) -> Iterator[Table]:
    stages = Table("stage", "sizes", "error", "", title=f"stages (error ≤ {bounds.error:g})")
    clip = Table("frame", "live slots", "error", "mask IoU", "", title=f"whole clip (IoU ≥ {bounds.iou:g})")
    for check in checks:
        mark = "ok" if check.passed(bounds) else "[red]out of bounds[/red]"
        if isinstance(check, StageCheck):
            stages.add_row(check.stage, check.sizes, f"{check.error:.1e}", mark)
        else:
            clip.add_row(str(check.frame), str(check.live_slots), f"{check.error:.1e}", f"{check.iou:.5f}", mark)
    yield stages
    yield clip
