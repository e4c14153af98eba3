"""Compiles the CUDA sources once per test run: the objects for the host, the PTX, the cubins and what ptxas reports."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "x2sam_rt/kernels/csrc/cuda"
LIBRARY = ("attention_bf16", "attention_fp8", "glue")
FLAGS = ("-std=c++17", "--expt-relaxed-constexpr", "-DNDEBUG", "-gencode", "arch=compute_90a,code=sm_90a")
LEAST_NVCC = (12, 5)


@dataclass(frozen=True)
class Compiled:
    """log: what ptxas reported. object: for the host, without a runtime. program: of layout_check only."""

    log: str
    folder: Path
    name: str

    @property
    def ptx(self) -> str:
        return (self.folder / f"{self.name}.ptx").read_text()

    @property
    def cubin(self) -> Path:
        return self.folder / f"{self.name}.cubin"

    @property
    def output(self) -> Path:
        return self.folder / f"{self.name}.o"


def cutlass_include() -> Path | None:
    """The headers named by X2SAM_CUTLASS_INCLUDE, or those of the nvidia-cutlass package."""
    named = os.environ.get("X2SAM_CUTLASS_INCLUDE")
    if named:
        return Path(named)
    spec = find_spec("cutlass_library")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "source/include"


def missing() -> str | None:
    """Why nothing can be compiled here, or None."""
    if shutil.which("nvcc") is None:
        return "nvcc is not on PATH"
    if nvcc_version() < LEAST_NVCC:
        return f"nvcc {nvcc_version()} is older than {LEAST_NVCC}"
    if cutlass_include() is None:
        return "no CUTLASS headers; pip install nvidia-cutlass"
    return None


def nvcc_version() -> tuple[int, ...]:
    text = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True, timeout=900).stdout
    return tuple(int(part) for part in text.split("release ")[1].split(",")[0].split("."))


def compile_all(folder: Path) -> dict[str, Compiled]:
    """Two at a time: the sources of the library, and layout_check as a program."""
    library = [
        (name, ("-c", "-cudart", "none", "-Xptxas", "-v", "-Xcompiler", "-fPIC,-fvisibility=hidden", "-keep"))
        for name in LIBRARY
    ]
    with ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(_compile, folder, name, flags) for name, flags in (*library, ("layout_check", ("-O0",)))]
        return {job.result().name: job.result() for job in jobs}


def _compile(folder: Path, name: str, flags: tuple[str, ...]) -> Compiled:
    place = folder / name
    place.mkdir()
    include = f"-I{cutlass_include()}"
    command = ["nvcc", *FLAGS, *flags, include, "-o", str(place / f"{name}.o"), str(SOURCES / f"{name}.cu")]
    result = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=900)
    assert result.returncode == 0, result.stderr[-4000:]
    return Compiled(result.stdout + result.stderr, place, name)


def disassembler() -> Path | None:
    """cuobjdump on PATH, or the one that comes with Triton."""
    found = shutil.which("cuobjdump")
    if found:
        return Path(found)
    spec = find_spec("triton")
    if spec is None or spec.origin is None:
        return None
    bundled = Path(spec.origin).parent / "backends/nvidia/bin/cuobjdump"
    return bundled if bundled.exists() else None


def disassemble(cubin: Path) -> dict[str, list[str]]:
    """Instructions of each kernel, by its mangled name. Needs `disassembler`."""
    text = subprocess.run(
        [str(disassembler()), "-sass", str(cubin)], capture_output=True, text=True, check=True, timeout=900
    ).stdout  # fmt: skip
    kernels: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "Function :" in line:
            current = kernels.setdefault(line.split("Function :")[1].strip(), [])
        elif ";" in line and "/*" in line:
            current.append(line.split("*/")[1].split(";")[0].strip())
    return kernels
