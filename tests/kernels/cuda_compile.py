"""Compiles the CUDA sources and keeps the outputs under build/, so that unchanged sources are compiled once."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "x2sam_rt/kernels/csrc/cuda"
FLAGS = ("-std=c++17", "--expt-relaxed-constexpr", "-DNDEBUG", "-gencode", "arch=compute_90a,code=sm_90a")


@dataclass(frozen=True)
class Compiled:
    """log: what ptxas reported. output: the cubin or program."""

    log: str
    output: Path


def cutlass_include() -> Path | None:
    """The headers named by X2SAM_CUTLASS_INCLUDE, or those of the nvidia-cutlass package."""
    named = os.environ.get("X2SAM_CUTLASS_INCLUDE")
    if named:
        return Path(named)
    spec = find_spec("cutlass_library")
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "source/include"


def unsupported_reason() -> str | None:
    """Why nothing can be compiled here, or None."""
    if shutil.which("nvcc") is None:
        return "nvcc is not on PATH"
    if cutlass_include() is None:
        return "no CUTLASS headers; pip install nvidia-cutlass"
    return None


def compile_source(name: str, *flags: str) -> Compiled:
    """Compiles csrc/cuda/`name`.cu with the extra flags."""
    digest = hashlib.sha256(repr((name, flags, FLAGS)).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.read_bytes())
    folder = ROOT / "build/cuda-check" / digest.hexdigest()[:16]
    output, log = folder / name, folder / f"{name}.log"
    if not log.exists():
        folder.mkdir(parents=True, exist_ok=True)
        source = str(SOURCES / f"{name}.cu")
        command = ["nvcc", *FLAGS, *flags, f"-I{cutlass_include()}", "-o", str(output), source]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr[-4000:]
        log.write_text(result.stdout + result.stderr)
    return Compiled(log.read_text(), output)


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
        [str(disassembler()), "-sass", str(cubin)], capture_output=True, text=True, check=True
    ).stdout  # fmt: skip
    kernels: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "Function :" in line:
            current = kernels.setdefault(line.split("Function :")[1].strip(), [])
        elif ";" in line and "/*" in line:
            current.append(line.split("*/")[1].split(";")[0].strip())
    return kernels
