"""A robot's loop on a served stream: its camera does not wait, it acts on the newest result, and a lost server costs
it nothing but time.

    x2sam-rt serve bundle
    python examples/robot_loop.py --prompt "the red circle" --seconds 10

Frames are JPEGs of a made-up world at 25 per second; the server segments the newest one and drops the rest. Every
second a snapshot is kept, from which the loop goes on when the connection breaks.
"""

from __future__ import annotations

import argparse
import io
import os
import time
from collections.abc import Sequence

import numpy as np
from made_up import made_up
from PIL import Image

from x2sam_rt.client import Client, RemoteResult, Stream
from x2sam_rt.errors import ServeError
from x2sam_rt.media.live import Newest
from x2sam_rt.media.types import Pixels


def jpeg(frame: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=85)
    return file.getvalue()


def steer(result: RemoteResult) -> str:
    """Where the first segment's middle lies: what a controller would get."""
    if not result.segments:
        return "search"
    height, width = result.record["size"]
    rows, columns = np.nonzero(result.segments[0].mask)
    return f"turn {columns.mean() / width - 0.5:+.2f}, tilt {rows.mean() / height - 0.5:+.2f}"


def drive(stream: Stream, camera: Newest, until: float, kept: list[bytes]) -> None:
    """Until it is time, or the connection breaks (ServeError). kept: gets the last snapshot."""
    saved = time.monotonic()
    for frame in camera:
        if time.monotonic() > until:
            return
        stream.send(jpeg(frame.pixels))
        result = stream.receive()
        print(f"frame {result.frame}: {steer(result)}; {result.timings['served']:.0f} ms, {stream.dropped} let go")
        if time.monotonic() - saved > 1:
            kept[:], saved = [stream.snapshot()], time.monotonic()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--prompt", default="the red circle")
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args(arguments)
    client = Client(options.server, token=os.environ.get("X2SAM_RT_TOKEN"), seconds=10)
    camera, until, kept = Newest(made_up(25)), time.monotonic() + options.seconds, list[bytes]()
    while time.monotonic() < until:
        try:
            with client.stream(options.prompt, snapshot=kept[0] if kept else None) as stream:
                drive(stream, camera, until, kept)
        except ServeError as error:
            print(f"{error.code}: {error} Trying again.")
            time.sleep(1)
    camera.close()


if __name__ == "__main__":
    main()
