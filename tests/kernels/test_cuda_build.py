"""What the compilers make of the GPU kernels, without a GPU: resources, instructions, and layouts."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
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

Outputs = dict[str, cuda_compile.Compiled]
PRODUCTS = {"attention_bf16": "HGMMA.64x", "attention_fp8": "QGMMA.64x"}

EMPTY_PRODUCT = "64x8x16"  # what a group without products is committed with, where blocks are skipped

needs_disassembler = pytest.mark.skipif(cuda_compile.disassembler() is None, reason="cuobjdump was not found")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")


@pytest.mark.parametrize(("name", "kernels"), [("attention_bf16", 6), ("attention_fp8", 2), ("glue", 2)])
def test_nothing_spills(compiled: Outputs, name: str, kernels: int) -> None:
    log = compiled[name].log
    assert log.count("Compiling entry function") == kernels
    assert log.count("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") == kernels
    assert max(int(number) for number in re.findall(r"Used (\d+) registers", log)) <= REGISTERS_AT_ENTRY


def test_no_product_is_serialised(compiled: Outputs) -> None:
    for name in PRODUCTS:
        assert "serialized" not in compiled[name].log
        assert "setmaxnreg ignored" not in compiled[name].log


def compiled_for(sass: dict[str, list[str]], dim: int) -> list[list[str]]:
    return [instructions for name, instructions in sass.items() if f"ELi{dim}E" in name]


@needs_disassembler
@pytest.mark.parametrize(
    ("name", "dim", "products", "copier", "consumer"),
    [
        pytest.param("attention_bf16", 64, ("64x128x16", "64x64x16"), "0x20", "0xa0", id="bf16-64"),
        pytest.param("attention_bf16", 128, ("64x176x16", "64x128x16"), "0x18", "0xf0", id="bf16-128"),
        pytest.param("attention_bf16", 256, ("64x80x16", "64x256x16"), "0x18", "0xf0", id="bf16-256"),
        pytest.param("attention_fp8", 128, ("64x128x32",), "0x18", "0xf0", id="fp8-128"),
        pytest.param("attention_fp8", 256, ("64x128x32", "64x256x32"), "0x18", "0xf0", id="fp8-256"),
    ],
)
def test_tiles_and_registers(
    compiled: Outputs, name: str, dim: int, products: tuple[str, ...], copier: str, consumer: str
) -> None:
    """Q·K and P·V take a block of keys at a time; a result that is final leaves through the copy engine."""
    kernels = compiled_for(cuda_compile.disassemble(compiled[name].cubin), dim)
    assert kernels
    for instructions in kernels:
        text = "\n".join(instructions)
        assert set(re.findall(r"GMMA\.(\w+)", text)) - {EMPTY_PRODUCT} == set(products)
        assert re.search(rf"USETMAXREG\.DEALLOC\S* {copier}\b", text)
        assert re.search(rf"USETMAXREG\.TRY_ALLOC\S* \w+, {consumer}\b", text)
        assert text.count("UTMASTG.3D") == (dim // 64 if name == "attention_bf16" else 0)


@needs_disassembler
@pytest.mark.parametrize("name", PRODUCTS)
def test_softmax_runs_beside_the_product(compiled: Outputs, name: str) -> None:
    """In every kernel, the exponentials of a block stand between the waits for its scores and for the values."""
    for kernel, instructions in cuda_compile.disassemble(compiled[name].cubin).items():
        assert any(PRODUCTS[name] in instruction for instruction in instructions), kernel
        assert any(instruction.startswith("UTMALDG.3D.MULTICAST") for instruction in instructions), kernel
        assert any("USETMAXREG" in instruction for instruction in instructions), kernel
        assert not any(instruction.split()[0] in ("LDL", "STL") for instruction in instructions), kernel
        waits = [index for index, text in enumerate(instructions) if "WARPGROUP.DEPBAR" in text]
        beside = [b for a, b in pairwise(waits) if instructions[a].endswith("0x1")]
        begin = next(index for index in waits if instructions[index].endswith("0x1"))
        exponentials = sum("MUFU.EX2" in text for text in instructions[begin : beside[0]])
        assert exponentials >= 40, f"{kernel}: {exponentials} exponentials beside the product"
        end = waits[waits.index(beside[0]) + 1]
        behind = sum("MUFU.EX2" in text for text in instructions[beside[0] : end])
        assert behind == 0, f"{kernel}: {behind} exponentials behind the product"


def test_layouts_and_sizes_agree(compiled: Outputs) -> None:
    run = subprocess.run(
        [str(compiled["layout_check"].output)], capture_output=True, text=True, check=False, timeout=900
    )
    assert run.returncode == 0, run.stdout
    lines = [line.split() for line in run.stdout.splitlines()]
    assert ["ok"] in lines
    shared = {line[1]: int(line[2]) for line in lines if line[0] == "shared"}
    assert set(shared) == {"bf16_64", "bf16_128", "bf16_256", "fp8_128", "fp8_256"}
    assert max(shared.values()) <= SHARED_LIMIT
    assert ["call", str(ctypes.sizeof(cuda.Call))] in lines


@pytest.mark.parametrize(
    ("nvcc", "include", "missing"),
    [
        pytest.param("12.4.131", True, "nvcc 12.4.131 is older than 12.5; put a newer one on PATH", id="old-nvcc"),
        pytest.param(
            "12.5", False, "no CUTLASS headers (found: 'nowhere'); pip install nvidia-cutlass", id="no-cutlass"
        ),
        pytest.param("13.0", True, "", id="all-there"),
    ],
)
def test_an_install_says_what_it_skips_cuda_for(tmp_path: Path, nvcc: str, include: bool, missing: str) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is not on PATH")
    (tmp_path / "cute").mkdir()
    (tmp_path / "cute/tensor.hpp").touch()
    script = tmp_path / "ask.cmake"
    script.write_text(f'include({cuda_compile.SOURCES / "requirements.cmake"})\nmessage("missing: ${{missing}}")\n')
    settings = [
        f"-DCMAKE_CUDA_COMPILER_VERSION={nvcc}",
        f"-DX2SAM_CUTLASS_INCLUDE={tmp_path if include else 'nowhere'}",
    ]
    run = subprocess.run([cmake, *settings, "-P", str(script)], capture_output=True, text=True, check=True, timeout=900)
    assert run.stderr.strip() == f"missing: {missing}".strip()


@needs_triton
@pytest.mark.parametrize(("capability", "limit"), [(80, SMALL_SHARED_LIMIT), (90, SHARED_LIMIT)])
def test_triton_kernels_fit(capability: int, limit: int) -> None:
    script = Path(__file__).with_name("triton_cross_compile.py")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(cuda_compile.ROOT), "HOME": str(Path.home())}
    run = subprocess.run(
        [sys.executable, str(script), str(capability)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=900,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    report = json.loads(run.stdout.splitlines()[-1])
    assert len(report) == 10
    for name, resources in report.items():
        assert resources["shared"] <= limit, name
        assert resources["stack"] <= 16, f"{name} spills"  # the d = 256 tile keeps 8 bytes there
        product = "hgmma" if capability >= 90 else "hmma"
        assert bool(resources[product]) == name.startswith("attention"), name
