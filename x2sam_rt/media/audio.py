"""A video file's sound, copied packet by packet into another file: nothing is decoded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import av
import av.container
from av.audio.stream import AudioStream
from av.packet import Packet

from x2sam_rt.media.containers import open_container

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Audio:
    """What sounds with a source. codec: its name. path: the file it can be read from again, None of what comes once.
    origin: gives the seconds on the file's own clock of the first frame taken, once that is known."""

    codec: str
    path: Path | None = None
    origin: Callable[[], float] = float

    def obstacle(self, format: str) -> str | None:
        """Why a file of this format cannot take it; None if it can."""
        if self.path is None:
            return "what comes once is not read a second time for it"
        with open_container(self.path) as file, av.open(BytesIO(), "w", format=format) as output:
            try:
                output.add_stream_from_template(_sounding(file))
            except ValueError:  # PyAV's, where the format does not list the codec
                return f"{format} holds no {self.codec}"
        return None


def audio_codec(container: av.container.InputContainer) -> str | None:
    """The codec of what sounds in it; None if nothing does, or FFmpeg does not know it."""
    stream = next(iter(container.streams.audio), None)
    return None if stream is None or stream.codec_context is None else stream.codec_context.codec.canonical_name


class AudioCopy:
    """Audio on its way into an output whose pictures begin at 0. Opened before the output's first packet."""

    def __init__(self, audio: Audio, output: av.container.OutputContainer) -> None:
        assert audio.path is not None, "a source that comes once is refused before"
        self._path, self._output = audio.path, output
        self._input = open_container(audio.path)
        self._from = _sounding(self._input)
        self._to = output.add_stream_from_template(self._from)
        assert self._from.time_base is not None, "a demuxer's streams have one"
        self._tick = self._from.time_base
        self._offset = round(Fraction(audio.origin()) / self._tick)
        self._waiting: Packet[AudioStream] | None = None
        self._packets = self._read()

    def copy_until(self, seconds: Fraction) -> None:
        """Writes what begins before this time of the output."""
        while (packet := self._waiting or next(self._packets, None)) is not None:
            self._waiting = packet
            if packet.pts is None or packet.pts * self._tick >= seconds:
                return
            self._waiting = None
            packet.stream = self._to
            self._output.mux(packet)

    def close(self) -> None:
        self._packets.close()
        self._input.close()

    def _read(self) -> Generator[Packet[AudioStream], None, None]:
        """Packets in the output's time, from the one that ends at its beginning: decoders need it to begin."""
        if self._offset > 0:
            self._input.seek(self._offset, stream=self._from)
        try:
            for packet in self._input.demux(self._from):
                if packet.pts is None or packet.dts is None:
                    continue  # the end, or bytes whose time nobody knows
                packet.pts, packet.dts = packet.pts - self._offset, packet.dts - self._offset
                if packet.pts + (packet.duration or 0) >= 0:
                    yield packet
        except av.FFmpegError as error:
            _log.warning("%s: its sound breaks off (%s); what came before is kept.", self._path, error.strerror)


def _sounding(container: av.container.InputContainer) -> AudioStream:
    return container.streams.audio[0]
