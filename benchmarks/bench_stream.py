"""A long stream must stay as small and as fast as it began.

    python benchmarks/bench_stream.py --frames 2000

Streams made-up frames through the embedded model on both backends, in one process, and writes
benchmarks/results/stream.json. Exit 1 when resident memory grows by 5 MB or more after frame 200, or when the median
of the last 200 frames is over 10 % away from that of frames 200…400.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from timer import save

from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.model.checkpoint.files import embedded_checkpoint
from x2sam_rt.model.checkpoint.loading import load_checkpoint
from x2sam_rt.runtime.profile import resident_mb
from x2sam_rt.runtime.runtime import Runtime

WARM, WINDOW, PERIOD = 200, 200, 96
GROWTH_MB, DRIFT = 5.0, 0.10


def measure(bundle: Path, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Milliseconds of each frame, and resident MiB after it."""
    times, memory = np.zeros(frames), np.zeros(frames)
    clip = make_clip(0, ClipSettings(side=256, frames=PERIOD)).frames
    with Runtime.load(bundle) as runtime, runtime.stream("the red circle") as session:
        for index in range(frames):
            times[index] = sum(session.step(clip[index % PERIOD]).timings.values())
            memory[index] = resident_mb()
    return times, memory


def row(backend: str, times: np.ndarray, memory: np.ndarray) -> dict[str, object]:
    early, late = np.median(times[WARM : WARM + WINDOW]), np.median(times[-WINDOW:])
    growth = memory[-1] - memory[WARM]
    return {
        "backend": backend,
        "frames": len(times),
        "early_p50_ms": round(float(early), 3),
        "late_p50_ms": round(float(late), 3),
        "late_over_early": round(float(late / early), 3),
        "resident_at_200_mib": round(float(memory[WARM]), 1),
        "resident_at_end_mib": round(float(memory[-1]), 1),
        "growth_mib": round(float(growth), 2),
        "holds": bool(growth < GROWTH_MB and abs(late / early - 1) <= DRIFT),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2000)
    options = parser.parse_args()
    if options.frames < WARM + 2 * WINDOW:
        parser.error(f"--frames must be at least {WARM + 2 * WINDOW}")
    checkpoint, rows = load_checkpoint(embedded_checkpoint()), []
    backends = ("torch", "onnxruntime")
    with tempfile.TemporaryDirectory() as work:
        for backend in backends:
            bundle = Path(work) / backend
            export_bundle(ExportPlan(checkpoint, backend), bundle)
            gc.collect()
            rows.append(row(backend, *measure(bundle, options.frames)))
    table = Table(*rows[0])
    for entry in rows:
        table.add_row(*(str(value) for value in entry.values()))
    Console(width=160).print(table)
    print(f"written to {save('stream', rows)}")
    return 0 if all(entry["holds"] for entry in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
