"""Codecs, qualities and transparency in the containers that hold them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from x2sam_rt.errors import VideoError
from x2sam_rt.media.encoding import CODECS, Encoding
from x2sam_rt.media.types import Pixels
from x2sam_rt.media.video import VideoReader, VideoWriter

COUNT = 5


def blocks(index: int, height: int = 50, width: int = 98) -> Pixels:
    """(height, width, 4): colours in blocks, moving; the right half is transparent."""
    y, x = np.mgrid[:height, :width] // 16
    pixels = np.dstack([(x + index) * 40 % 256, y * 60 % 256, (x + y) * 25 % 256, np.where(x < 3, 255, 0)])
    return pixels.astype(np.uint8)


def written(path: Path, encoding: Encoding) -> Path:
    with VideoWriter(path, 98, 50, 25, encoding=encoding) as video:
        for index in range(COUNT):
            video.write(blocks(index)[..., : 4 if encoding.alpha else 3].copy())
    return path


@pytest.mark.parametrize(
    ("codec", "suffix", "error"),
    [
        ("h264", ".mp4", 8),
        ("hevc", ".mp4", 8),
        ("av1", ".mp4", 12),
        ("vp9", ".webm", 12),
        ("vp9", ".mp4", 12),
        ("av1", ".webm", 12),
        ("hevc", ".mkv", 8),
        ("prores", ".mov", 6),
        ("prores", ".mkv", 6),
        (None, ".webm", 12),
        (None, ".mov", 8),
    ],
)
def test_what_is_written_is_what_is_read(tmp_path: Path, codec: str | None, suffix: str, error: float) -> None:
    path = written(tmp_path / f"clip{suffix}", Encoding(codec))
    with VideoReader(path) as video:
        frames = list(video)
    assert len(frames) == COUNT
    for index, frame in enumerate(frames):
        assert np.abs(frame.pixels.astype(int) - blocks(index)[..., :3]).mean() < error
    own = {".webm": "vp9", ".mov": "h264"}
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == (codec or own[suffix])


def scheduling() -> set[int]:
    """Policies of this process' threads."""
    return {os.sched_getscheduler(int(thread)) for thread in os.listdir("/proc/self/task")}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux schedules each thread by a policy of its own")
@pytest.mark.parametrize("codec", CODECS)
def test_no_thread_goes_before_all_others(tmp_path: Path, codec: str) -> None:
    """As root, SVT-AV1 would make this very thread a real-time one."""
    before, seen = scheduling(), []
    with VideoWriter(tmp_path / "clip.mkv", 98, 50, 25, encoding=Encoding(codec)) as video:
        for index in range(COUNT):
            video.write(blocks(index)[..., :3].copy())
            seen.append(scheduling())
    assert [*seen, scheduling()] == [before] * (COUNT + 1)


def test_players_of_apple_know_the_hevc(tmp_path: Path) -> None:
    with av.open(str(written(tmp_path / "clip.mp4", Encoding("hevc")))) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


@pytest.mark.parametrize("codec", [name for name, codec in CODECS.items() if codec.worst])
def test_a_better_quality_takes_more_bytes(tmp_path: Path, codec: str) -> None:
    sizes = [written(tmp_path / f"{crf}.mkv", Encoding(codec, crf)).stat().st_size for crf in (5, 50)]
    assert sizes[0] > sizes[1]


def decoded(path: Path) -> list[av.VideoFrame]:
    """VP9's alpha is read by libvpx only, FFmpeg's own decoder passes it over."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        if stream.codec_context.name != "vp9":
            return list(container.decode(stream))
        decoder = av.CodecContext.create("libvpx-vp9", "r")
        return [frame for packet in container.demux(stream) for frame in decoder.decode(packet)]  # type: ignore[attr-defined]


def alpha_of(frame: av.VideoFrame) -> np.ndarray:  # type: ignore[type-arg]
    """Its own plane, 0…1: FFmpeg's conversion to RGBA errs at edges."""
    bits = frame.format.components[3].bits
    plane = frame.planes[3]
    values = np.frombuffer(plane, np.uint8 if bits == 8 else np.uint16).reshape(plane.height, -1)
    return values[:, : plane.width] / (2**bits - 1)


@pytest.mark.parametrize("suffix", [".mov", ".webm", ".mkv"])
def test_transparency(tmp_path: Path, suffix: str) -> None:
    frames = decoded(written(tmp_path / f"cut{suffix}", Encoding(alpha=True)))
    assert len(frames) == COUNT
    for index, frame in enumerate(frames):
        np.testing.assert_allclose(alpha_of(frame), blocks(index)[..., 3] / 255, atol=0.02)
        assert np.abs(frame.to_ndarray(format="rgb24").astype(int) - blocks(index)[..., :3]).mean() < 12


@pytest.mark.parametrize(
    ("name", "encoding", "message"),
    [
        ("a.mp4", {"codec": "prores"}, "a.mp4: .mp4 files hold no prores; wanted one of h264, hevc, av1, vp9"),
        ("a.webm", {"codec": "h264"}, "a.webm: .webm files hold no h264; wanted one of av1, vp9"),
        ("a.mp4", {"codec": "divx"}, "divx is no codec here; wanted one of h264"),
        ("a.mp4", {"crf": 52}, "a.mp4: h264 takes a crf from 0 to 51, not 52"),
        ("a.mp4", {"crf": -1}, "crf is -1"),
        ("a.mov", {"codec": "prores", "crf": 9}, "prores takes no crf, not 9"),
        ("a.mp4", {"alpha": True}, "a.mp4: holds no transparency; wanted one of .mov, .mkv, .webm"),
        ("a.mov", {"alpha": True, "codec": "h264"}, "h264 holds no transparency"),
        ("a.gif", {}, ".gif is no video format here"),
    ],
)
def test_what_cannot_be_encoded(name: str, encoding: dict[str, object], message: str) -> None:
    with pytest.raises(VideoError, match=message.replace(".", r"\.")):
        Encoding(**encoding).encoder(Path(name))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("codec", "size"), [("h264", (200, 20_000)), ("hevc", (2, 2)), ("av1", (2, 64)), ("vp9", (16_384, 16_384))]
)
def test_sizes_that_a_codec_does_not_take(codec: str, size: tuple[int, int]) -> None:
    path, encoder = Path("a.mkv"), Encoding(codec).encoder(Path("a.mkv"))
    with pytest.raises(VideoError, match=f"a.mkv: lib.* takes no frames of {size[1]}×{size[0]} pixels"):
        encoder.require_size(path, *size)
    encoder.require_size(path, 63, 101)  # padded to even ones


def test_a_codec_that_pyav_was_built_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "av1", CODECS["av1"].__class__("libnothing", "yuv420p"))
    with pytest.raises(VideoError, match="was built without libnothing"):
        Encoding("av1").encoder(Path("a.mp4"))


def test_frames_have_the_channels_of_their_encoding(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "a.webm", 98, 50, 25, encoding=Encoding(alpha=True)) as video:
        with pytest.raises(VideoError, match=r"wanted \(50, 98, 4\) uint8 \(rows, columns, RGBA\)"):
            video.write(blocks(0)[..., :3].copy())
        video.write(blocks(0))
