"""The commands of the README do what it says."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from x2sam_rt.cli.app import app
from x2sam_rt.data.world import WorldSettings, make_clip
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.media.video import VideoWriter
from x2sam_rt.model.checkpoint.files import embedded_checkpoint
from x2sam_rt.model.checkpoint.loading import load_checkpoint

README = Path(__file__).parents[1] / "README.md"
COMMANDS = re.search(r"<!-- tasks.*?-->\n```sh\n(.*?)```", README.read_text(), re.DOTALL)[1].splitlines()  # type: ignore[index]
OUTPUT_OPTIONS = ("-o", "--davis", "--panoptic")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    export_bundle(ExportPlan(load_checkpoint(embedded_checkpoint()), "onnxruntime"), folder / "bundle")
    frames = make_clip(3, WorldSettings(frames=5)).frames
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
