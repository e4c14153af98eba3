"""A client of a server: sends a video's frames and writes what comes back as an overlay.

    x2sam-rt serve bundle
    python examples/served_stream.py clip.mp4 --prompt "the red circle" --then "the blue square" -o masked.mp4

Nothing is dropped: the file waits for its results. The token of the server is read from X2SAM_RT_TOKEN.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from x2sam_rt.client import Client, RemoteResult
from x2sam_rt.media.colors import color_of
from x2sam_rt.media.types import Pixels
from x2sam_rt.media.video import VideoReader, VideoWriter


def painted(frame: Pixels, result: RemoteResult) -> Pixels:
    canvas = frame.copy()
    for segment in result.segments:
        color = np.array(color_of(segment.id))
        canvas[segment.mask] = (canvas[segment.mask] // 2 + color // 2).astype(np.uint8)
    return canvas


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--prompt", default="the red circle")
    parser.add_argument("--then", help="asked at half time, beside the stream")
    parser.add_argument("-o", "--output", type=Path, default=Path("masked.mp4"))
    options = parser.parse_args(arguments)
    client = Client(options.server, token=os.environ.get("X2SAM_RT_TOKEN"))
    with VideoReader(options.video) as video, client.stream(options.prompt, drop="never") as stream:
        half = (video.num_frames or 0) // 2
        with VideoWriter(options.output, video.width, video.height, video.frame_rate) as overlay:
            for frame in video:
                if options.then and frame.index == half:
                    stream.ask(options.then)
                result = stream.step(frame.pixels)
                overlay.write(painted(frame.pixels, result), frame.timestamp)
                found = ", ".join(f"{one.label} {one.score:.2f}" for one in result.segments)
                print(f"frame {result.frame}: {found or 'nothing'}; {result.timings['served']:.0f} ms")
    print(f"{options.output}: written; answers took over at {[answer.frame for answer in stream.answers]}")


if __name__ == "__main__":
    main()
