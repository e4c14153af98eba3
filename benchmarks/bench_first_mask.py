"""How long the first mask of a long file takes, against that of a short one.

    python benchmarks/bench_first_mask.py

Two 1080p H.264 files of the made-up world, 5 seconds and a little over 5 minutes at 25 frames a second, with frames
that are predicted from both sides between the key frames: one each second, as phones and cameras write, and one every
250 frames, x264's own. The long ones are ten seconds of pictures over and over, which nothing here can know. Measured
is x2sam-toy from opening the file to the first frame's result, both in one process, in turns: the instruction is
answered on 16 frames of the whole file, and each of them is decoded from the key frame before it. Writes
benchmarks/results/first_mask.json; exit 1 when, with a key frame each second, the long one takes over twice as long.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image
from timer import Comparison, compare, save

from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.media.types import Pixels
from x2sam_rt.model.checkpoint.files import embedded_checkpoint
from x2sam_rt.model.checkpoint.loading import load_checkpoint
from x2sam_rt.runtime.runtime import Runtime

RATE, SHORT, PIECE, PIECES = (
    25,
    5,
    10,
    31,
)  # frames per second, seconds of the short one and of what the long one repeats
GROUPS = (25, 250)  # frames from key to key
WIDTH, HEIGHT = 1920, 1080
PROMPT, ROUNDS, LIMIT = "the circle", 7, 2.0


def pictures(count: int) -> list[Pixels]:
    """The made-up world as a camera of 1080p would see it, its sensor's noise included."""
    noise = np.random.default_rng(0).integers(-4, 5, (HEIGHT, WIDTH, 3), dtype=np.int16)
    frames = make_clip(0, ClipSettings(side=256, frames=count)).frames
    large = (np.asarray(Image.fromarray(frame).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)) for frame in frames)
    return [np.clip(frame + np.roll(noise, 7 * n, 1), 0, 255).astype(np.uint8) for n, frame in enumerate(large)]


def encode(path: Path, frames: list[Pixels], group: int) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("libx264", rate=RATE, options={"g": str(group), "preset": "veryfast"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        file.mux(stream.encode(None))


def repeat(source: Path, target: Path, times: int) -> None:
    """The same packets over and over, each time later."""
    with av.open(str(target), "w") as file, av.open(str(source)) as first:
        stream = file.add_stream_from_template(first.streams.video[0])
        for n in range(times):
            with av.open(str(source)) as once:
                taken = once.streams.video[0]
                assert taken.time_base is not None
                shift = round(Fraction(n * PIECE) / taken.time_base)
                for packet in once.demux(taken):
                    if packet.dts is None or packet.pts is None:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, stream
                    file.mux(packet)


def measure(runtime: Runtime, frames: list[Pixels], group: int, folder: Path) -> Comparison:
    short, piece, long = (folder / f"{name}{group}.mp4" for name in ("short", "piece", "long"))
    encode(short, frames[: SHORT * RATE], group)
    encode(piece, frames, group)
    repeat(piece, long, PIECES)

    def first_mask(path: Path) -> None:
        with closing(runtime.track(path, PROMPT)) as results:
            next(results)

    return compare(lambda: first_mask(long), lambda: first_mask(short), rounds=ROUNDS)


def main() -> int:
    frames, rows = pictures(PIECE * RATE), []
    with tempfile.TemporaryDirectory() as temporary:
        bundle = Path(temporary) / "bundle"
        export_bundle(ExportPlan(load_checkpoint(embedded_checkpoint()), "torch"), bundle)
        with Runtime.load(bundle) as runtime:
            for group in GROUPS:
                measured = measure(runtime, frames, group, Path(temporary))
                ratio = 1 / measured.speedup
                times = f"5 s: {measured.baseline.median_ms:.0f} ms   5 min: {measured.own.median_ms:.0f} ms"
                print(f"a key frame every {group:3}   {times}   ratio {ratio:.2f}")
                rows.append({"group": group, "ratio": round(ratio, 3), "limit": LIMIT, "comparison": measured})
    print(f"written to {save('first_mask', rows)}")
    return 0 if rows[0]["ratio"] <= LIMIT else 1


if __name__ == "__main__":
    sys.exit(main())
