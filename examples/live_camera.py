"""Segments a camera as it runs: always the newest frame, whatever the model's pace.

    x2sam-rt export toy -o bundle
    python examples/live_camera.py bundle --prompt "the red circle" -o live.mp4
    python examples/live_camera.py bundle --source /dev/video0 --device v4l2 --prompt "the cup" -o live.mp4

Without --source a made-up world moves at 25 frames per second. Ctrl-C ends the recording.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Sequence
from pathlib import Path

from sources import MADE_UP, Newest, camera, made_up

from x2sam_rt import Runtime
from x2sam_rt.runtime.writers import OverlayVideoWriter


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--prompt", default="the red circle")
    parser.add_argument("--source", default=MADE_UP, help="device or stream address")
    parser.add_argument("--device", help="FFmpeg's name for the kind of device: v4l2, avfoundation, dshow, lavfi")
    parser.add_argument("--rate", type=float, default=25, help="frames per second of the made-up world")
    parser.add_argument("--frames", type=int, help="stop after so many")
    parser.add_argument("-o", "--output", type=Path, default=Path("live.mp4"))
    options = parser.parse_args(arguments)
    source = made_up(options.rate) if options.source == MADE_UP else camera(options.source, options.device)
    with (
        Runtime.load(options.bundle) as runtime,
        runtime.stream(options.prompt) as session,
        OverlayVideoWriter(options.output, options.rate) as overlay,
    ):
        newest, started = Newest(source), time.monotonic()
        try:
            for frame in itertools.islice(newest, options.frames):
                result = session.step(frame)
                overlay.write(frame, result, time.monotonic() - started)
                shown = ", ".join(f"{segment.label} {segment.score:.2f}" for segment in result.segments)
                print(f"frame {result.index}: {shown or 'nothing'}; {newest.dropped} frames let go so far")
        except KeyboardInterrupt:
            print(f"{options.output}: recorded")
        finally:
            newest.close()


if __name__ == "__main__":
    main()
