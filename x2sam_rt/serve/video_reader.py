"""Reads an uploaded video in a process of its own: decoders are large and their input is a stranger's; one that crashes
or hangs takes nothing else with it."""

from __future__ import annotations

import argparse
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from x2sam_rt.errors import VideoError, X2SamError
from x2sam_rt.media.containers import open_container, video_stream
from x2sam_rt.media.sources import VideoFile
from x2sam_rt.runtime.prompt_frames import read_prompt_frames
from x2sam_rt.serve.link import WorkerLink
from x2sam_rt.serve.messages import Ask, Asked, Clip, Close, Decoded, Failed, Packet, code_of


def main(arguments: Sequence[str] | None = None) -> None:
    """Started by the server, with its end of a socket pair. Told the instruction (`Ask`), it says the frames that are
    shown to the language model (`Clip`), then all (`Decoded`) as fast as they are taken, then `Close`; or `Failed`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wire", type=int, required=True)
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--most-pixels", type=int, required=True)
    given = parser.parse_args(arguments)
    link = WorkerLink(socket.socket(fileno=given.wire))
    packet = link.receive(None)
    assert packet is not None, "waited for without end"
    assert isinstance(packet.message, Ask), "the first that the server says"
    try:
        read(link, given.video, packet.message.instruction, given.most_pixels)
    except X2SamError as error:
        link.send(0, Failed(code=code_of(error), message=str(error)))
    except OSError:  # the server wants no more
        return


def read(link: WorkerLink, path: Path, asked: Asked, most_pixels: int) -> None:
    """Raises VideoError, PromptError."""
    require_video(path, most_pixels)
    with VideoFile(path) as source:
        clip = clip_packet(asked, source)
        link.send(0, clip.message, clip.payload)
        for frame in source:
            height, width = frame.pixels.shape[:2]
            decoded = Decoded(height=height, width=width, timestamp=frame.timestamp)
            link.send(0, decoded, frame.pixels.tobytes())
    link.send(0, Close())


def clip_packet(asked: Asked, source: VideoFile) -> Packet:
    """asked: every region with its frame. As `runtime.run.run_video`: on frames of all of the file."""
    same = {region.frame: region.frame for region in asked.regions if region.frame is not None} or None
    clip = read_prompt_frames(source, asked.instruction(same))
    assert clip is not None, "a file is read twice"
    drawn_on = tuple(sorted(clip.by_index))
    frames = [*clip.frames, *(clip.by_index[index] for index in drawn_on)]
    height, width = clip.frames[0].shape[:2]
    message = Clip(
        instruction=asked,
        height=height,
        width=width,
        shown=len(clip.frames),
        drawn_on=drawn_on,
        total=source.num_frames,
    )
    return Packet(message, b"".join(np.ascontiguousarray(frame.numpy()).tobytes() for frame in frames))


def require_video(path: Path, most_pixels: int) -> None:
    """Raises VideoError for a file that is no single video of frames that are small enough. FFmpeg would also play
    lists of other files."""
    with path.open("rb") as file:
        head = file.read(12)
    if not (head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or (head[:4], head[8:]) == (b"RIFF", b"AVI ")):
        raise VideoError("The upload is no MP4, MOV, MKV, WebM or AVI file.")
    with open_container(path) as container:
        context = video_stream(container, path).codec_context
        if context.width * context.height > most_pixels:
            raise VideoError(f"The video is {context.width}×{context.height}; up to {most_pixels} pixels are taken.")


if __name__ == "__main__":
    main()
