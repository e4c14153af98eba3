"""How often a file is opened and decoded while it is segmented."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from typer.testing import CliRunner

from x2sam_rt.cli.app import app
from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.errors import FrameError
from x2sam_rt.media import containers
from x2sam_rt.media.image import write_image
from x2sam_rt.media.source import Part
from x2sam_rt.media.sources import open_source
from x2sam_rt.media.video import VideoReader, VideoWriter
from x2sam_rt.model.frame_layout import Layout
from x2sam_rt.runtime.runtime import Runtime

FRAMES = 20  # more than the language model sees


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One clip twice: an MP4, which says how many frames it holds, and a Matroska file, which does not."""
    folder = tmp_path_factory.mktemp("clips")
    with VideoWriter(folder / "clip.mp4", 64, 64, 10) as video:
        for frame in make_clip(0, ClipSettings(side=64, frames=FRAMES)).frames:
            video.write(frame)
    with av.open(str(folder / "clip.mp4")) as source, av.open(str(folder / "clip.mkv"), "w") as target:
        copied = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copied
                target.mux(packet)
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    counted: Counter[str] = Counter()
    open_container, decode = containers.av.open, containers._decode

    def counting_open(file: str, mode: str, **options: object) -> object:
        counted["opened"] += mode == "r"
        return open_container(file, mode, **options)  # type: ignore[call-overload]

    def counting_decode(packet: containers.VideoPacket) -> list[av.VideoFrame]:
        counted["decoded"] += 1
        return decode(packet)

    monkeypatch.setattr(containers.av, "open", counting_open)
    monkeypatch.setattr(containers, "_decode", counting_decode)
    return counted


AHEAD = 5  # frames decoded to see what a file holds, before seeking in it


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_file_is_decoded_for_its_prompt_and_once_more(
    torch_bundle: Path, folder: Path, tmp_path: Path, reads: Counter[str], suffix: str
) -> None:
    """Whatever is asked of it: frames of its own for regions, and a frame rate for the overlay."""
    arguments = ("-t", "vgd", "-r", "point:9,9@2", "-r", "box:5,5,40,40@17", "-o", str(tmp_path / "masked.mp4"))
    result = CliRunner().invoke(app, ["run", str(torch_bundle), "--video", str(folder / f"clip.{suffix}"), *arguments])
    assert result.exit_code == 0, result.output
    assert reads["opened"] == 3  # its packets, the frames of the prompt, the stream
    assert 2 * FRAMES <= reads["decoded"] <= 2 * FRAMES + AHEAD


def test_words_decode_it_once(torch_bundle: Path, folder: Path, reads: Counter[str]) -> None:
    arguments = ["--video", str(folder / "clip.mp4"), "-t", "chat", "-p", "What is there?", "--max-new-tokens", "2"]
    result = CliRunner().invoke(app, ["run", str(torch_bundle), *arguments])
    assert result.exit_code == 0, result.output
    assert reads["opened"] == 3
    assert FRAMES <= reads["decoded"] <= FRAMES + 2 * AHEAD


def indices(output: Path) -> list[int]:
    return [json.loads(line)["frame"] for line in output.read_text().splitlines()]


@pytest.mark.parametrize(
    ("options", "frames"),
    [((), FRAMES), (("--live",), FRAMES), (("--start", "0.5", "--end", "1.5", "--stride", "2"), 5)],
    ids=["whole", "live", "part"],
)
def test_a_source_of_any_kind(
    torch_bundle: Path, folder: Path, tmp_path: Path, options: tuple[str, ...], frames: int
) -> None:
    """A video, and its frames as a folder of images: the same masks of both."""
    with VideoReader(folder / "clip.mp4") as video:
        for frame in video:
            write_image(tmp_path / f"{frame.index}.png", frame.pixels)
    lines = []
    for number, source in enumerate((folder / "clip.mp4", tmp_path)):
        if number and options and "--start" in options:
            break  # images are shown 25 in a second
        output = tmp_path / f"{number}.jsonl"
        arguments = ["run", str(torch_bundle), str(source), "-p", "the red circle", "-o", str(output), *options]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert indices(output) == list(range(frames))
        lines.append([json.loads(line)["segments"] for line in output.read_text().splitlines()])
    assert all(other == lines[0] for other in lines)


@pytest.mark.parametrize(
    "given", [(), ("a.png", "b.png"), ("a.mp4", "--video", "b.mp4"), ("a.mp4", "--image", "b.png")], ids=str
)
def test_one_source_is_wanted(torch_bundle: Path, given: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["run", str(torch_bundle), *given])
    assert result.exit_code == 2
    assert "give one source" in result.output


def test_tracking_a_source(torch_bundle: Path, folder: Path) -> None:
    with Runtime.load(torch_bundle) as runtime:
        results = list(runtime.track(folder / "clip.mp4", "the red circle", Part(most=3)))
        still = next(iter(runtime.track(folder / "clip.mp4", "the red circle", live=True)))
        with open_source(folder / "clip.mp4", Part(most=3)) as source:
            given = [frame.pixels[..., ::-1] for frame in source]
        listed = list(runtime.track(given, "the red circle", layout=Layout(colors="BGR")))
        with pytest.raises(FrameError, match="CHW"):
            next(runtime.track([given[0].transpose(2, 0, 1)], "the red circle"))
        for wrong, said in (
            ([], "a list of no frames"),
            (given[0], r"ndarray \(64, 64, 3\); wanted"),
            (None, "NoneType; w"),
        ):
            with pytest.raises(FrameError, match=said):
                next(runtime.track(wrong, "the red circle"))  # type: ignore[arg-type]
        stacked = list(runtime.track(np.stack(given), "the red circle", layout=Layout(colors="BGR")))  # type: ignore[arg-type]
        assert [result.ids for result in stacked] == [result.ids for result in listed]
    for ours, theirs in zip(listed, results, strict=True):
        np.testing.assert_array_equal(ours.masks, theirs.masks)
    assert listed[2].timestamp == pytest.approx(2 / 25)
    assert [result.index for result in results] == [0, 1, 2]

    assert [result.timestamp for result in results] == pytest.approx([0, 0.1, 0.2])
    assert results[0].plot().shape == (64, 64, 3)
    assert still.index == 0
