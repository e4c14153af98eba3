"""What the command line says about the language model: its memory, and when it is asked again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from x2sam_rt.cli.app import app
from x2sam_rt.errors import BundleError
from x2sam_rt.media.video import VideoWriter


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    with VideoWriter(path, 64, 64, 10) as writer:
        for frame in noise:
            writer.write(frame)
    return path


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_video_is_asked_about_again(torch_bundle: Path, video: Path) -> None:
    result = invoke("run", torch_bundle, "--video", video, "-p", "dog", "--ask-again", "every=2:forget")
    assert result.exit_code == 0, result.output
    assert "6 frames" in result.stdout


def test_a_stop_text_ends_an_answer(torch_bundle: Path, video: Path) -> None:
    chat = ("run", torch_bundle, "--video", video, "--task", "chat", "-p", "what?", "--max-new-tokens", 20)
    whole = invoke(*chat).stdout.strip()
    middle = whole[len(whole) // 2]
    assert invoke(*chat, "--stop", middle).stdout.strip() == whole[: whole.index(middle)].strip()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--context", 50), "larger --context"),
        (("--context", 99999), "this model takes 1 to 4096"),
        (("--ask-again", "sometimes"), "does not say when to ask again"),
        (("--stop", ""), "empty text"),
    ],
)
def test_what_cannot_be_is_said(torch_bundle: Path, video: Path, options: tuple[object, ...], message: str) -> None:
    result = invoke("run", torch_bundle, "--video", video, "-p", "dog", *options)
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())


@pytest.mark.parametrize(
    "command", [("run", "-p", "dog", "--video"), ("profile", "--video"), ("verify",), ("eval", "--limit", 1)]
)
def test_threads_are_those_asked_for(
    torch_bundle: Path, video: Path, command: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    before, found = torch.get_num_threads(), list[int]()

    def load(*_: object, **__: object) -> None:
        found.append(torch.get_num_threads())
        raise BundleError("enough was seen")

    monkeypatch.setattr("x2sam_rt.runtime.bundle.read_manifest", load)
    monkeypatch.setattr("x2sam_rt.runtime.runtime.read_manifest", load)
    monkeypatch.setattr("x2sam_rt.runtime.bundle.load_manifest", load)
    name, *options = command
    media = [video] if "--video" in command else []
    try:
        for count in (1, 3):
            result = CliRunner().invoke(
                app, [str(a) for a in (name, torch_bundle, *options, *media, "--threads", count)]
            )
            assert "enough was seen" in result.stderr, result.output
    finally:
        torch.set_num_threads(before)
    assert found[0] == 1
    assert found[-1] == 3


def test_a_profile_states_the_memory(torch_bundle: Path, video: Path) -> None:
    result = invoke("profile", torch_bundle, "--video", video, "--context", 512)
    assert result.exit_code == 0, result.output
    assert "for 512 tokens" in " ".join(result.stdout.split())
