"""What a video file promises about its own length, to tell its end from a break."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import av.container
import av.video.stream

_SEGMENT_ID = 0x18538067  # Matroska: the one element that holds the whole stream
_TRANSPORT_PACKET = 188  # bytes; each starts with the sync byte
_SYNC_BYTE = 0x47


def promised_packets(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> int | None:
    """Packets an MP4's index lists for its video stream; None for the other containers.

    The index is what the edit list left of the file's frames, and of a fragmented file grows while it is read,
    so ask at the end. Other frame counts are no promise: AVI's counts empty frames too.
    """
    return len(stream.index_entries) if _is_mp4(container) else None


def promised_frames(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> int | None:
    """Frames an MP4 will show; None for a fragmented one and for the other containers, which do not say."""
    if _is_mp4(container) and stream.frames:
        return sum(not entry.is_discard for entry in stream.index_entries)
    return None


def missing_tail(path: Path, container: av.container.InputContainer) -> str | None:
    """What the file's layout says is cut off its end, in words; None if nothing or if the layout cannot tell.

    FFmpeg drops an incomplete last block of Matroska, packet of MPEG-TS or chunk of AVI without a sign (AVI:
    sometimes), so these are checked in the file itself.
    """
    size = path.stat().st_size
    kind = container.format.name
    with path.open("rb") as file:
        end = _matroska_end(file) if "matroska" in kind else _riff_end(file) if kind == "avi" else None
        if end is not None and end > size:
            return f"the file is {end - size} bytes shorter than its header says"
        if kind == "mpegts" and _aligned(file) and size % _TRANSPORT_PACKET:
            return f"the file ends {size % _TRANSPORT_PACKET} bytes into a {_TRANSPORT_PACKET}-byte packet"
    return None


def _is_mp4(container: av.container.InputContainer) -> bool:
    return "mp4" in container.format.name.split(",")


def _aligned(file: BinaryIO) -> bool:
    head = file.read(_TRANSPORT_PACKET + 1)
    return len(head) > _TRANSPORT_PACKET and head[0] == head[-1] == _SYNC_BYTE


def _riff_end(file: BinaryIO) -> int:
    """The byte at which an AVI's first chunk ends; a recording that was never closed says 8."""
    return 8 + int.from_bytes(file.read(8)[4:], "little")


def _matroska_end(file: BinaryIO) -> int | None:
    """The byte at which the segment ends; None for a live recording, which leaves its size open."""
    _read_number(file, keep_marker=True)
    header = _read_number(file, keep_marker=False)
    if header is None:
        return None
    file.seek(header, 1)
    if _read_number(file, keep_marker=True) != _SEGMENT_ID:
        return None
    size = _read_number(file, keep_marker=False)
    return None if size is None else file.tell() + size


def _read_number(file: BinaryIO, *, keep_marker: bool) -> int | None:
    """An EBML variable-length number: leading zero bits of its first byte count the bytes that follow.

    Element ids keep the marker bit, sizes drop it. None if the file ends, or all bits are one (size unknown).
    """
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    if len(rest) < length - 1:
        return None
    number = int.from_bytes(first + rest, "big")
    if keep_marker:
        return number
    unknown = (1 << 7 * length) - 1
    return None if number & unknown == unknown else number & unknown
