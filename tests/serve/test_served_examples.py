"""The examples that talk to a server."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest
from serving import TOKEN, Served

from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.media.video import VideoReader, VideoWriter

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X2SAM_RT_TOKEN", TOKEN)
    monkeypatch.syspath_prepend(EXAMPLES)


def test_served_stream(served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served_stream = import_module("served_stream")
    with VideoWriter(tmp_path / "clip.mp4", 64, 64, 10) as video:
        for frame in make_clip(0, ClipSettings(side=64, frames=6)).frames:
            video.write(frame)
    masked = tmp_path / "masked.mp4"
    served_stream.main([str(tmp_path / "clip.mp4"), "--server", served.url, "--then", "the dog", "-o", str(masked)])
    printed = capsys.readouterr().out
    assert [line.split(":")[0] for line in printed.splitlines()[:6]] == [f"frame {n}" for n in range(6)]
    with VideoReader(masked) as reader:
        assert len(list(reader)) == 6


def test_robot_loop(served: Served, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    robot_loop = import_module("robot_loop")
    made_up = robot_loop.made_up
    monkeypatch.setattr(robot_loop, "made_up", lambda rate: made_up(rate, side=64))
    robot_loop.main(["--server", served.url, "--seconds", "2.5"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 3
    assert all(line.startswith("frame ") for line in lines), lines


def test_the_ros_node_uses_what_the_client_has() -> None:
    """It cannot run here; the names it takes of the client are there."""
    from x2sam_rt.client import Stream

    tree = ast.parse((EXAMPLES / "ros2_node.py").read_text())
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "_stream"
    }
    assert used == {"send", "receive", "ask"}
    assert all(callable(getattr(Stream, name)) for name in used)
