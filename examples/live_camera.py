"""Segments a camera as it runs: always the newest frame, whatever the model's pace.

    x2sam-rt export toy -o bundle
    python examples/live_camera.py bundle --prompt "the red circle" -o live.mp4
    python examples/live_camera.py bundle --source 0 --prompt "the cup" -o live.mp4

--source takes a camera's number or an address ("rtsp://…"). Without it a made-up world moves at 25 frames per second.
Ctrl-C ends the recording.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

from made_up import made_up

from x2sam_rt import Runtime
from x2sam_rt.media.live import Newest
from x2sam_rt.media.sources import open_source
from x2sam_rt.runtime.writers import OverlayVideoWriter


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prompt", default="the red circle")
    parser.add_argument("--source", help="camera number or stream address")
    parser.add_argument("--rate", type=float, default=25, help="frames per second of the made-up world")
    parser.add_argument("--frames", type=int, help="stop after so many")
    parser.add_argument("-o", "--output", type=Path, default=Path("live.mp4"))
    options = parser.parse_args(arguments)
    with (
        contextlib.closing(open_source(options.source) if options.source else Newest(made_up(options.rate))) as source,
        Runtime.load(options.bundle) as runtime,
        runtime.stream(options.prompt) as session,
        OverlayVideoWriter(options.output, options.rate) as overlay,
    ):
        started = time.monotonic()
        try:
            for frame in itertools.islice(source, options.frames):
                result = session.step(frame.pixels)
                overlay.write(frame.pixels, result, time.monotonic() - started)
                shown = ", ".join(f"{segment.label} {segment.score:.2f}" for segment in result.segments)
                print(f"frame {result.index}: {shown or 'nothing'}; {source.dropped} frames let go so far")
        except KeyboardInterrupt:
            print(f"{options.output}: recorded")


if __name__ == "__main__":
    main()
