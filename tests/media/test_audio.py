"""Sound that is copied beside pictures: the same packets, at the time of their pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from x2sam_rt.media.audio import Audio
from x2sam_rt.media.live import LiveStream, open_input
from x2sam_rt.media.source import WHOLE, Part
from x2sam_rt.media.sources import VideoFile
from x2sam_rt.media.video import VideoWriter

RATE, SOUND_RATE, SECONDS = 20, 48_000, 3
CLICK = 1.5  # seconds: the sound begins with the picture turning white


def talking(path: Path, codec: str = "aac", delay: float = 0.0) -> Path:
    """Black and silent, then white and loud. delay: seconds at which the file's clock begins."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=RATE, options={"g": "10"})
        picture.width, picture.height, picture.pix_fmt = 32, 32, "yuv420p"
        sound = container.add_stream(codec, rate=SOUND_RATE, layout="mono")
        for n in range(SECONDS * RATE):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 255 * (n / RATE >= CLICK), np.uint8))
            frame.time_base, frame.pts = Fraction(1, RATE), n + round(delay * RATE)
            container.mux(picture.encode(frame))
        size = 960
        for n in range(SECONDS * SOUND_RATE // size):
            at = (n * size + np.arange(size)) / SOUND_RATE
            wave = np.where(at >= CLICK, np.sin(at * 2 * np.pi * 440), 0).astype(np.float32)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate, frame.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
            frame.pts = n * size + round(delay * SOUND_RATE)
            container.mux(sound.encode(frame))
        container.mux(picture.encode(None))
        container.mux(sound.encode(None))
    return path


def copied(source: Path, target: Path, part: Part = WHOLE) -> Path:
    with VideoFile(source, part) as video:
        frames = iter(video)
        head = next(frames)
        with VideoWriter(target, 32, 32, video.frame_rate, audio=video.audio) as writer:
            writer.write(head.pixels, head.timestamp)
            for frame in frames:
                writer.write(frame.pixels, frame.timestamp)
    return target


def packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(audio=0) if packet.size]


def clicks(path: Path) -> tuple[float, float]:
    """Seconds after the first picture at which the picture turns white, and the sound begins."""
    with av.open(str(path)) as container:
        frames = [(frame.time or 0.0, frame.to_ndarray(format="gray").mean()) for frame in container.decode(video=0)]
    with av.open(str(path)) as container:
        loud = next(
            (frame.time or 0.0) + float(np.argmax(np.abs(frame.to_ndarray()[0]) > 0.2)) / SOUND_RATE
            for frame in container.decode(audio=0)
            if np.abs(frame.to_ndarray()).max() > 0.2
        )
    start = frames[0][0]
    return next(at for at, level in frames if level > 128) - start, loud - start


def duration(path: Path) -> float:
    with av.open(str(path)) as container:
        last = max(packet.pts + (packet.duration or 0) for packet in container.demux(audio=0) if packet.pts is not None)
        return float(last * container.streams.audio[0].time_base)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("codec", "source", "target"),
    [
        ("aac", "talk.mp4", "out.mp4"),
        ("aac", "talk.mp4", "out.mkv"),
        ("aac", "talk.mkv", "out.mp4"),
        ("libopus", "talk.mkv", "out.webm"),
        ("libopus", "talk.mkv", "out.mp4"),
        ("pcm_s16le", "talk.mov", "out.mov"),
        ("flac", "talk.mkv", "out.mkv"),
    ],
)
def test_the_whole_sound_packet_by_packet(tmp_path: Path, codec: str, source: str, target: str) -> None:
    talk = talking(tmp_path / source, codec)
    out = copied(talk, tmp_path / target)
    assert packets(out) == packets(talk)[: len(packets(out))]
    assert abs(len(packets(out)) - len(packets(talk))) <= 1  # what lies behind the last picture is left out
    seen, heard = clicks(out)
    assert seen == pytest.approx(CLICK, abs=0.002)
    assert heard == pytest.approx(CLICK, abs=0.02)


def test_the_first_picture_sets_the_time_however_many_were_read_ahead(tmp_path: Path) -> None:
    with VideoFile(talking(tmp_path / "talk.mp4")) as video:
        assert video.audio is not None
        frames, origins = iter(video), []
        for _ in range(3):
            next(frames)
            origins.append(video.audio.origin())
    assert len(set(origins)) == 1


def test_a_transport_stream_whose_clock_began_long_ago(tmp_path: Path) -> None:
    out = copied(talking(tmp_path / "talk.ts", delay=700.0), tmp_path / "out.mp4")
    seen, heard = clicks(out)
    assert seen == pytest.approx(CLICK, abs=0.002)
    assert heard == pytest.approx(CLICK, abs=0.03)


@pytest.mark.parametrize("name", ["talk.mp4", "talk.mkv", "talk.ts"])
@pytest.mark.parametrize(
    ("part", "click", "length"),
    [
        (Part(start=1.13), CLICK - 1.15, SECONDS - 1.15),
        (Part(start=0.5, end=2.0), CLICK - 0.5, 1.5),
        (Part(stride=3), CLICK, SECONDS),
        (Part(start=1.0, most=15), CLICK - 1.0, 0.75),
    ],
)
def test_a_part_sounds_as_it_looks(tmp_path: Path, name: str, part: Part, click: float, length: float) -> None:
    out = copied(talking(tmp_path / name), tmp_path / "out.mp4", part)
    seen, heard = clicks(out)
    assert seen == pytest.approx(click, abs=0.002)
    assert heard == pytest.approx(click, abs=0.03)
    assert duration(out) == pytest.approx(length, abs=0.05)


def test_what_a_container_does_not_hold(tmp_path: Path) -> None:
    with VideoFile(talking(tmp_path / "talk.mp4")) as video:
        assert video.audio is not None
        assert video.audio.codec == "aac"
        assert video.audio.obstacle("webm") == "webm holds no aac"
        assert video.audio.obstacle("mp4") is None


def test_silence(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "clip.mp4", 32, 32, RATE) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
    with VideoFile(tmp_path / "clip.mp4") as video:
        assert video.audio is None


def test_what_comes_once_says_that_it_sounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with talking(tmp_path / "talk.mkv").open("rb") as file:
        monkeypatch.setattr("sys.stdin", type("Input", (), {"buffer": file}))
        with LiveStream("-", open_input(None)) as stream:
            assert stream.audio == Audio("aac")
            assert "comes once" in str(stream.audio and stream.audio.obstacle("mp4"))


def test_a_sound_that_breaks_off_is_kept_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    talk = talking(tmp_path / "talk.mkv")
    opened: Callable[[Path], av.container.InputContainer] = __import__(
        "x2sam_rt.media.containers", fromlist=["open_container"]
    ).open_container

    class Breaking:
        def __init__(self, container: av.container.InputContainer) -> None:
            self.container = container

        def __getattr__(self, name: str) -> object:
            return getattr(self.container, name)

        def demux(self, stream: object) -> object:
            for n, packet in enumerate(self.container.demux(stream)):  # type: ignore[call-overload]
                if n == 40:
                    raise av.error.InvalidDataError(1094995529, "Invalid data found when processing input")
                yield packet

    monkeypatch.setattr("x2sam_rt.media.audio.open_container", lambda path: Breaking(opened(path)))
    with caplog.at_level(logging.WARNING):
        out = copied(talk, tmp_path / "out.mp4")
    assert packets(out) == packets(talk)[:40]
    assert "its sound breaks off" in caplog.text
