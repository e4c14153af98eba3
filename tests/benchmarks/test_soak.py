"""The soak of benchmarks/soak.py in short."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import soak


def test_sessions_side_by_side_give_what_each_gives_alone(torch_bundle: Path) -> None:
    found = soak.soak(torch_bundle, frames=400, scripts=4)
    assert found["frames_that_differ"] == 0
    assert found["frames"] >= 400
    assert found["open_files_at_the_end"] <= found["open_files_after_a_tenth"]


def test_a_difference_is_seen(torch_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bit of one frame's map in a hundred: the comparison is not blind."""
    seen = 0

    def digest(result: soak.FrameResult) -> bytes:
        nonlocal seen
        seen += 1
        return true(result) + bytes([seen % 100 == 0])

    true = soak.digest
    monkeypatch.setattr(soak, "LENGTH", 6)
    monkeypatch.setattr(soak, "digest", digest)
    assert soak.soak(torch_bundle, frames=150, scripts=4)["frames_that_differ"]
