"""The examples run, with the sources that need no camera."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.errors import VideoError
from x2sam_rt.media.video import VideoReader, VideoWriter

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import change_instruction
import live_camera
from made_up import made_up


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
