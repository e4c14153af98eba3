"""Sources as they are outside: other processes that serve, send and show.

An HTTP server, a pipe and an RTSP server (a package's own) are real. The camera is made up: to FFmpeg, which reads it
by its own V4L2 code, camera.c answers in the driver's place; no camera's own quirks are in it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import av
import numpy as np
import pytest
from walk import typed

from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.media.video import VideoWriter
from x2sam_rt.runtime.writers import CocoFrame, read_coco_rle

HERE = Path(__file__).parent
SIDE, FRAMES, TAKEN = 96, 50, 5
RUN = f"x2sam-rt run {{bundle}} {{source}} -p 'the red circle' --max-frames {TAKEN} --overwrite -o {{output}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip.mp4, and the same pictures as a transport stream."""
    folder = tmp_path_factory.mktemp("sources")
    with VideoWriter(folder / "clip.mp4", SIDE, SIDE, 25) as video:
        for frame in make_clip(3, ClipSettings(side=SIDE, frames=FRAMES)).frames:
            video.write(frame)
    with av.open(str(folder / "clip.mp4")) as clip, av.open(str(folder / "clip.ts"), "w") as stream:
        pictures = stream.add_stream_from_template(clip.streams.video[0])
        for packet in clip.demux(video=0):
            if packet.dts is not None:
                packet.stream = pictures
                stream.mux(packet)
    return folder


def results(bundle: Path, source: str, folder: Path, name: str, **how: object) -> list[CocoFrame]:
    typed(RUN.format(bundle=bundle, source=source, output=name), folder, **how)  # type: ignore[arg-type]
    return list(read_coco_rle(folder / name))


def assert_same(one: list[CocoFrame], other: list[CocoFrame]) -> None:
    assert [frame.index for frame in one] == [frame.index for frame in other] == list(range(TAKEN))
    for mine, theirs in zip(one, other, strict=True):
        assert [segment.id for segment in mine.segments] == [segment.id for segment in theirs.segments]
        assert any(segment.mask.any() for segment in mine.segments)
        for here, there in zip(mine.segments, theirs.segments, strict=True):
            np.testing.assert_array_equal(here.mask, there.mask)
            assert here.score == pytest.approx(there.score, abs=1e-5)


@pytest.fixture(scope="module")
def from_file(onnx_bundle: Path, folder: Path) -> list[CocoFrame]:
    """What is expected of every way that brings the same pictures: the file, answered on its first frame."""
    return results(onnx_bundle, "clip.mp4 --live", folder, "file.jsonl")


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """A server, once it takes connections."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
                break
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("name", ["clip.ts", "clip.mp4"])
def test_http(onnx_bundle: Path, folder: Path, from_file: list[CocoFrame], name: str) -> None:
    port = free_port()
    server = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(folder)]
    with running(server, port):
        came = results(onnx_bundle, f"http://127.0.0.1:{port}/{name}", folder, "http.jsonl")
    assert_same(came, from_file)


@pytest.mark.skipif(find_spec("aio_rtsp_toolkit") is None, reason="no RTSP server: pip install aio-rtsp-toolkit")
def test_rtsp(onnx_bundle: Path, folder: Path, from_file: list[CocoFrame]) -> None:
    """Every frame of it gives the file's masks; the newest only, which is what live protocols get, some of them."""
    port, control = free_port(), free_port()
    code = "import server_demo; server_demo.main()"
    options = ["--dir", str(folder), "--host", "127.0.0.1", "--port", str(port), "--control-port", str(control)]
    with running([sys.executable, "-c", code, *options], port):
        address = f"rtsp://127.0.0.1:{port}/clip.mp4"
        assert_same(results(onnx_bundle, f"{address} --no-live", folder, "rtsp.jsonl"), from_file)
        newest = results(onnx_bundle, address, folder, "newest.jsonl")
        _, said = typed(f"x2sam-rt run {onnx_bundle} rtsp://127.0.0.1:{port}/nothing.mp4 -p it", folder, code=1)
    assert 0 < len(newest) <= TAKEN
    times = [frame.timestamp for frame in newest]
    assert times == sorted(times)  # type: ignore[type-var]
    assert "Check the address" in said


