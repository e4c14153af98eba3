"""The script that counts the files a reader passes counts what it says."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from trace_house import FRAMES, changes, walk, write_clip

from x2sam_rt.cli.app import app


def test_changes_are_calls_into_another_file() -> None:
    assert changes([]) == changes(["a"]) == changes(["a", "a"]) == 0
    assert changes(["a", "b", "b", "a"]) == 2


def test_the_walk_of_a_run(onnx_bundle: Path, tmp_path: Path) -> None:
    write_clip(tmp_path / "clip.mp4")
    watched = walk(app, onnx_bundle, tmp_path / "clip.mp4", tmp_path / "masked.mp4")
    assert len(watched.steps) == FRAMES
    first, steady = watched.first_mask, watched.steady_frame
    assert set(first[: first.index("cli/run.py")]) <= {"cli/app.py"}  # where options of all commands are
    assert {"runtime/session.py", "runtime/pipeline.py", "runtime/memory_bank.py"} <= set(steady)
    assert {"runtime/runtime.py", "tasks/instruction.py", "media/video.py"} <= set(first)
    assert not any(file.startswith("export/") for file in first)  # a bundle runs without what made it
    assert not {"tasks/wording.py", "model/prompt_encoder.py"} & set(steady)  # nothing is asked anew per frame
    assert changes(steady) < changes(first)
