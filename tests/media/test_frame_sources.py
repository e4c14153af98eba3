"""Sources: each kind gives the frames that are there, and a part of it is that part of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest

from x2sam_rt.errors import VideoError
from x2sam_rt.media.image import write_image
from x2sam_rt.media.live import Newest
from x2sam_rt.media.source import FrameSource, Part
from x2sam_rt.media.sources import ImageSequence, VideoFile, open_source
from x2sam_rt.media.types import Pixels
from x2sam_rt.media.video import VideoFrame, VideoReader

W, H, RATE, FRAMES = 66, 50, 10, 47


def picture(index: int) -> Pixels:
    """Its grey level says its number."""
    return np.full((H, W, 3), 5 * index + 5, dtype=np.uint8)


def number(pixels: Pixels) -> int:
    return round((float(pixels.mean()) - 5) / 5)


def encode(path: Path, codec: str = "libx264", group: int = 9, kind: str | None = None) -> Path:
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = W, H, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = group
        for index in range(FRAMES):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(index))))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module", params=["mp4", "mkv", "ts", "h264"])
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Containers that can be sought in, that are sought in by guess, and that have no times."""
    return encode(tmp_path_factory.mktemp("video") / f"a.{request.param}")


def numbers(source: FrameSource) -> list[int]:
    with source:
        frames = list(source)
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert frames[0].timestamp == 0
    return [number(frame.pixels) for frame in frames]


PARTS = [
    pytest.param(Part(), range(FRAMES), id="whole"),
    pytest.param(Part(start=2.0), range(20, FRAMES), id="from"),
    pytest.param(Part(end=0.35), range(4), id="to"),
    pytest.param(Part(start=1.05, end=3.0, stride=4), range(11, 30, 4), id="every-fourth-between"),
    pytest.param(Part(stride=7, most=3), range(0, 21, 7), id="three-of-every-seventh"),
]


@pytest.mark.parametrize(("part", "expected"), PARTS)
def test_a_part_of_a_video(video: Path, part: Part, expected: range) -> None:
    if video.suffix == ".h264":
        pytest.skip("a raw stream counts 25 frames a second, whatever it was made with")
    assert numbers(open_source(video, part)) == list(expected)
    with open_source(video, part) as source:
        picked = source.pick(3, {1, 500})
    assert picked is not None
    assert picked.total == len(expected)
    assert [number(frame.pixels) for frame in picked.spread] == [
        expected[round(n)] for n in np.linspace(0, len(expected) - 1, 3)
    ]
    assert {n: number(frame.pixels) for n, frame in picked.chosen.items()} == {1: expected[1]}


def test_a_raw_stream_from_a_time_on(tmp_path: Path) -> None:
    assert numbers(VideoFile(encode(tmp_path / "a.h264"), Part(start=1.0, end=1.2))) == [25, 26, 27, 28, 29]


def test_a_part_without_frames(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4")
    with VideoFile(path, Part(start=99)) as source, pytest.raises(VideoError, match="has no frame from 99 seconds on"):
        source.pick(4)
    with pytest.raises(VideoError, match="No frame lies from"):
        Part(start=3, end=2)
    with pytest.raises(VideoError, match="so 1 or more"):
        Part(stride=0)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for index in range(12):
        write_image(folder / f"frame{index}.png", picture(index))
    (folder / "notes.md").write_text("no image")
    return folder


def test_a_folder_a_pattern_and_a_list_of_images(images: Path, tmp_path: Path) -> None:
    assert numbers(open_source(images)) == list(range(12))  # 2 before 10
    assert numbers(open_source(str(images / "frame1*.png"))) == [1, 10, 11]
    assert numbers(open_source(images / "frame7.png")) == [7]
    listed = tmp_path / "list.txt"
    listed.write_text("images/frame3.png\n\nimages/frame2.png\n")
    assert numbers(open_source(listed)) == [3, 2]
    assert numbers(open_source(images, Part(stride=5, most=2))) == [0, 5]


def test_images_are_picked_as_frames(images: Path) -> None:
    source = open_source(images)
    assert isinstance(source, ImageSequence)
    picked = source.pick(3, {4})
    assert picked is not None
    assert [number(frame.pixels) for frame in picked.spread] == [0, 6, 11]
    assert number(picked.chosen[4].pixels) == 4


def test_nothing_is_looked_ahead_at_live(images: Path, tmp_path: Path) -> None:
    assert open_source(images, live=True).pick(3) is None
    with open_source(encode(tmp_path / "a.mp4"), live=True) as source:
        assert source.pick(3) is None


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nowhere.mp4", "no such file"),
        ("ftp://host/a.mp4", "cannot read ftp addresses; wanted one of rtsp"),
        ("empty", "no images there"),
        ("none*.png", "no images there"),
        ("missing.txt", "No such file"),
        ("waiting.txt", "is no regular file"),
        ("endless.txt", "is no regular file"),
        ("x" * 300, "no such file"),
        ("?" * 300, "no images there"),
        ("binary.txt", "a list of images is text"),
        ("77", "Check that the camera is there"),
        ("/dev/video77", "Check that the camera is there"),
        ("tcp://127.0.0.1:9", "Check the address"),
    ],
)
def test_addresses_that_name_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.txt").write_bytes(bytes(range(128, 256)))
    os.mkfifo(tmp_path / "waiting.txt")
    (tmp_path / "endless.txt").symlink_to("/dev/zero")
    with pytest.raises(VideoError, match=message):
        open_source(address)


