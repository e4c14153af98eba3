"""Reading videos: times, orientation, and every way a file can break off."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from x2sam_rt.errors import VideoError
from x2sam_rt.media import containers
from x2sam_rt.media.containers import FrameTimes, count_packets, frame_times, missing_tail
from x2sam_rt.media.types import Pixels
from x2sam_rt.media.video import VideoFrame, VideoReader, pick_frames, sought_frames, upright

RATE = 25
FRAMES = 20
FASTSTART = {"movflags": "faststart"}
QUALITY = {"libx264": {"crf": "5", "threads": "1"}}  # near the original, and the same bytes every time


@dataclass(frozen=True)
class Clip:
    """What to encode. times: seconds per frame; the default is FRAMES frames at RATE."""

    width: int = 64
    height: int = 48
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    times: Sequence[float] = tuple(index / RATE for index in range(FRAMES))
    rotation: float = 0.0
    mirrored: bool = False
    audio: bool = False
    pix_fmt: str = "yuv420p"
    group: int = 8


def noise(width: int, height: int, shift: int) -> Pixels:
    """Smooth noise, moving with `shift`, so that every frame costs bits."""
    coarse = np.random.default_rng(5).integers(0, 255, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
    return np.roll(coarse.repeat(4, 0).repeat(4, 1), 4 * shift, 1)[:height, :width].copy()


def make(path: Path, clip: Clip | None = None) -> Path:
    clip = clip or Clip()
    with av.open(str(path), "w", options=clip.options) as container:
        stream = container.add_stream(clip.codec, rate=RATE, options=QUALITY.get(clip.codec, {}))
        stream.width, stream.height, stream.pix_fmt = clip.width, clip.height, clip.pix_fmt
        stream.codec_context.gop_size = clip.group
        stream.codec_context.time_base = Fraction(1, 1000)
        if clip.rotation or clip.mirrored:
            stream.set_display_rotation(clip.rotation, hflip=clip.mirrored)
        sound = container.add_stream("aac", rate=16000) if clip.audio else None
        for index, time in enumerate(clip.times):
            frame = av.VideoFrame.from_ndarray(noise(clip.width, clip.height, index))
            frame.time_base, frame.pts = Fraction(1, 1000), round(time * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
            silence.sample_rate, silence.pts = 16000, 0
            container.mux(sound.encode(silence))
            container.mux(sound.encode(None))
    return path


def cut(path: Path, end: int) -> Path:
    """A copy of the file's first `end` bytes."""
    short = path.with_stem(path.stem + "_cut")
    short.write_bytes(path.read_bytes()[:end])
    return short


