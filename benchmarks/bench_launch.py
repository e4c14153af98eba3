"""What a call of the CUDA kernels costs on the host: Python, two allocations, ctypes; the library does nothing.

    python benchmarks/bench_launch.py        # anywhere with a C compiler; no GPU

Tensors lie on the CPU, whose allocator stands in for CUDA's; asking torch for the current stream is left out. Prints a
table and writes results/launch.json.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from timer import compare, save

from x2sam_rt.kernels import availability, cuda, reference

TARGET_US = 10.0
WORKSPACE_BYTES = 2**20
# Every function counts its calls, and nothing else happens.
ANSWERS = {
    "int x2sam_key_block(int dim)": "80",
    "int x2sam_query_tile(int dim)": "128",
    "int64_t x2sam_attention_workspace(const void *call)": str(WORKSPACE_BYTES),
    "int x2sam_attention_bf16(const void *call, void *stream)": "0",
    "int x2sam_attention_fp8(const void *call, void *stream)": "0",
    "int x2sam_cuda_versions(int *driver, int *runtime)": "(*driver = *runtime = 13000, 0)",
    "const char *x2sam_error_string(int error)": '""',
}
SetAttribute = Callable[[object, str, object], None]


def counter(name: str) -> str:
    return f"{name}_calls"


def stub() -> str:
    """C."""
    lines = ["#include <stdint.h>"]
    for declaration, answer in ANSWERS.items():
        calls = counter(declaration.split("(")[0].split()[-1].lstrip("*"))
        lines += [f"int {calls};", f"{declaration} {{ {calls}++; return {answer}; }}"]
    return "\n".join(lines)


def install_stub(folder: Path, set_attribute: SetAttribute = setattr) -> None:
    """Makes `cuda` load a library of empty functions and take CPU tensors for those of an H100."""
    source, library = folder / "stub.c", folder / "libx2sam_cuda.so"
    source.write_text(stub())
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    described = availability.Gpu("a described H100", (9, 0), 132)
    set_attribute(availability, "_PATHS", {**availability._PATHS, "x2sam_cuda": str(library)})
    set_attribute(availability, "gpu", lambda device: described)
    set_attribute(cuda, "_device", lambda tensor: 0)
    set_attribute(cuda, "_stream", lambda tensor: 0)


def cases() -> Iterator[tuple[str, Callable[[], object]]]:
    query, shift = torch.randn(4096, 256).bfloat16(), torch.randn(5, 256).bfloat16()
    key, value = torch.randn(2, 8, 512, 256).bfloat16()[:, :5]
    yield "self_attention", lambda: cuda.self_attention(query, key[0], value[0])
    yield "slot_attention", lambda: cuda.slot_attention(query, key, value, shift)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        install_stub(Path(folder))
        tiny = torch.randn(1, 16)
        for name, call in cases():
            result = compare(call, lambda: reference.self_attention(tiny, tiny, tiny)).own
            microseconds = result.best_ms * 1e3
            verdict = "ok" if microseconds <= TARGET_US else f"above {TARGET_US:g}"
            print(f"{name:16} {microseconds:6.1f} us (median {result.median_ms * 1e3:.1f})  {verdict}")
            rows.append({"call": name, "microseconds": microseconds, "target": TARGET_US, "result": result})
    print(f"written: {save('launch', rows)}")


if __name__ == "__main__":
    main()
