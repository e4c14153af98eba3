"""Changes what is looked for while a video runs: the memory stays, nothing restarts.

    x2sam-rt export toy -o bundle
    python examples/change_instruction.py bundle clip.mp4 "the red circle" "@12" "the blue square" -o changed.mp4

Every "@FRAME" says from which frame on the phrase behind it is looked for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from x2sam_rt import Runtime
from x2sam_rt.media.video import VideoReader
from x2sam_rt.runtime.writers import OverlayVideoWriter


def schedule(words: Sequence[str]) -> dict[int, str]:
    """["the dog", "@30", "the cat"] → {0: "the dog", 30: "the cat"}"""
    starts, phrases = ["@0", *words[1::2]], words[::2]
    return {int(start.removeprefix("@")): phrase for start, phrase in zip(starts, phrases, strict=True)}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("video", type=Path)
    parser.add_argument("phrases", nargs="+", metavar="PHRASE [@FRAME PHRASE]")
    parser.add_argument("-o", "--output", type=Path, default=Path("changed.mp4"))
    options = parser.parse_args(arguments)
    asked = schedule(options.phrases)
    with (
        VideoReader(options.video) as video,
        Runtime.load(options.bundle) as runtime,
        runtime.stream(asked[0]) as session,
        OverlayVideoWriter(options.output, video.frame_rate) as overlay,
    ):
        for frame in video:
            if frame.index in asked and frame.index > 0:
                session.ask(asked[frame.index])  # answered on the frames seen so far
            result = session.step(frame.pixels)
            overlay.write(frame.pixels, result, frame.timestamp)
            print(f"frame {result.index}: {', '.join(segment.label for segment in result.segments) or 'nothing'}")


if __name__ == "__main__":
    main()
