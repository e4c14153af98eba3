"""The commands of the README do what it says."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from x2sam_rt.cli.app import app
from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.media.video import VideoWriter

README = Path(__file__).parents[1] / "README.md"
# A command, and what it prints.
SESSION = re.search(r"^\$ (x2sam-rt export .*)\n(.*)\n\$", README.read_text(), re.MULTILINE)
COMMANDS = re.search(r"<!-- tasks.*?-->\n```sh\n(.*?)```", README.read_text(), re.DOTALL)[1].splitlines()  # type: ignore[index]
OUTPUT_OPTIONS = ("-o", "--davis", "--panoptic")


def without_size(line: str) -> str:
    """It varies by the exporter's version."""
    return re.sub(r"[\d.]+ MiB", "MiB", line)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    assert SESSION is not None
    with contextlib.chdir(folder):
        exported = CliRunner().invoke(app, shlex.split(SESSION[1])[1:])
    assert without_size(exported.stdout.strip()) == without_size(SESSION[2])
    frames = make_clip(3, ClipSettings(frames=5)).frames
    Image.fromarray(frames[0]).save(folder / "photo.jpg")
    with VideoWriter(folder / "clip.mp4", 128, 128, 10) as video:
        for frame in frames:
            video.write(frame)
    return folder


def test_there_is_a_command_for_each_task_and_medium() -> None:
    assert len(COMMANDS) == 14
    kinds = {(("image" if "--image" in command else "video"), shlex.split(command)[6]) for command in COMMANDS}
    assert len(kinds) == 14


@pytest.mark.parametrize("command", COMMANDS)
def test_task_command(folder: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(folder)
    program, *arguments = shlex.split(command)
    assert program == "x2sam-rt"
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    outputs = [arguments[i + 1] for i, argument in enumerate(arguments) if argument in OUTPUT_OPTIONS]
    assert all((folder / output).exists() for output in outputs)
    assert outputs or "chat" in arguments
