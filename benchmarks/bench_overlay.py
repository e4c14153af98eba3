"""Painting one 1080p frame: CPU milliseconds by number of segments.

python benchmarks/bench_overlay.py
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np
import timer
import torch
from bench_postprocess import post_processor, scene

from x2sam_rt.media.types import Pixels
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.writers.overlay import Overlay
from x2sam_rt.tasks.marks import TextSpan

SEGMENTS = (2, 5, 20)
ROUNDS = 30
BUDGET_MS = 40.0


@dataclass(frozen=True)
class Row:
    """CPU milliseconds of one frame, all threads together."""

    segments: int
    best_ms: float
    median_ms: float


def frame_and_result(segments: int) -> tuple[Pixels, FrameResult]:
    """A noisy frame, and a caption that names its first segment."""
    pixels = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    found = post_processor("instance", segments)(scene(segments, segments))
    text = "A label stands beside others, and all of them have names."
    return pixels, FrameResult(0, found, text, (TextSpan(0, 7, 0),))


def measure(segments: int) -> Row:
    pixels, result = frame_and_result(segments)
    overlay, spent = Overlay(), []
    for _ in range(ROUNDS):
        started = time.process_time()
        overlay.draw(pixels, result)
        spent.append(1e3 * (time.process_time() - started))
    return Row(len(result.segments), min(spent), float(np.median(spent)))


def main() -> None:
    torch.set_num_threads(1)
    rows = [measure(count) for count in SEGMENTS]
    for row in rows:
        within = "within" if row.median_ms <= BUDGET_MS else "OVER"
        print(
            f"{row.segments:3} segments   best {row.best_ms:5.1f}   median {row.median_ms:5.1f} ms CPU, "
            f"{within} {BUDGET_MS:.0f}"
        )
    print(timer.save("overlay", [asdict(row) for row in rows]))


if __name__ == "__main__":
    main()