def from_stdin(data: Path, *options: str) -> list[int]:
    """What another process makes of a pipe."""
    code = (
        "import sys; from x2sam_rt.media.sources import open_source\n"
        f"with open_source('-', {', '.join(options)}) as source:\n"
        "    print(*[round((frame.pixels.mean() - 5) / 5) for frame in source])"
    )
    with subprocess.Popen(["cat", str(data)], stdout=subprocess.PIPE) as cat:
        done = subprocess.run(
            [sys.executable, "-c", code], stdin=cat.stdout, capture_output=True, text=True, timeout=60, check=True
        )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.parametrize(("kind", "codec"), [("yuv4mpegpipe", "rawvideo"), ("mjpeg", "mjpeg"), ("mpegts", "libx264")])
def test_standard_input(tmp_path: Path, kind: str, codec: str) -> None:
    codec = "wrapped_avframe" if kind == "yuv4mpegpipe" else codec
    assert from_stdin(encode(tmp_path / "pipe", codec, kind=kind)) == list(range(FRAMES))


def test_plain_bytes_on_standard_input(tmp_path: Path) -> None:
    (tmp_path / "raw").write_bytes(b"".join(picture(index).tobytes() for index in range(5)))
    assert from_stdin(tmp_path / "raw", f"raw_size=({W}, {H})") == [0, 1, 2, 3, 4]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    handler.log_message = lambda *_: None  # type: ignore[attr-defined]
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_an_http_address(tmp_path: Path) -> None:
    encode(tmp_path / "a.ts")
    with served(tmp_path) as address:
        assert numbers(open_source(f"{address}/a.ts")) == list(range(FRAMES))
        with pytest.raises(VideoError, match="cannot be opened"):
            open_source(f"{address}/b.ts")


def test_a_playlist_from_the_network_opens_no_local_file(tmp_path: Path) -> None:
    video = encode(tmp_path / "a.ts")
    (tmp_path / "list.m3u8").write_text(
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:4.7,\nfile://{video}\n#EXT-X-ENDLIST\n"
    )
    with served(tmp_path) as address, pytest.raises(VideoError):
        numbers(open_source(f"{address}/list.m3u8"))


def test_a_stream_that_breaks_off_gives_what_came(tmp_path: Path) -> None:
    data = encode(tmp_path / "a.ts").read_bytes()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def send() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(data[: len(data) * 2 // 3])

        threading.Thread(target=send, daemon=True).start()
        with open_source(f"tcp://127.0.0.1:{server.getsockname()[1]}") as source:
            came = [number(frame.pixels) for frame in source]
    assert came == sorted(set(came))  # one that is damaged at the break may be left out
    assert 0 < len(came) < FRAMES


def test_only_the_newest_frame_waits() -> None:
    taken, given = threading.Event(), threading.Event()

    def frames() -> Iterator[VideoFrame]:
        for index in range(4):
            yield VideoFrame(index, index / RATE, picture(index))
            if index == 0:
                taken.wait(10)
        given.set()

    newest = Newest(frames())
    came = iter(newest)
    assert next(came).index == 0
    taken.set()
    assert given.wait(10)
    time.sleep(0.05)
    assert [frame.index for frame in came] == [3]
    assert newest.dropped == 2


def test_what_the_source_raises_reaches_who_takes() -> None:
    def frames() -> Iterator[VideoFrame]:
        yield VideoFrame(0, 0.0, picture(0))
        raise VideoError("breaks off")

    with pytest.raises(VideoError, match="breaks off"):
        list(Newest(frames()))


def test_the_reader_begins_at_a_time_exactly(video: Path) -> None:
    with VideoReader(video) as reader:
        every = list(reader)
    for wanted in (0.0, every[13].timestamp, every[13].timestamp + 1e-4, every[-1].timestamp):
        with VideoReader(video) as reader:
            reader.start_at(wanted)
            rest = list(reader)
        expected = [frame for frame in every if frame.timestamp >= wanted]
        assert [frame.timestamp for frame in rest] == [frame.timestamp for frame in expected]
        assert [number(frame.pixels) for frame in rest] == [number(frame.pixels) for frame in expected]
