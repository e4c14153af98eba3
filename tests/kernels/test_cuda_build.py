"""What the compilers make of the GPU kernels, without a GPU: resources, instructions, and layouts.

The first run compiles for about a minute; later runs reuse the outputs in build/cuda-check until a source changes.
"""

from __future__ import annotations

import ctypes
import json
import re
import subprocess
import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import cuda_compile
import pytest

from x2sam_rt.kernels import cuda

SHARED_LIMIT = 227 * 1024  # bytes a thread block of sm_90 can have
SMALL_SHARED_LIMIT = 99 * 1024  # of sm_86 and sm_89, the least of the portable path
REGISTERS_AT_ENTRY = 168  # 384 threads · 168 ≤ 65,536; the warpgroups then trade theirs

needs_nvcc = pytest.mark.skipif(
    cuda_compile.unsupported_reason() is not None, reason=str(cuda_compile.unsupported_reason())
)
needs_disassembler = pytest.mark.skipif(cuda_compile.disassembler() is None, reason="cuobjdump was not found")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


def cubin(name: str) -> cuda_compile.Compiled:
    return cuda_compile.compile_source(name, "-cubin", "-Xptxas", "-v")


@needs_nvcc
@pytest.mark.parametrize(("name", "kernels"), [("attention_bf16", 6), ("attention_fp8", 2), ("glue", 2)])
def test_nothing_spills(name: str, kernels: int) -> None:
    log = cubin(name).log
    assert log.count("Compiling entry function") == kernels
    assert log.count("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") == kernels
    assert max(int(number) for number in re.findall(r"Used (\d+) registers", log)) <= REGISTERS_AT_ENTRY


@needs_nvcc
def test_no_product_is_serialised() -> None:
    for name in ("attention_bf16", "attention_fp8"):
        assert "serialized" not in cubin(name).log
        assert "setmaxnreg ignored" not in cubin(name).log


@needs_nvcc
@needs_disassembler
@pytest.mark.parametrize(("name", "product"), [("attention_bf16", "HGMMA.64x"), ("attention_fp8", "QGMMA.64x")])
def test_softmax_runs_beside_the_product(name: str, product: str) -> None:
    """In every kernel, the exponentials of a block stand between the waits for its scores and for the values."""
    for kernel, instructions in cuda_compile.disassemble(cubin(name).output).items():
        assert any(product in instruction for instruction in instructions), kernel
        assert any(instruction.startswith("UTMALDG") for instruction in instructions), kernel
        assert any("USETMAXREG" in instruction for instruction in instructions), kernel
        waits = [index for index, text in enumerate(instructions) if "WARPGROUP.DEPBAR" in text]
        beside = [b for a, b in pairwise(waits) if instructions[a].endswith("0x1")]
        begin = next(index for index in waits if instructions[index].endswith("0x1"))
        exponentials = sum("MUFU.EX2" in text for text in instructions[begin : beside[0]])
        assert exponentials >= 40, f"{kernel}: {exponentials} exponentials beside the product"


@needs_nvcc
def test_layouts_and_sizes_agree() -> None:
    program = cuda_compile.compile_source("layout_check", "-O0").output
    run = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    lines = [line.split() for line in run.stdout.splitlines()]
    assert ["ok"] in lines
    shared = {line[1]: int(line[2]) for line in lines if line[0] == "shared"}
    assert set(shared) == {"bf16_128", "bf16_256", "fp8_256"}
    assert max(shared.values()) <= SHARED_LIMIT
    assert ["call", str(ctypes.sizeof(cuda._Attention))] in lines


@needs_triton
@pytest.mark.parametrize(("capability", "limit"), [(80, SMALL_SHARED_LIMIT), (90, SHARED_LIMIT)])
def test_triton_kernels_fit(capability: int, limit: int) -> None:
    script = Path(__file__).with_name("triton_cross_compile.py")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(cuda_compile.ROOT), "HOME": str(Path.home())}
    run = subprocess.run(
        [sys.executable, str(script), str(capability)], capture_output=True, text=True, check=False, env=environment
    )
    assert run.returncode == 0, run.stderr[-2000:]
    report = json.loads(run.stdout.splitlines()[-1])
    assert len(report) == 10
    for name, resources in report.items():
        assert resources["shared"] <= limit, name
        assert resources["stack"] <= 16, f"{name} spills"  # the d = 256 tile keeps 8 bytes there
        product = "hgmma" if capability >= 90 else "hmma"
        assert bool(resources[product]) == name.startswith("attention"), name
