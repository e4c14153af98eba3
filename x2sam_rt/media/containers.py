"""Video containers: whole frames out of them, and the point and reason where one breaks off."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

import av
import av.container
import av.video.stream
from av.packet import Packet
from av.stream import Disposition

from x2sam_rt.errors import VideoError
from x2sam_rt.media.types import MOST_PIXELS

VideoPacket: TypeAlias = "Packet[av.video.stream.VideoStream]"


class BreakError(Exception):
    """Why decoding cannot go on. For the reader, which knows the last frame; users see a VideoError."""


# Formats that hold all they show themselves. The others open more files, devices or addresses (playlists, numbered
# images, session descriptions), and those may never end.
SELF_CONTAINED = ",".join(
    (
        "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h261,h263,h264,hevc,vvc,evc,av1,obu,ivf,flv",
        "live_flv,kux,asf,asf_o,ogg,nut,mxf,gxf,dv,wtv,rm,nsv,swf,vc1,vc1test,avs2,avs3,cavsvideo,dirac,dnxhd,mjpeg",
        "mjpeg_2000,mpjpeg,smjpeg,yuv4mpegpipe,gif,apng,roq,smk,bink,wav,w64,mp3,aac,ac3,flac,aiff,amr,caf,au,tty",
        *(name for name in sorted(av.formats_available) if name.endswith("_pipe")),
    )
)
_NOT_LISTED = 22  # EINVAL: what FFmpeg says of a format that is not in the list it is given


class PlaylistError(VideoError):
    """A file that opens others, which nobody allowed."""


def open_container(path: Path) -> av.container.InputContainer:
    """Opens a video file. Raises VideoError if it is missing, empty, a still image or not a video, PlaylistError if it
    opens others."""
    if not os.path.isfile(path):  # unlike the method, takes any name
        raise VideoError(f"{path}: no such file.")
    if path.stat().st_size == 0:
        raise VideoError(f"{path}: the file is empty (0 bytes). Check how it was copied or recorded.")
    try:
        # Absolute, so that a colon in a name is no protocol. Titles and the like may be in any encoding.
        options = {"format_whitelist": SELF_CONTAINED, "protocol_whitelist": "file"}
        container = av.open(str(path.resolve()), "r", options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        if error.errno == _NOT_LISTED:
            raise PlaylistError(
                f"{path}: is of a kind that opens other files or devices and may never end (a playlist?). Give the "
                "video itself, or pass allow_playlists=True."
            ) from error
        raise VideoError(
            f"{path}: cannot be opened as a video ({error.strerror}). It is not a video, or was cut off "
            "before its index (an MP4 whose recording was interrupted): fetch or record it again."
        ) from error
    kind = container.format.name
    if kind in ("tty", "image2") or kind.endswith("_pipe"):  # FFmpeg also "plays" text files and still images
        container.close()
        raise VideoError(f"{path}: is a {'text' if kind == 'tty' else 'still image'} file, not a video.")
    return container


def video_stream(container: av.container.InputContainer, path: Path) -> av.video.stream.VideoStream:
    """The first moving picture. Raises VideoError if there is none; an album's cover does not count."""
    for stream in container.streams.video:
        if not stream.disposition & Disposition.attached_pic:
            _limit_pixels(stream, path)
            return stream
    kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "none"
    kinds = kinds.replace("video", "cover picture")
    raise VideoError(f"{path}: has no video stream (streams found: {kinds}).")


def _limit_pixels(stream: av.video.stream.VideoStream, path: Path) -> None:
    if stream.codec_context is None:
        raise VideoError(f"{path}: its codec is not known here, or is damaged in its header.")
    width, height = stream.codec_context.width, stream.codec_context.height
    if width * height > MOST_PIXELS:
        raise VideoError(f"{path}: frames of {width}×{height} pixels are too large; at most {MOST_PIXELS} pixels fit.")
    stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}  # sizes may change, or be told by frames only


def decode_frames(
    container: av.container.InputContainer,
    stream: av.video.stream.VideoStream,
    path: Path,
    *,
    only: Collection[int] | None = None,
    passed: int = 0,
) -> Iterator[av.VideoFrame]:
    """Frames in order of display; raises BreakError at the first damage after the first key frame.

    only: the times of the frames that are wanted; of others those may be left out that no frame is built on. passed:
    packets that were passed over by seeking.

    Before the first key frame damage is expected: a broadcast recording begins inside a group of pictures.
    PyAV's default threading (slices) is kept on purpose: with frame threads, an error loses the sound frames
    still in work, and is not raised.
    """
    packets, started, in_order = passed, False, _InOrder(container, stream)
    for packet in _packets(container, stream):
        packets += 1
        in_order.see(packet)
        if only is not None:
            stream.codec_context.skip_frame = "DEFAULT" if packet.pts in only else "NONREF"
        try:
            frames = _decode(packet)
        except BreakError:
            if not started:
                continue
            yield from in_order.timed(_checked(_drain(stream)))
            raise
        yield from in_order.timed(_checked(frames) if started else _sound_only(frames))
        started = started or packet.is_keyframe
    yield from in_order.timed(_checked(_drain(stream)))
    _require_end(path, container, stream, packets)


