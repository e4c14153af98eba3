"""What is measured on a GPU, run without one: `gpu.sh` as a dry run, and its frames on a simulated GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch
from simulated_gpu import GPU, simulated_gpu

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def gpu_sh(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BENCHMARKS / "gpu.sh", *arguments],
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def test_dry_run_of_everything() -> None:
    ran = gpu_sh("--dry-run")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "all steps passed" in ran.stdout
    assert '"side": 64, "slots": 2' in ran.stdout
    assert '"frames": "16 of 96' in ran.stdout


def test_a_failing_step_is_named() -> None:
    ran = gpu_sh("--dry-run", PYTHON="false")
    assert ran.returncode == 1
    assert "failed: attention (exit 1)" in ran.stdout
    assert "failed: frame (exit 1)" in ran.stdout


def test_parts_run_in_the_order_given_and_others_are_refused() -> None:
    ran = gpu_sh("--dry-run", "language", "frame", PYTHON="echo")
    begun = [line.split(",")[0] for line in ran.stdout.splitlines() if "at most" in line]
    assert begun == ["== language", "== frame"]
    assert "--seconds 155 --dry-run" in ran.stdout, "it ends by itself before it is ended"
    refused = gpu_sh("--dry-run", "everything")
    assert refused.returncode == 2
    assert "parts: attention frame checks language; got 'everything'" in refused.stderr


def test_steps_share_what_time_there_is() -> None:
    ran = gpu_sh("--dry-run", "frame", "language", PYTHON="echo", LIMIT="100")
    assert "--seconds 85 --dry-run" in ran.stdout
    late = gpu_sh("--dry-run", "frame", PYTHON="echo", LIMIT="10")
    assert (late.returncode, late.stdout) == (1, "failed: frame (left out, the time is up)\n")


@pytest.fixture
def attention(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """With what it writes elsewhere."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu_attention

    monkeypatch.setattr(gpu_attention, "BUILD", tmp_path / "build")
    monkeypatch.setattr(gpu_attention, "LIBRARY", tmp_path / "libx2sam_cuda.so")
    return gpu_attention


def test_groups_without_time_are_left_out_and_what_there_is_is_saved(attention: ModuleType) -> None:
    rows, path = attention.measure(["cuda", "sdpa"], True, time.monotonic() + 1, "built")
    assert [(row.group, row.status) for row in rows] == [
        ("cuda", "left out, the time is up"),
        ("sdpa", "left out, the time is up"),
    ]
    assert len(json.loads(path.read_text())["rows"]) == 2


NVCC = """#!/bin/sh
echo "$@" >> {log}
while [ "$1" != -o ]; do shift; done
touch "$2"
"""


def test_the_library_is_built_once_and_anew_for_newer_sources(
    attention: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler, log = tmp_path / "nvcc", tmp_path / "log"
    compiler.write_text(NVCC.format(log=log))
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("X2SAM_CUTLASS_INCLUDE", "headers")
    assert [attention.build(), attention.build()] == ["built", "prebuilt"]
    *units, link = log.read_text().splitlines()
    assert sorted(Path(unit.split()[-3]).name for unit in units) == ["attention_bf16.cu", "attention_fp8.cu", "glue.cu"]
    assert "-shared" in link
    os.utime(attention.LIBRARY, (0, 0))
    assert attention.build() == "built"
    compiler.write_text("#!/bin/sh\necho no such flag >&2\nexit 1\n")
    os.utime(attention.LIBRARY, (0, 0))
    assert attention.build().startswith("not built: no such flag")


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
