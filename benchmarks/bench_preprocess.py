"""Preparing one 1080p frame for the segmentor (1024²), alone and beside programs that keep every core busy: as sessions
do it, in one thread, and in all of PyTorch's threads.

python benchmarks/bench_preprocess.py
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

import numpy as np
import timer
import torch

from x2sam_rt.model.preprocess import segmentor_input
from x2sam_rt.runtime.device import one_thread

ROUNDS = 60
FRAME = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8))


@contextlib.contextmanager
def busy(programs: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


def milliseconds(threads: AbstractContextManager[None]) -> float:
    with threads:
        started = time.perf_counter()
        segmentor_input(FRAME, 1024, "stretch")
        return (time.perf_counter() - started) * 1e3


def measure(programs: int) -> dict[str, float]:
    with busy(programs):
        turns = [(milliseconds(one_thread()), milliseconds(contextlib.nullcontext())) for _ in range(ROUNDS)]
    one, every = np.array(turns[5:]).T
    return {
        "busy_programs": programs,
        "one_thread_median_ms": float(np.median(one)),
        "one_thread_p95_ms": float(np.quantile(one, 0.95)),
        "all_threads_median_ms": float(np.median(every)),
        "all_threads_p95_ms": float(np.quantile(every, 0.95)),
    }


def main() -> None:
    cores = os.cpu_count() or 1
    torch.set_num_threads(cores)
    rows = [measure(programs) for programs in (0, cores, 2 * cores)]
    for row in rows:
        print(
            f"beside {row['busy_programs']} busy programs: one thread {row['one_thread_median_ms']:.1f} ms "
            f"(p95 {row['one_thread_p95_ms']:.1f}), {cores} threads {row['all_threads_median_ms']:.1f} ms "
            f"(p95 {row['all_threads_p95_ms']:.1f})"
        )
    print(timer.save("preprocess", rows))


if __name__ == "__main__":
    main()
