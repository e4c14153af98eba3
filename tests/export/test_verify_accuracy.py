from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from fake_segmenters import BlindSegmenter, PerfectSegmenter
from rich.console import Console

from x2sam_rt.cli.verify import verification_tables
from x2sam_rt.data.example import Target
from x2sam_rt.evaluation.segmenter import Segmenter
from x2sam_rt.export import verify
from x2sam_rt.export.verify import BOUNDS, AccuracyCheck, ClipCheck, StageCheck, check_accuracy, verify_bundle


def shrunk(target: Target) -> Target:
    """One row of pixels is lost."""
    masks = target.masks.copy()
    masks[:, :40] = False
    return replace(target, masks=masks)


def opening(segmenter: Segmenter) -> Callable[[], contextlib.nullcontext[Segmenter]]:
    return lambda: contextlib.nullcontext(segmenter)


def test_accuracy_must_be_the_references() -> None:
    bounds, perfect = BOUNDS["bf16"], opening(PerfectSegmenter())
    same = list(check_accuracy(perfect, perfect, 2, bounds))
    assert [(check.part, check.clips, check.ours) for check in same] == [("referring", 2, 1.0), ("object", 2, 1.0)]
    assert all(check.passed(BOUNDS["fp32"]) for check in same)
    for other in (opening(PerfectSegmenter(shrunk)), opening(BlindSegmenter())):
        assert not any(check.passed(bounds) for check in check_accuracy(other, perfect, 2, bounds))
        # Better than the reference is as suspicious.
        assert not any(check.passed(bounds) for check in check_accuracy(perfect, other, 2, bounds))


def test_engines_and_reference_are_never_open_together() -> None:
    """Each takes as much memory as the model; what failed once is measured over four times as many clips."""
    opened: list[str] = []

    def named(name: str, segmenter: Segmenter) -> Callable[[], AbstractContextManager[Segmenter]]:
        @contextlib.contextmanager
        def open_it() -> Iterator[Segmenter]:
            opened.append(name)
            yield segmenter
            opened.append("closed")

        return open_it

    ours, reference = named("ours", BlindSegmenter()), named("reference", PerfectSegmenter())
    found = list(check_accuracy(ours, reference, 1, BOUNDS["bf16"]))
    assert opened == 2 * ["ours", "closed", "reference", "closed"]
    assert [check.clips for check in found] == [4, 4]


def test_a_bundle_is_verified_by_stage_by_clip_and_by_accuracy(
    torch_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_CLIPS", 1)
    checks = list(verify_bundle(torch_bundle))
    assert list(dict.fromkeys(type(check) for check in checks)) == [StageCheck, ClipCheck, AccuracyCheck]
    assert all(check.passed(BOUNDS["fp32"]) for check in checks)


def test_logits_of_a_clip_are_bounded_in_fp32_only() -> None:
    tipped = ClipCheck(frame=5, live_slots=4, error=0.4, iou=0.97)
    assert tipped.passed(BOUNDS["bf16"])
    assert not replace(tipped, iou=0.9).passed(BOUNDS["bf16"])
    assert not replace(tipped, iou=1.0).passed(BOUNDS["fp32"])
    assert replace(tipped, iou=1.0, error=1e-4).passed(BOUNDS["fp32"])


def test_tables_show_what_was_checked() -> None:
    checks = [StageCheck("frame_encoder", "fixed", 1e-6), AccuracyCheck("referring", 8, 0.5, 0.51)]
    console = Console(width=120, record=True)
    for table in verification_tables(checks, BOUNDS["fp32"]):
        console.print(table)
    shown = console.export_text()
    assert "frame_encoder" in shown
    assert "0.5100" in shown
    assert "out of bounds" in shown
    assert "live slots" not in shown