SENDER = """
import sys, av
with av.open("clip.mp4") as clip, av.open(sys.stdout.buffer, "w", format=sys.argv[1]) as pipe:
    stream = pipe.add_stream(sys.argv[2], rate=25)
    stream.width = stream.height = {side}
    stream.pix_fmt = sys.argv[3]
    for frame in clip.decode(video=0):
        pipe.mux(stream.encode(frame.reformat(format=sys.argv[3])))
    pipe.mux(stream.encode(None))
"""


@pytest.mark.parametrize(
    ("kind", "codec", "pixels"),
    [("yuv4mpegpipe", "wrapped_avframe", "yuv420p"), ("mjpeg", "mjpeg", "yuvj420p"), ("mpegts", "libx264", "yuv420p")],
)
def test_standard_input(onnx_bundle: Path, folder: Path, kind: str, codec: str, pixels: str) -> None:
    """Of the same bytes in a file the same comes."""
    command = [sys.executable, "-c", SENDER.format(side=SIDE), kind, codec, pixels]
    sent = folder / f"sent.{ {'yuv4mpegpipe': 'y4m', 'mjpeg': 'mjpeg', 'mpegts': 'ts'}[kind] }"
    sent.write_bytes(subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, check=True, timeout=900).stdout)
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as sender:
        piped = results(onnx_bundle, "-", folder, "piped.jsonl", stdin=sender.stdout)
    assert_same(piped, results(onnx_bundle, f"{sent.name} --live", folder, "sent.jsonl"))


def test_plain_bytes_on_standard_input(onnx_bundle: Path, folder: Path) -> None:
    frames = make_clip(3, ClipSettings(side=SIDE, frames=FRAMES)).frames
    (folder / "raw").write_bytes(b"".join(frame.tobytes() for frame in frames))
    with (folder / "raw").open("rb") as raw:
        came = results(onnx_bundle, f"- --raw-size {SIDE}x{SIDE}", folder, "raw.jsonl", stdin=raw)
    assert [frame.index for frame in came] == list(range(TAKEN))
    assert [frame.timestamp for frame in came] == pytest.approx([n / 25 for n in range(TAKEN)])


@pytest.fixture(scope="module")
def camera(folder: Path) -> dict[str, str]:
    """The environment in which /dev/video7 shows the clip."""
    compiler = which("cc")
    if sys.platform != "linux" or compiler is None or "video4linux2,v4l2" not in av.formats_available:
        pytest.skip("the camera is made up for Linux, with a C compiler and a PyAV that has V4L2")
    library = folder / "camera.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / "camera.c", "-ldl"], check=True, timeout=900
    )
    with av.open(str(folder / "clip.mp4")) as clip, (folder / "clip.yuyv").open("wb") as packed:
        for frame in clip.decode(video=0):
            packed.write(frame.reformat(format="yuyv422").to_ndarray().tobytes())
    return {
        "LD_PRELOAD": str(library),
        "FAKE_CAMERA": "/dev/video7",
        "FAKE_CAMERA_FRAMES": str(folder / "clip.yuyv"),
        "FAKE_CAMERA_WIDTH": str(SIDE),
        "FAKE_CAMERA_HEIGHT": str(SIDE),
    }


@pytest.mark.parametrize("name", ["7", "/dev/video7"])
def test_a_camera(
    onnx_bundle: Path, folder: Path, camera: dict[str, str], from_file: list[CocoFrame], name: str
) -> None:
    """Every frame, and its masks as the file's but for the colours' way through YUYV; a live run takes the newest."""
    came = results(onnx_bundle, f"{name} --no-live", folder, "camera.jsonl", more=camera)
    assert [frame.timestamp for frame in came] == pytest.approx([n / 25 for n in range(TAKEN)], abs=1e-3)
    for mine, theirs in zip(came, from_file, strict=True):
        assert mine.size == (SIDE, SIDE)
        (here,), (there,) = mine.segments, theirs.segments
        assert (here.mask & there.mask).sum() > 0.8 * (here.mask | there.mask).sum()
    live = results(onnx_bundle, name, folder, "live.jsonl", more=camera)
    assert [frame.index for frame in live] == list(range(TAKEN))


def test_a_camera_that_is_not_there(onnx_bundle: Path, folder: Path) -> None:
    _, said = typed(f"x2sam-rt run {onnx_bundle} 7 -p it", folder, code=1)
    assert "Check that the camera is there" in said
