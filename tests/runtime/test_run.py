"""How often a file is opened and decoded while it is segmented."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import av
import pytest
from typer.testing import CliRunner

from x2sam_rt.cli.app import app
from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.media import containers
from x2sam_rt.media.video import VideoWriter

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
    assert reads["opened"] == 2
    assert FRAMES <= reads["decoded"] <= FRAMES + AHEAD
