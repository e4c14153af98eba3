"""The examples run, with the sources that need no camera."""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recordings import RANDOM_TOY

from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.errors import VideoError
from x2sam_rt.media.video import VideoReader, VideoWriter
from x2sam_rt.model.checkpoint import files

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import change_instruction
import live_camera
from made_up import made_up

EXAMPLES = Path(live_camera.__file__).parent


def indices(printed: str) -> list[int]:
    return [int(line.split()[1].rstrip(":")) for line in printed.splitlines() if line.startswith("frame ")]


def test_live_camera(onnx_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "live.mp4"
    live_camera.main([str(onnx_bundle), "--rate", "200", "--frames", "5", "-o", str(output)])
    assert indices(capsys.readouterr().out) == list(range(5))
    with VideoReader(output) as video:
        assert len(list(video)) == 5


def test_a_camera_that_is_not_there(onnx_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="Check that the camera is there"):
        live_camera.main([str(onnx_bundle), "--source", "/dev/video77", "-o", str(tmp_path / "live.mp4")])
    assert list(tmp_path.iterdir()) == []


def test_the_made_up_world_keeps_its_pace_and_turns_round() -> None:
    frames = list(itertools.islice(made_up(rate=1e6, side=64), 100))
    np.testing.assert_array_equal(frames[1].pixels, frames[93].pixels)
    assert any((one.pixels != frames[0].pixels).any() for one in frames[1:48])


def test_the_notebook(
    onnx_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every cell, one after another; the bundle that it would make is there already, of random weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "embedded_checkpoint", lambda: RANDOM_TOY)
    shutil.copytree(onnx_bundle, tmp_path / "notebook/bundle")
    notebook = json.loads((EXAMPLES / "first_steps.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell.get("outputs") for cell in notebook["cells"])
    there: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        exec(compile(cell, f"cell {number}", "exec"), there)
    assert "is there already" in capsys.readouterr().out
    assert [result.index for result in there["results"]] == list(range(6))
    assert [result.labels for result in there["found"][:3]] == [(there["prompt"],)] * 3
    assert all(there["prompt"] not in label for result in there["found"][3:] for label in result.labels)
    with VideoReader(tmp_path / "notebook/cut.mov") as video:
        assert len(list(video)) == 6


def test_change_instruction(onnx_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, output = tmp_path / "clip.mp4", tmp_path / "changed.mp4"
    with VideoWriter(clip, 128, 128, 10) as video:
        for frame in make_clip(3, ClipSettings(frames=5)).frames:
            video.write(frame)
    change_instruction.main([str(onnx_bundle), str(clip), "the red circle", "@3", "the square", "-o", str(output)])
    printed = capsys.readouterr().out
    assert indices(printed) == list(range(5))
    lines = printed.splitlines()
    assert all("red circle" in line for line in lines[:3])
    assert all("square" in line and "circle" not in line for line in lines[3:])
    with VideoReader(output) as video:
        assert len(list(video)) == 5
