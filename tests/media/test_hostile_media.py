"""Media that are broken, enormous, or reach for other files: named errors, nothing opened, no memory lost."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
from av.packet import Packet
from PIL import Image

from x2sam_rt.errors import VideoError
from x2sam_rt.media.image import read_image, read_mask
from x2sam_rt.media.sources import open_source
from x2sam_rt.media.video import VideoReader, VideoWriter, pick_frames

FRAMES = 5


def refusal(path: Path, read: Callable[[Path], object]) -> str | None:
    """What a file is refused with; None where it is read."""
    try:
        read(path)
    except VideoError as error:
        return str(error)
    return None


def clip(path: Path, format: str | None = None, title: str = "") -> Path:
    with av.open(str(path), "w", format=format) as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.metadata.update({"title": title} if title else {})
        for level in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 40 * level, np.uint8))
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mkv", "mp4", "avi"])
def test_titles_in_any_encoding(tmp_path: Path, suffix: str) -> None:
    path = clip(tmp_path / f"clip.{suffix}", title="XXXXXXXX")
    content = path.read_bytes()
    assert b"XXXXXXXX" in content
    path.write_bytes(content.replace(b"XXXXXXXX", b"\xff\xfe\xe9\x80XXXX"))
    with VideoReader(path) as reader:
        assert len(list(reader)) == FRAMES
    assert pick_frames(path, 2).total == FRAMES


PLAYLISTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\npart.ts\n#EXT-X-ENDLIST\n",
    "list.ffconcat": "ffconcat version 1.0\nfile part.ts\n",
    "stream.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 33\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_files_that_open_others_are_read_on_request_only(tmp_path: Path, name: str) -> None:
    clip(tmp_path / "part.ts", "mpegts")
    (tmp_path / name).write_text(PLAYLISTS[name])
    for read in (VideoReader, open_source, lambda path: pick_frames(path, 1)):
        with pytest.raises(VideoError, match=r"opens other files or devices.*allow_playlists=True"):
            read(tmp_path / name)
    if name != "stream.sdp":
        with open_source(tmp_path / name, allow_playlists=True) as source:
            assert len(list(source)) == FRAMES
            assert source.pick(2) is None  # it may never end


def test_a_playlist_is_known_by_what_it_holds(tmp_path: Path) -> None:
    """A name that lies opens nothing either: the part that is named is a pipe, and waiting for it would hang."""
    os.mkfifo(tmp_path / "part.ts")
    for name, text in PLAYLISTS.items():
        for suffix in ("mp4", "mkv", "ts"):
            (tmp_path / f"{name}.{suffix}").write_text(text)
            with pytest.raises(VideoError):
                VideoReader(tmp_path / f"{name}.{suffix}")


def test_a_playlist_on_request_stays_on_this_machine(tmp_path: Path) -> None:
    """Port 9 would refuse; the protocol is refused before, so no reason of a network's is given."""
    for text in ("#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",):
        (tmp_path / "list.m3u8").write_text(text)
        with pytest.raises(VideoError, match="cannot be opened") as caught:
            open_source(tmp_path / "list.m3u8", allow_playlists=True)
        assert "refused" not in str(caught.value)


def test_a_playlist_on_standard_input_opens_nothing(tmp_path: Path) -> None:
    clip(tmp_path / "part.ts", "mpegts")
    code = (
        "from x2sam_rt.media.sources import open_source\n"
        "from x2sam_rt.errors import VideoError\n"
        "try: open_source('-')\n"
        "except VideoError as error: print(error)\n"
    )
    text = PLAYLISTS["list.ffconcat"].replace("part.ts", str(tmp_path / "part.ts"))
    done = subprocess.run(
        [sys.executable, "-c", code], input=text, capture_output=True, text=True, check=True, timeout=900
    )
    assert "cannot be opened" in done.stdout


def png_of(width: int, height: int) -> bytes:
    """A black PNG of a few bytes per row, whatever its size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize("declared", [(64, 48), (20_000, 20_000)], ids=["told-by-the-frame", "told-by-the-file"])
def test_enormous_frames_are_refused_before_they_are_unpacked(tmp_path: Path, declared: tuple[int, int]) -> None:
    bomb = png_of(20_000, 20_000)
    assert len(bomb) < 100_000
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(VideoError, match="too many pixels"):
        read_image(tmp_path / "bomb.png")
    with av.open(str(tmp_path / "bomb.mov"), "w") as container:
        stream = container.add_mux_stream("png", rate=1, width=declared[0], height=declared[1])
        packet = Packet(bomb)
        packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, 0, 0, True
        packet.time_base = Fraction(1, 1)
        container.mux(packet)
    code = (
        "import resource, sys; from x2sam_rt.errors import VideoError; from x2sam_rt.media.video import VideoReader\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: VideoReader(sys.argv[1])\n"
        "except VideoError as error: print(error)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bomb.mov")], capture_output=True, text=True, timeout=900
    )
    *message, grown = done.stdout.splitlines()
    assert "bomb.mov" in " ".join(message), done.stderr
    assert int(grown) < 60 * 1024  # KiB; a frame of that size takes 1.2 GB


FORMATS = [
    "PNG",
    "JPEG",
    "WEBP",
    "AVIF",
    "TIFF",
    "GIF",
    "BMP",
    "TGA",
    "ICO",
    "JPEG2000",
    "PCX",
    "DDS",
    "SGI",
    "PPM",
    "QOI",
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", FORMATS)
def test_damaged_images_are_errors_with_names(tmp_path: Path, format: str) -> None:
    random = np.random.default_rng(len(format))
    image = Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8))
    held = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(held, format, **({"exif": exif} if format in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF") else {}))
    whole, path, refused = held.getvalue(), tmp_path / "image", 0
    for _ in range(60):
        damaged = bytearray(whole)
        for place in random.integers(0, random.choice([64, len(whole)]), 4):
            damaged[place % len(whole)] = random.integers(256)
        path.write_bytes(damaged[: random.integers(1, len(whole))] if random.random() < 0.3 else damaged)
        for read in (read_image, read_mask):
            said = refusal(path, read)
            assert said is None or str(path) in said
            refused += said is not None
    assert refused


def test_damaged_videos_are_errors_with_names(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for suffix in ("mp4", "mkv", "avi", "ts"):
        whole = clip(tmp_path / f"whole.{suffix}").read_bytes()
        path = tmp_path / f"damaged.{suffix}"
        for _ in range(25):
            damaged = bytearray(whole)
            for place in random.integers(0, random.choice([256, len(whole)]), 6):
                damaged[place % len(whole)] = random.integers(256)
            path.write_bytes(damaged)
            for read in (lambda path: pick_frames(path, 3, {1}), lambda path: list(VideoReader(path))):
                said = refusal(path, read)
                assert said is None or str(path) in said


def test_a_gap_of_hours_is_read_as_it_is(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "gap.mkv", 32, 32, 25) as writer:
        for time in (0.0, 0.04, 7 * 3600.0, 7 * 3600 + 0.04):
            writer.write(np.zeros((32, 32, 3), np.uint8), time)
    with VideoReader(tmp_path / "gap.mkv") as reader:
        assert [frame.timestamp for frame in reader] == pytest.approx([0, 0.04, 25200, 25200.04], abs=1e-3)
    assert pick_frames(tmp_path / "gap.mkv", 16).total == 4