class _InOrder:
    """AVI says when packets are to be decoded, not when they are shown. Where frames are shown in another order, FFmpeg
    gives them times that go back; the first shown is due when the first decoded was, and so on."""

    def __init__(self, container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> None:
        self._guesses, self._due = _guesses_times(container, stream), deque[int | None]()

    def see(self, packet: VideoPacket) -> None:
        if self._guesses:
            self._due.append(packet.dts)

    def timed(self, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for frame in frames:
            if self._due:
                frame.pts = self._due.popleft()
            yield frame


def _guesses_times(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> bool:
    """Whether the times of packets are not those of the frames in them."""
    return container.format.name == "avi" and bool(stream.codec_context.has_b_frames)


def _require_end(
    path: Path, container: av.container.InputContainer, stream: av.video.stream.VideoStream, packets: int
) -> None:
    """Raises BreakError where more packets were promised than came, or bytes are missing."""
    promised = promised_packets(container, stream)
    if promised is not None and packets < promised:
        raise BreakError(f"{packets} of the {promised} frames in its index are there")
    missing = missing_tail(path, container)
    if missing is not None:
        raise BreakError(missing)


def _packets(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> Iterator[VideoPacket]:
    try:
        for packet in container.demux(stream):
            if packet.size:  # PyAV adds an empty one at the end
                yield packet
    except av.FFmpegError as error:
        raise BreakError(f"unreadable: {error.strerror}") from error


def _decode(packet: VideoPacket) -> list[av.VideoFrame]:
    if packet.is_corrupt:
        raise BreakError("the next frame is incomplete")
    try:
        return packet.decode()
    except av.FFmpegError as error:
        raise BreakError(f"the next frame cannot be decoded: {error.strerror}") from error


def _drain(stream: av.video.stream.VideoStream) -> list[av.VideoFrame]:
    """The frames a decoder holds back to bring them into order."""
    try:
        return stream.decode(None)
    except av.FFmpegError as error:
        raise BreakError(f"the last frames cannot be decoded: {error.strerror}") from error


def _checked(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    for frame in frames:
        if frame.is_corrupt:
            raise BreakError("parts of the next frame are missing")
        yield frame


def _sound_only(frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    return (frame for frame in frames if not frame.is_corrupt)


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


def count_packets(path: Path) -> int:
    """Packets of a file's video stream, read but not decoded; those before a break. Mostly its number of frames."""
    count = 0
    with open_container(path) as container, suppress(BreakError):
        for _ in _packets(container, video_stream(container, path)):
            count += 1
    return count


# Codecs whose every packet is one shown frame; VP8 and VP9 also send frames that are never shown.
_ONE_FRAME_A_PACKET = ("h264", "hevc", "av1", "mjpeg", "prores", "ffv1", "mpeg2video", "rawvideo")


class KeyFrame(NamedTuple):
    """Where decoding can begin. time: in the stream's time base. before: packets that come before its own."""

    time: int
    before: int


@dataclass(frozen=True)
class FrameTimes:
    """When a file's frames are shown, in its stream's time base (seconds). shown: all, in order. keys: in order."""

    shown: tuple[int, ...]
    keys: tuple[KeyFrame, ...]
    time_base: Fraction

    @property
    def seconds(self) -> list[float]:
        """After the first frame."""
        return [float((time - self.shown[0]) * self.time_base) for time in self.shown]

    def key_of(self, index: int) -> KeyFrame:
        """The key frame from which the frame with this number can be decoded."""
        return self._key(self.shown[index])

    def key_before(self, seconds: float) -> KeyFrame:
        """The key frame from which what is shown from then on can be decoded."""
        return self._key(self.shown[0] + int(seconds / self.time_base))

    def _key(self, time: int) -> KeyFrame:
        return self.keys[max(0, bisect_right(self.keys, time, key=lambda key: key.time) - 1)]


class _Told(NamedTuple):
    """What a packet says of its frame, without its data: those of a film would fill the memory."""

    time: int | None
    is_key: bool
    is_corrupt: bool
    is_discard: bool

    @classmethod
    def by(cls, packet: VideoPacket) -> _Told:
        return cls(packet.pts, packet.is_keyframe, packet.is_corrupt, packet.is_discard)


def frame_times(path: Path) -> FrameTimes | None:
    """A file's frames by their packets, none of them decoded. None where packets do not tell: without times or with
    the same twice, in codecs with hidden frames, in a file that breaks off or begins inside a group of pictures."""
    with open_container(path) as container:
        stream = video_stream(container, path)
        if stream.codec_context.name not in _ONE_FRAME_A_PACKET or _guesses_times(container, stream):
            return None
        try:
            packets = [_Told.by(packet) for packet in _packets(container, stream)]
            _require_end(path, container, stream, len(packets))
        except BreakError:
            return None
        time_base = stream.time_base
    if any(packet.time is None or packet.is_corrupt for packet in packets) or not packets or not packets[0].is_key:
        return None
    shown = sorted(packet.time for packet in packets if packet.time is not None and not packet.is_discard)
    keys = sorted(
        KeyFrame(packet.time, before)
        for before, packet in enumerate(packets)
        if packet.time is not None and packet.is_key
    )
    distinct = len(set(shown)) == len(shown) > 0 and keys[0].time <= shown[0]
    return FrameTimes(tuple(shown), tuple(keys), time_base) if distinct and time_base is not None else None


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
