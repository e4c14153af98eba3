"""What is measured on a GPU, run without one: `gpu.sh` as a dry run, and its frames on a simulated GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from simulated_gpu import GPU, simulated_gpu

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_dry_run_of_everything() -> None:
    ran = subprocess.run(
        [BENCHMARKS / "gpu.sh", "--dry-run"],
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "all steps passed" in ran.stdout
    assert '"side": 64, "slots": 2' in ran.stdout
    assert '"frames": "16 of 96' in ran.stdout


def test_a_failing_step_is_named() -> None:
    ran = subprocess.run(
        [BENCHMARKS / "gpu.sh", "--dry-run"],
        env={**os.environ, "PYTHON": "false"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1
    assert "failed: attention (exit 1)" in ran.stdout
    assert "failed: frame (exit 1)" in ran.stdout


def test_frames_on_a_simulated_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The path that a dry run on a CPU does not take: model, frames, prompt and both sides on the device."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_frame

    modes: list[str] = []
    stats = {"allocated_bytes.all.current": 0, "allocated_bytes.all.peak": 2**21, "num_device_alloc": 7}
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: stats)
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        with simulated_gpu():
            deadline = gpu_frame.Deadline(time.monotonic() + 1e6)
            row = gpu_frame.measure(gpu_frame.Setting(64, 1, "fp32", 2, loop=2), GPU, deadline)
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)
    assert modes == ["error", "default"] * 2
    assert (row.peak_mib, row.taken, row.grown_mib) == (2.0, 0, 0.0)
    assert list(row.stages) == ["frame_encoder", "memory_attention", "mask_decoder", "memory_encoder"]
    assert min(row.p50_ms, row.ahead_ms, row.eager_ms, *(p50 for p50, _ in row.stages.values())) > 0


def test_a_run_keeps_to_its_time_and_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_frame

    saved: list[int] = []
    monkeypatch.setattr(gpu_frame, "save", lambda name, rows: saved.append(len(rows)))
    first, second = (gpu_frame.Setting(64, slots, "fp32", 10_000, loop=2) for slots in (1, 2))
    monkeypatch.setattr(gpu_frame, "LONG", first)  # whole frames alone
    rows, failures = gpu_frame.attempts(
        [first, second], torch.device("cpu"), gpu_frame.Deadline(time.monotonic() + 0.5), dry=False
    )
    assert [(row.slots, 0 < row.frames < 10_000) for row in rows] == [(1, True)]
    assert failures == [f"{second}: left out, the time is up"]
    assert saved == [1]