def cut_within(path: Path, number: int) -> Path:
    """A copy that ends in the middle of the data of a packet."""
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
    start = path.read_bytes().find(bytes(packet))
    if start < 0:  # a transport stream scatters it
        assert packet.pos is not None
        start = packet.pos
    return cut(path, start + packet.size * 2 // 3)


def stored(path: Path) -> Pixels:
    """The first frame as it lies in the file, not turned."""
    with av.open(str(path)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24")


def count(path: Path, *, allow_truncated: bool = False) -> int:
    with VideoReader(path, allow_truncated=allow_truncated) as reader:
        return sum(1 for _ in reader)


def test_reads_frames_with_their_times(tmp_path: Path) -> None:
    with VideoReader(make(tmp_path / "a.mp4")) as reader:
        assert (reader.width, reader.height, reader.frame_rate, reader.num_frames) == (64, 48, RATE, FRAMES)
        frames = list(reader)
    assert [frame.index for frame in frames] == list(range(FRAMES))
    assert [frame.timestamp for frame in frames] == pytest.approx([i / RATE for i in range(FRAMES)])
    assert frames[0].pixels.shape == (48, 64, 3)
    assert frames[0].pixels.dtype == np.uint8
    for index in (0, 7, FRAMES - 1):  # the right frame in the right place, colours in the right order
        assert np.abs(frames[index].pixels.astype(int) - noise(64, 48, index)).mean() < 10


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_keeps_a_variable_frame_rate(tmp_path: Path, suffix: str) -> None:
    times = (0.0, 0.04, 0.5, 0.51, 2.0, 2.033)
    with VideoReader(make(tmp_path / f"vfr.{suffix}", Clip(times=times))) as reader:
        assert [frame.timestamp for frame in reader] == pytest.approx(times, abs=1e-3)


def test_times_do_not_go_back_in_avi(tmp_path: Path) -> None:
    """It says when frames are decoded, which of B-frames is not when they are shown."""
    path = make(tmp_path / "clip.avi")
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.has_b_frames
    with VideoReader(path) as reader:
        frames = list(reader)
    assert [frame.timestamp for frame in frames] == pytest.approx([index / RATE for index in range(FRAMES)])
    picked = pick_frames(path, 5).spread
    assert [frame.index for frame in picked] == [0, 5, 10, 14, 19]
    for frame in picked:
        assert frame.timestamp == pytest.approx(frame.index / RATE)
        assert np.array_equal(frame.pixels, frames[frame.index].pixels)


def test_times_begin_at_zero_where_the_file_begins_later(tmp_path: Path) -> None:
    times = tuple(90 + index / RATE for index in range(5))
    with VideoReader(make(tmp_path / "late.ts", Clip(times=times))) as reader:
        assert [frame.timestamp for frame in reader] == pytest.approx([i / RATE for i in range(5)], abs=1e-3)


@pytest.mark.parametrize("size", [(65, 47), (17, 33)], ids=str)
def test_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    clip = Clip(width=size[0], height=size[1], codec="ffv1", pix_fmt="yuv444p")
    with VideoReader(make(tmp_path / "odd.mkv", clip)) as reader:
        assert (reader.width, reader.height) == size
        assert next(iter(reader)).pixels.shape == (size[1], size[0], 3)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_turns_frames_upright(tmp_path: Path, degrees: float, turns: int) -> None:
    path = make(tmp_path / "turned.mp4", Clip(rotation=degrees))
    with VideoReader(path) as reader:
        size = (reader.width, reader.height)
        turned = next(iter(reader)).pixels
    assert size == (turned.shape[1], turned.shape[0])
    np.testing.assert_array_equal(turned, np.rot90(stored(path), turns))  # the display matrix counts counterclockwise


def test_undoes_a_mirror(tmp_path: Path) -> None:
    path = make(tmp_path / "mirror.mp4", Clip(mirrored=True))
    np.testing.assert_array_equal(pick_frames(path, 1).spread[0].pixels, stored(path)[:, ::-1])


@pytest.mark.parametrize("a_b_c_d", [(1, 0, 0, 1), (0, 1, -1, 0), (0, -1, -1, 0), (-1, 0, 0, -1), (0, 1, 1, 0)])
def test_upright_moves_points_as_the_matrix_says(a_b_c_d: tuple[int, int, int, int]) -> None:
    a, b, c, d = a_b_c_d
    pixels = np.arange(3 * 5 * 3, dtype=np.uint8).reshape(3, 5, 3)
    matrix = np.array([[a, b, 0], [c, d, 0], [0, 0, 1]], dtype=np.int32) * 65536
    shown = upright(pixels, matrix)
    ys, xs = np.mgrid[:3, :5]
    new_xs, new_ys = a * xs + c * ys, b * xs + d * ys
    expected = np.zeros_like(shown)
    expected[new_ys - new_ys.min(), new_xs - new_xs.min()] = pixels
    np.testing.assert_array_equal(shown, expected)
    assert shown.flags.c_contiguous


def test_passes_over_audio(tmp_path: Path) -> None:
    path = make(tmp_path / "sound.mp4", Clip(audio=True))
    assert count(path) == FRAMES


def test_edit_list_is_no_truncation(tmp_path: Path) -> None:
    with VideoReader(trimmed(tmp_path)) as reader:
        assert reader.num_frames == FRAMES - 5
        assert len(list(reader)) == FRAMES - 5


def trimmed(tmp_path: Path) -> Path:
    """A clip trimmed without re-encoding holds more frames than it shows."""
    path = tmp_path / "trimmed.mp4"
    with av.open(str(make(tmp_path / "a.mp4"))) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copied = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size and packet.pts is not None and packet.dts is not None:
                shift = round(5 / RATE / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copied
                target.mux(packet)
    return path


# Every container is cut where a frame's data stand; how FFmpeg reports that differs in each.
BREAKABLE = [
    pytest.param("mp4", Clip(options=FASTSTART), id="mp4-index-in-front"),
    pytest.param("mp4", Clip(options={"movflags": "frag_keyframe+empty_moov"}), id="mp4-fragmented"),
    pytest.param("mp4", Clip(options=FASTSTART, audio=True), id="mp4-audio"),
    pytest.param("mkv", Clip(), id="mkv"),
    pytest.param("webm", Clip(codec="libvpx"), id="webm"),
    pytest.param("ts", Clip(), id="mpegts"),
    pytest.param("h264", Clip(), id="raw-h264"),
    pytest.param("flv", Clip(), id="flv"),
    pytest.param("avi", Clip(codec="mpeg4"), id="avi"),
    pytest.param("avi", Clip(codec="mjpeg", pix_fmt="yuvj420p"), id="avi-mjpeg"),
]


@pytest.mark.parametrize("broken", [2, 11, FRAMES - 1])
@pytest.mark.parametrize(("suffix", "clip"), BREAKABLE)
def test_a_cut_file_raises_at_the_break(tmp_path: Path, suffix: str, clip: Clip, broken: int) -> None:
    path = make(tmp_path / f"clip.{suffix}", clip)
    assert count(path) == FRAMES
    short = cut_within(path, broken)
    sound = count(short, allow_truncated=True)
    assert 0 < sound <= broken
    seen: list[VideoFrame] = []
    with VideoReader(short) as reader, pytest.raises(VideoError) as caught:
        seen.extend(reader)
    assert [frame.index for frame in seen] == list(range(sound))  # every sound frame comes before the error
    message = str(caught.value)
    assert str(short) in message
    assert f"frame {sound - 1} at {seen[-1].timestamp:.3f} s" in message
    assert "allow_truncated=True" in message


def test_frames_before_a_break_are_the_whole_files(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", Clip(options=FASTSTART))
    with VideoReader(path) as whole, VideoReader(cut_within(path, 12), allow_truncated=True) as part:
        originals = {frame.timestamp: frame.pixels for frame in whole}
        kept = list(part)
    assert len(kept) == 12
    for frame in kept:
        np.testing.assert_array_equal(frame.pixels, originals[frame.timestamp])


def test_allowing_truncation_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    count(cut_within(make(tmp_path / "a.ts"), 9), allow_truncated=True)
    assert "breaks off after frame" in caplog.text


def test_damage_in_the_middle_raises(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", Clip(options=FASTSTART))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 600] = bytes(600)
    path.write_bytes(data)
    with pytest.raises(VideoError, match="breaks off after frame"):
        count(path)


def test_a_recording_may_begin_between_key_frames(tmp_path: Path) -> None:
    path = make(tmp_path / "a.ts")
    data = path.read_bytes()
    path.write_bytes(data[188 * (len(data) // 188 // 3) :])
    assert 0 < count(path) < FRAMES


def test_a_live_matroska_has_no_length_to_miss(tmp_path: Path) -> None:
    path = make(tmp_path / "live.mkv", Clip(options={"live": "1"}))
    assert count(path) == FRAMES
    with av.open(str(path)) as container:
        assert missing_tail(path, container) is None


@pytest.mark.parametrize("kept", [30, 2000, 5000])
def test_an_mp4_cut_before_its_index_cannot_be_opened(tmp_path: Path, kept: int) -> None:
    with pytest.raises(VideoError, match="cut off before its index"):
        VideoReader(cut(make(tmp_path / "a.mp4"), kept))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.mp4", b"", r"empty \(0 bytes\)"),
        ("noise.mp4", bytes(range(256)) * 50, "not a video"),
        ("text.txt", b"frames, they said\n" * 40, "text file"),
        ("head.mkv", b"\x1a\x45\xdf\xa3" + bytes(60), "not a video"),
    ],
)
def test_what_is_no_video(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(VideoError, match=message) as caught:
        VideoReader(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.mp4", tmp_path):
        with pytest.raises(VideoError, match="no such file"):
            VideoReader(path)


def test_a_still_image_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "still.png"
    with av.open(str(path), "w", format="image2", options={"update": "1"}) as container:
        stream = container.add_stream("png", rate=1)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(noise(16, 16, 0))))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="still image"):
        VideoReader(path)


def test_sound_with_a_cover_has_no_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        sound, cover = container.add_stream("aac", rate=16000), container.add_stream("mjpeg")
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(noise(32, 32, 0))))
        container.mux(cover.encode(None))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 16000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    with pytest.raises(VideoError, match=r"no video stream \(streams found: audio, cover picture\)"):
        VideoReader(path)


def test_frames_are_released(tmp_path: Path) -> None:
    """At once, not when the garbage collector comes by: a decoded 4K frame is 12 MB."""
    path = make(tmp_path / "a.mp4")
    gc.collect()
    gc.disable()
    try:
        references = []
        with VideoReader(path) as reader:
            for frame in reader:
                references.append(weakref.ref(frame))
                assert sum(reference() is not None for reference in references) <= 2
                if frame.index in (10, FRAMES - 1):  # the decoder itself holds some back to order them
                    assert sum(isinstance(thing, av.VideoFrame) for thing in gc.get_objects()) <= 6
    finally:
        gc.enable()


def test_a_reader_makes_one_pass(tmp_path: Path) -> None:
    with VideoReader(make(tmp_path / "a.mp4")) as reader:
        list(reader)
        with pytest.raises(VideoError, match="one pass"):
            list(reader)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "h264", "ts"])
@pytest.mark.parametrize(
    ("wanted", "expected"),
    [(1, [0]), (2, [0, 19]), (4, [0, 6, 13, 19]), (20, list(range(20))), (64, list(range(20)))],
)
def test_picks_evenly_spaced_frames(tmp_path: Path, suffix: str, wanted: int, expected: list[int]) -> None:
    """By seeking (MP4, Matroska), without times (raw), and where a seek does not arrive at the key frame (TS)."""
    path = make(tmp_path / f"a.{suffix}")
    with VideoReader(path) as reader:
        every = list(reader)
    frames = pick_frames(path, wanted).spread
    assert [frame.index for frame in frames] == expected
    for frame in frames:
        np.testing.assert_array_equal(frame.pixels, every[frame.index].pixels)
        assert frame.timestamp == every[frame.index].timestamp


def test_picked_frames_span_what_a_cut_file_still_has(tmp_path: Path) -> None:
    short = cut_within(make(tmp_path / "a.mp4", Clip(options=FASTSTART)), 14)
    last = count(short, allow_truncated=True) - 1
    frames = pick_frames(short, 3, allow_truncated=True).spread
    assert [frame.index for frame in frames] == [0, round(last / 2), last]
    with pytest.raises(VideoError, match="breaks off"):
        pick_frames(short, 3)


def test_picking_no_frames_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="at least 1"):
        pick_frames(make(tmp_path / "a.mp4"), 0)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_picks_chosen_frames_in_the_same_pass(tmp_path: Path, suffix: str) -> None:
    path = make(tmp_path / f"a.{suffix}")
    picked = pick_frames(path, 2, {0, 5, 99})
    assert [frame.index for frame in picked.spread] == [0, FRAMES - 1]
    assert {index: frame.index for index, frame in picked.chosen.items()} == {0: 0, 5: 5}
    assert picked.total == FRAMES
    with VideoReader(path) as reader:
        np.testing.assert_array_equal(picked.chosen[5].pixels, list(reader)[5].pixels)


