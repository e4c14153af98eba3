"""Films and images as fuzz inputs: the first byte is the kind, the rest the file."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np

KINDS = (".png", ".jpg", ".gif", ".webp", ".tiff", ".bmp", ".avif", ".mp4")
_FRAMES_HELD = 24  # reference frames of a decoder, and those in its threads
_BYTES_A_PIXEL = 12  # as decoded, as RGB, and as the array that goes out


def decode(path: Path) -> None:
    """All frames of a film, or an image."""
    from x2sam_rt.media.image import read_image
    from x2sam_rt.media.video import VideoReader

    if path.suffix == ".mp4":
        with VideoReader(path) as video:
            for _ in video:
                pass
    else:
        read_image(path)


def need(data: bytes) -> int:
    """The file, and the pixels it declares."""
    pixels, frames = _declared(data)
    return len(data) + _BYTES_A_PIXEL * frames * pixels


def _declared(data: bytes) -> tuple[int, int]:
    """(pixels of a frame, frames at once)."""
    import av
    from PIL import Image

    content = io.BytesIO(data[1:])
    try:
        if kind(data) == ".mp4":
            with av.open(content) as container:
                stream = container.streams.video[0].codec_context
                return stream.width * stream.height, _FRAMES_HELD
        with Image.open(content) as image:
            return image.width * image.height, 1
    except Exception:  # of whatever kind: who declares nothing needs nothing
        return 0, 1


def kind(data: bytes) -> str:
    return KINDS[(data[0] if data else 0) % len(KINDS)]


def seeds() -> list[bytes]:
    """Small sound files of each kind."""
    from PIL import Image

    from x2sam_rt.media.video_writer import VideoWriter

    pixels, found = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8), []
    with tempfile.TemporaryDirectory() as folder:
        for number, suffix in enumerate(KINDS):
            path = Path(folder) / f"seed{suffix}"
            if suffix == ".mp4":
                with VideoWriter(path, 48, 32, 10) as writer:
                    for frame in pixels:
                        writer.write(frame)
            else:
                Image.fromarray(pixels[0]).save(path)
            found.append(bytes([number]) + path.read_bytes())
    return found
