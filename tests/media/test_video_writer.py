"""Writing videos: what is read back, and what is left behind when something goes wrong."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from x2sam_rt.errors import VideoError
from x2sam_rt.media.encoding import Encoding
from x2sam_rt.media.types import Pixels
from x2sam_rt.media.video import VideoReader, VideoWriter


def quarters(width: int, height: int) -> Pixels:
    """Four saturated colours, where a mix-up of channels or of the colour matrix shows."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[: height // 2, : width // 2] = (220, 30, 40)
    pixels[: height // 2, width // 2 :] = (20, 200, 60)
    pixels[height // 2 :, : width // 2] = (30, 60, 210)
    pixels[height // 2 :, width // 2 :] = (240, 240, 10)
    return pixels


@pytest.fixture
def small_files() -> Iterator[None]:
    """A disk on which no file grows over 20 kB."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    pixels = quarters(98, 66)
    with VideoWriter(path, 98, 66, Fraction(30000, 1001)) as writer:
        for _ in range(7):
            writer.write(pixels)
    with VideoReader(path) as reader:
        assert (reader.frame_rate, reader.num_frames) == (Fraction(30000, 1001), 7)
        frames = list(reader)
    assert [frame.timestamp for frame in frames] == pytest.approx([i * 1001 / 30000 for i in range(7)], abs=1e-4)
    for row, column in ((16, 24), (16, 73), (49, 24), (49, 73)):
        assert np.abs(frames[5].pixels[row, column].astype(int) - pixels[row, column]).max() <= 4
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_says_which_colours_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, 16, 16, 25) as writer:
        writer.write(quarters(16, 16))
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)


@pytest.mark.parametrize("size", [(97, 66), (98, 65), (97, 65), (1, 1)], ids=str)
def test_odd_sizes_repeat_their_last_pixels(tmp_path: Path, size: tuple[int, int]) -> None:
    width, height = size
    pixels = np.full((height, width, 3), 40, dtype=np.uint8)
    pixels[height // 2 :] = 200
    with VideoWriter(tmp_path / "odd.mp4", width, height, 25, encoding=Encoding(crf=1)) as writer:
        writer.write(pixels)
    with VideoReader(tmp_path / "odd.mp4") as reader:
        got = next(iter(reader)).pixels.astype(int)
    even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    assert got.shape == even.shape
    assert np.abs(got - even).max() <= 6


def test_keeps_given_times(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.51, 2.0, 2.0333]
    with VideoWriter(tmp_path / "vfr.mp4", 32, 32, 25) as writer:
        for time in times:
            writer.write(quarters(32, 32), time)
    with VideoReader(tmp_path / "vfr.mp4") as reader:
        assert [frame.timestamp for frame in reader] == pytest.approx(times, abs=1e-4)


def test_times_left_out_follow_the_frame_rate(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "mixed.mp4", 32, 32, 10) as writer:
        for time in (None, 0.5, None):
            writer.write(quarters(32, 32), time)
    with VideoReader(tmp_path / "mixed.mp4") as reader:
        assert [frame.timestamp for frame in reader] == pytest.approx([0.0, 0.5, 0.6], abs=1e-4)


def test_takes_strided_views(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "view.mp4", 32, 24, 25, encoding=Encoding(crf=1)) as writer:
        writer.write(quarters(64, 48)[::-2, ::2])
    with VideoReader(tmp_path / "view.mp4") as reader:
        got = next(iter(reader)).pixels.astype(int)
    assert np.abs(got[6, 8] - (30, 60, 210)).max() <= 4


@pytest.mark.parametrize("times", [(0.5, 0.5), (0.5, 0.2), (-1.0,)], ids=str)
def test_refuses_times_that_do_not_increase(tmp_path: Path, times: tuple[float, ...]) -> None:
    writer = VideoWriter(tmp_path / "back.mp4", 32, 32, 25)
    for time in times[:-1]:
        writer.write(quarters(32, 32), time)
    with pytest.raises(VideoError, match="a frame at"):
        writer.write(quarters(32, 32), times[-1])
    writer.discard()


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((32, 30, 3), np.uint8),
        np.zeros((32, 32, 4), np.uint8),
        np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 3), np.float32),
    ],
    ids=["narrow", "rgba", "grey", "float"],
)
def test_refuses_other_frames(tmp_path: Path, pixels: Pixels) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", 32, 32, 25)
    with pytest.raises(VideoError, match=r"wanted \(32, 32, 3\) uint8"):
        writer.write(pixels)
    writer.discard()


def test_an_error_leaves_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")

    def write_and_fail() -> None:
        with VideoWriter(path, 32, 32, 25) as writer:
            writer.write(quarters(32, 32))
            raise KeyError("the body's own")

    with pytest.raises(KeyError):
        write_and_fail()
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == ["out.mp4"]


def test_replaces_an_older_file_only_when_closed(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(b"older")
    writer = VideoWriter(path, 32, 32, 25)
    writer.write(quarters(32, 32))
    assert path.read_bytes() == b"older"
    writer.close()
    with VideoReader(path) as reader:
        assert reader.num_frames == 1


def test_no_frames_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no frame was written"), VideoWriter(tmp_path / "out.mp4", 32, 32, 25):
        pass
    assert not os.listdir(tmp_path)


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("frames", [8, 80], ids=["found-at-close", "found-while-writing"])
def test_a_full_disk(tmp_path: Path, frames: int) -> None:
    random = np.random.default_rng(0)

    def write_all() -> None:
        with VideoWriter(tmp_path / "out.mp4", 128, 96, 25) as writer:
            for _ in range(frames):
                writer.write(random.integers(0, 255, (96, 128, 3), dtype=np.uint8))

    with pytest.raises(VideoError, match=r"out\.mp4: cannot be written"):
        write_all()
    assert not os.listdir(tmp_path)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for parent in (tmp_path / "missing", tmp_path / "file"):
        with pytest.raises(VideoError, match="there is no folder"):
            VideoWriter(parent / "out.mp4", 32, 32, 25)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(VideoError, match="exists already"):
        VideoWriter(tmp_path / "folder.mp4", 32, 32, 25)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_rights(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(VideoError, match="cannot be written"):
        VideoWriter(tmp_path / "out.mp4", 32, 32, 25)


@pytest.mark.parametrize(("width", "height", "rate"), [(0, 32, 25), (32, -1, 25), (32, 32, 0)])
def test_refuses_impossible_videos(tmp_path: Path, width: int, height: int, rate: int) -> None:
    with pytest.raises(VideoError, match="is no video"):
        VideoWriter(tmp_path / "out.mp4", width, height, rate)


@pytest.mark.parametrize(("suffix", "brand"), [("mp4", b"ftypiso"), ("mov", b"ftypqt"), ("mkv", b"\x1aE\xdf\xa3")])
def test_the_suffix_says_the_container(tmp_path: Path, suffix: str, brand: bytes) -> None:
    path = tmp_path / f"out.{suffix}"
    times = [0.0, 0.041, 1.7, 1.75]
    with VideoWriter(path, 31, 33, 24) as writer:
        for time in times:
            writer.write(quarters(31, 33), time)
    assert brand in path.read_bytes()[:16]
    with VideoReader(path) as reader:
        assert [frame.timestamp for frame in reader] == pytest.approx(times, abs=1e-3)


def test_a_suffix_of_no_container(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"\.wmv is no video format here; use \.mp4, \.mov, \.mkv, \.webm"):
        VideoWriter(tmp_path / "out.wmv", 32, 32, 25)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("gap", [6 * 3600.0, 7 * 3600.0, 400 * 3600.0])
def test_hours_between_two_frames(tmp_path: Path, gap: float) -> None:
    """Matroska holds any gap, MP4 those of less than 6.6 hours."""
    for suffix in ("mkv", "mp4"):
        with VideoWriter(tmp_path / f"out.{suffix}", 32, 32, 25) as writer:
            writer.write(quarters(32, 32), 0.0)
            if suffix == "mp4" and gap > 6.6 * 3600:
                with pytest.raises(VideoError, match=r"Write \.mkv, which holds any"):
                    writer.write(quarters(32, 32), gap)
                continue
            writer.write(quarters(32, 32), gap)
            writer.write(quarters(32, 32))
        with VideoReader(tmp_path / f"out.{suffix}") as reader:
            assert [frame.timestamp for frame in reader] == pytest.approx([0, gap, gap + 0.04], abs=1e-3)