SEEKABLE = [
    pytest.param("mp4", Clip(), id="mp4"),
    pytest.param("mp4", Clip(audio=True, rotation=90), id="mp4-audio-turned"),
    pytest.param("mkv", Clip(times=(0.0, 0.04, 0.5, 0.51, 2.0, 2.033, 2.5, 2.6, 3, 3.01, 3.5)), id="mkv-variable-rate"),
    pytest.param("mov", Clip(codec="mjpeg", pix_fmt="yuvj420p"), id="mov-mjpeg"),
    pytest.param("mp4", Clip(group=999), id="one-group"),
    pytest.param("mp4", Clip(codec="libx265"), id="hevc-open-groups"),
]


@pytest.mark.parametrize(("suffix", "clip"), SEEKABLE)
def test_sought_frames_are_those_of_a_whole_pass(tmp_path: Path, suffix: str, clip: Clip) -> None:
    path = make(tmp_path / f"a.{suffix}", clip)
    times = frame_times(path)
    assert times is not None
    with VideoReader(path) as reader:
        every = list(reader)
    assert len(times.shown) == len(every)
    for number in range(len(every)):
        with VideoReader(path, _frame_threads=True) as reader:
            found = reader.seek_frames(times, {number, len(every) - 1, len(every) // 2})
        assert found is not None
        assert [frame.index for frame in found] == sorted({number, len(every) - 1, len(every) // 2})
        for frame in found:
            np.testing.assert_array_equal(frame.pixels, every[frame.index].pixels)
            assert frame.timestamp == every[frame.index].timestamp


@pytest.mark.parametrize(("suffix", "clip"), SEEKABLE)
@pytest.mark.parametrize("processors", [None, 1, 3])
def test_several_readers_find_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processors: int | None, suffix: str, clip: Clip
) -> None:
    path = make(tmp_path / f"a.{suffix}", clip)
    monkeypatch.setattr("os.cpu_count", lambda: processors)
    with VideoReader(path) as reader:
        every = list(reader)
    times, kept = frame_times(path), list[int]()
    assert times is not None

    def keep(frame: VideoFrame) -> VideoFrame:
        kept.append(frame.index)
        return frame

    found = sought_frames(path, times, range(1, len(every)), keep)
    assert found is not None
    assert [frame.index for frame in found] == sorted(kept) == list(range(1, len(every)))
    assert kept[0] == 1
    for frame in found:
        np.testing.assert_array_equal(frame.pixels, every[frame.index].pixels)
    later = FrameTimes((*times.shown[:-1], times.shown[-1] + 1), times.keys, times.time_base)
    assert sought_frames(path, later, {0, len(every) - 1}) is None


def test_only_groups_with_wanted_frames_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path / "long.mp4", Clip(times=tuple(index / RATE for index in range(400))))
    decoded, decode = [], containers._decode

    def counting(packet: containers.VideoPacket) -> list[av.VideoFrame]:
        decoded.append(packet)
        return decode(packet)

    monkeypatch.setattr(containers, "_decode", counting)
    assert [frame.index for frame in pick_frames(path, 3).spread] == [0, 200, 399]
    assert len(decoded) < 60


def test_a_trimmed_file_is_sought_by_what_it_shows(tmp_path: Path) -> None:
    path = trimmed(tmp_path)
    with VideoReader(path) as reader:
        every = list(reader)
    picked = pick_frames(path, 3, {4})
    assert picked.total == len(every) == FRAMES - 5
    for frame in (*picked.spread, picked.chosen[4]):
        np.testing.assert_array_equal(frame.pixels, every[frame.index].pixels)


@pytest.mark.parametrize(
    ("suffix", "clip"),
    [("webm", Clip(codec="libvpx")), ("h264", Clip()), ("avi", Clip(codec="mpeg4"))],
    ids=["hidden-frames", "no-times", "packed-frames"],
)
def test_packets_that_do_not_tell(tmp_path: Path, suffix: str, clip: Clip) -> None:
    path = make(tmp_path / f"a.{suffix}", clip)
    assert frame_times(path) is None
    assert [frame.index for frame in pick_frames(path, 2).spread] == [0, FRAMES - 1]


def test_damage_in_a_sought_group_is_left_to_a_whole_pass(tmp_path: Path) -> None:
    path = make(tmp_path / "a.mp4", Clip(options=FASTSTART))
    times = frame_times(path)
    assert times is not None
    later = FrameTimes((*times.shown[:-1], times.shown[-1] + 1), times.keys, times.time_base)
    with VideoReader(path) as reader:
        assert reader.seek_frames(later, {FRAMES - 1}) is None


def test_more_packets_than_frames(tmp_path: Path) -> None:
    """A transport stream cut at its front: packets before the first key frame are counted, and give no frames."""
    path = make(tmp_path / "a.ts")
    data = path.read_bytes()
    path.write_bytes(data[188 * (len(data) // 188 // 3) :])
    total = count(path)
    assert count_packets(path) > total
    assert [frame.index for frame in pick_frames(path, 2).spread] == [0, total - 1]
