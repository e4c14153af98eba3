"""A world of moving shapes that needs no camera."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.media.video import VideoFrame


def made_up(rate: float, side: int = 256) -> Iterator[VideoFrame]:
    """Frames, `rate` per second, without end: a clip, forwards and back again."""
    frames = make_clip(0, ClipSettings(side=side, frames=48)).frames
    started = time.monotonic()
    for index, pixels in enumerate(itertools.cycle([*frames, *frames[-2:0:-1]])):
        time.sleep(max(0.0, started + index / rate - time.monotonic()))
        yield VideoFrame(index, index / rate, pixels)
