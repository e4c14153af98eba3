"""The compiled library: where it is found, what it says, how it behaves without it and on other instruction sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checks import needs_library, random

from x2sam_rt.errors import KernelUnavailable
from x2sam_rt.kernels import availability, available, cpu
from x2sam_rt.kernels.mask_fusion import mask_fusion
from x2sam_rt.kernels.memory_attention import self_attention


@needs_library
def test_the_library_is_installed_and_chose_an_instruction_set() -> None:
    library = available().cpu
    assert library is not None
    assert library.name.startswith("libx2sam_cpu")
    assert cpu.instruction_set() in ("avx512", "avx2", "baseline")


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(availability._PATHS, "x2sam_cpu", None)


@pytest.mark.usefixtures("no_library")
def test_without_the_library_auto_runs_on_torch_and_cpu_says_how_to_get_it() -> None:
    q = random(3, 32)
    assert available().cpu is None
    assert torch.equal(self_attention(q, q, q), self_attention(q, q, q, backend="torch"))
    with pytest.raises(KernelUnavailable, match=r"CPU kernels were not built; reinstall x2sam-rt with GCC or Clang"):
        self_attention(q, q, q, backend="cpu")


PRINT_RESULT = """
import sys, torch
from x2sam_rt.kernels import cpu
from x2sam_rt.kernels.memory_attention import self_attention
q = torch.linspace(-3, 3, 70 * 32).sin().view(70, 32)
torch.set_num_threads(int(sys.argv[1]))
print(cpu.instruction_set(), self_attention(q, q, q, backend="cpu").double().sum().item())
"""


def run_elsewhere(isa: str, threads: int) -> tuple[str, float]:
    environment = {**os.environ, "X2SAM_CPU_ISA": isa}
    command = [sys.executable, "-c", PRINT_RESULT, str(threads)]
    folder = Path(__file__).parent
    output = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, check=True, timeout=900
    ).stdout
    name, total = output.split()
    return name, float(total)


@needs_library
def test_the_plainest_instruction_set_can_be_asked_for_and_agrees() -> None:
    name, total = run_elsewhere("baseline", 1)
    q = torch.linspace(-3, 3, 70 * 32).sin().view(70, 32)
    assert name == "baseline"
    assert total == pytest.approx(self_attention(q, q, q, backend="torch").double().sum().item(), abs=1e-3)


PRINT_CHOICE = """
import torch
from x2sam_rt.errors import KernelUnavailable
from x2sam_rt.kernels.memory_attention import self_attention
q = torch.linspace(-3, 3, 70 * 32).sin().view(70, 32).bfloat16()
print(torch.equal(self_attention(q, q, q), self_attention(q, q, q, backend="torch")))
try:
    self_attention(q, q, q, backend="cpu")
except KernelUnavailable as refusal:
    print(refusal)
"""


@needs_library
def test_without_bfloat16_instructions_auto_runs_on_torch_and_cpu_says_what_is_missing() -> None:
    environment = {**os.environ, "X2SAM_CPU_ISA": "avx512"}
    command = [sys.executable, "-c", PRINT_CHOICE]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=900).stdout
    same, refusal = output.splitlines()
    assert same == "True"
    assert refusal.endswith("bfloat16 needs a processor with AVX512-BF16 and a compiler that knows it; use float32")


@needs_library
def test_threads_do_not_change_the_result() -> None:
    q, classes, masks = random(1000, 32), random(20, 4), random(20, 40, 40)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        attended = self_attention(q, q, q, backend="cpu")
        results.append((attended, mask_fusion(classes, masks, backend="cpu")))
    torch.set_num_threads(before)
    # Attention cuts its tiles by the number of threads; tiles are independent rows, so only sums within rows matter.
    for one, three in zip(*results, strict=True):
        torch.testing.assert_close(one, three, rtol=1e-6, atol=1e-6)
