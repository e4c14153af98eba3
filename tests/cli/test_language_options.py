"""What the command line says about the language model: its memory, and when it is asked again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from x2sam_rt.cli.app import app
from x2sam_rt.cli.terminal import GrowingAnswer, linked_text
from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.errors import BundleError
from x2sam_rt.media.encoding import Encoding
from x2sam_rt.media.sources import VideoFile
from x2sam_rt.media.video import VideoWriter
from x2sam_rt.runtime.results import FrameResult, Segmentation
from x2sam_rt.runtime.run import answer_video
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.marks import Mark, link, parse_marks


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


def test_answers_are_printed_without_marks(tmp_path: Path) -> None:
    """The embedded model marks what it sees in a chat, too: printed is what a result's text holds."""
    frames, clip = make_clip(0, ClipSettings(side=128, frames=4)).frames, tmp_path / "clip.mkv"
    with VideoWriter(clip, 128, 128, 10, encoding=Encoding(crf=0)) as writer:
        for frame in frames:
            writer.write(frame)
    assert invoke("export", "toy", "--engine", "torch", "-o", tmp_path / "bundle").exit_code == 0
    said = invoke("run", tmp_path / "bundle", clip, "--task", "chat", "-p", "What happens here?").stdout
    with Runtime.load(tmp_path / "bundle") as runtime, VideoFile(clip) as source:
        pieces: list[str] = []
        read = answer_video(runtime, source, Instruction("chat", question="What happens here?"), on_text=pieces.append)
    assert "<p>" in "".join(pieces)
    assert said == read + "\n"
    assert not any(mark.value in said for mark in Mark)


def test_no_mark_is_printed_whatever_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    """In any order and without partners, in pieces that cut them apart, spelled by words."""
    random, words = np.random.default_rng(0), ("a", " ", "b.", ".", " < c", "!", *(mark.value for mark in Mark))
    for _ in range(500):
        whole = "".join(words[n] for n in random.integers(0, len(words), random.integers(0, 12)))
        text, cuts = GrowingAnswer(), sorted(random.integers(0, len(whole) + 1, 5).tolist())
        for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            text(whole[start:end])
        text.finish()
        assert capsys.readouterr().out == link(parse_marks(whole)).text + "\n"


def test_what_a_model_says_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = GrowingAnswer()
    text("a \x1b]0;owned\x07\x9b2J dog\n")
    text.finish()
    assert capsys.readouterr().out == "a \ufffd]0;owned\ufffd\ufffd2J dog\n\n"
    linked = linked_text(FrameResult(0, Segmentation((), np.zeros((2, 2), np.int32), 0), "\x1b[2J dog"))
    assert linked.plain == "\ufffd[2J dog"


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
