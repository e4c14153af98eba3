"""Compiles every Triton kernel for a GPU that need not be there and prints their resources as JSON.

Run by the tests in a process of its own, because the interpreter's tests switch Triton to interpreting.
Usage: triton_cross_compile.py CAPABILITY (80, 90) [FOLDER]. With a folder: those of attention at d = 64 only, whose PTX
is written there for the emulator.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from x2sam_rt.kernels.triton import attention, attention_kernels, deformable_attention, mask_fusion

FLAGS = {
    "DIM": 256, "HAS_BIAS": True, "WRITE_LSE": True, "SKIP": False, "PRECISION": attention.PRECISION[torch.bfloat16]
}  # fmt: skip
POINTERS = {"query", "key", "value", "shift", "out", "partial", "mask_logits", "class_logits", "locations", "weights"}
ALIGNED = {"query_stride", "key_segment_stride", "key_stride", "value_segment_stride", "value_stride", "shift_stride"}


def attention_case(capability: int, dim: int, skip: bool) -> tuple[Any, dict[str, Any], dict[str, int]]:
    big = capability >= 90 or dim <= 128
    tiles = attention.Tiles(128, 64, 8, 2) if big else attention.Tiles(64, 32, 8, 2)
    constants = FLAGS | {"DIM": dim, "SKIP": skip, "TILE_Q": tiles.query, "TILE_K": tiles.key}
    return attention_kernels.attend_segments, constants, {"num_warps": tiles.warps, "num_stages": tiles.stages}


def cases(capability: int) -> dict[str, tuple[Any, dict[str, Any], dict[str, int]]]:
    levels = {"SHAPES": (64, 64, 128, 128, 256, 256), "HEADS": 8, "LEVELS": 3, "POINTS": 4, "CHANNELS": 32, "LANES": 32}
    tiles = {"TILE_Q": mask_fusion.QUERY_TILE, "TILE_P": mask_fusion.PIXEL_TILE}
    return {
        **{f"attention{dim}": attention_case(capability, dim, skip=False) for dim in (64, 128, 256)},
        "attention256_skip": attention_case(capability, 256, skip=True),
        "bias": (attention_kernels.slot_bias, {"DIM": 256, "TILE": 16}, {}),
        "merge": (attention_kernels.merge_rows, {"DIM": 256, "TILE": 16}, {}),
        "deformable": (deformable_attention._sample_levels, levels | {"TILE": deformable_attention.QUERY_TILE}, {}),
        "scores": (mask_fusion._log_scores, {"LANES": 128}, {}),
        "fuse": (mask_fusion._fuse, tiles, {}),
        "allow": (mask_fusion._allow, {"TILE": mask_fusion.MASK_TILE}, {"num_warps": 8}),
    }


def emulated_cases(capability: int) -> dict[str, tuple[Any, dict[str, Any], dict[str, int]]]:
    kernel, constants, options = attention_case(capability, 64, skip=False)
    small = {"DIM": 64, "TILE": attention.ROW_TILE}
    return {
        "attention": attention_case(capability, 64, skip=False),
        "attention_skip": attention_case(capability, 64, skip=True),
        "self_attention": (kernel, constants | {"HAS_BIAS": False, "WRITE_LSE": False}, options),
        "bias": (attention_kernels.slot_bias, small, {}),
        "merge": (attention_kernels.merge_rows, small, {}),
    }


def argument_type(kernel: str, name: str) -> str:
    if name in {"lse", "log_scores", "biases"} or (kernel in {"scores", "bias"} and name == "out"):
        return "*fp32"
    if name == "skip_counter":
        return "*i64"
    if name in POINTERS:
        return "*u8" if (kernel, name) == ("allow", "out") else "*bf16"
    return "fp32" if name in {"scale_log2", "skip_below", "row_ratio", "column_ratio"} else "i32"


def resources(cubin: bytes) -> dict[str, int]:
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True, timeout=900)
        sass = subprocess.run(
            [tool, "-sass", file.name], capture_output=True, text=True, check=True, timeout=900
        ).stdout
    text = usage.stdout + usage.stderr
    found = {name.lower(): int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    return found | {"hgmma": sass.count("HGMMA"), "hmma": sass.count("HMMA")}


def compile_case(name: str, kernel: Any, constants: dict[str, Any], options: dict[str, int], target: Any) -> Any:
    signature = {
        argument: "constexpr" if argument in constants else argument_type(name, argument)
        for argument in kernel.arg_names
    }
    positions = {argument: index for index, argument in enumerate(kernel.arg_names)}
    aligned = [a for a, kind in signature.items() if kind.startswith("*") or a in ALIGNED]
    attributes = {(positions[argument],): [["tt.divisibility", 16]] for argument in aligned}
    source = ASTSource(kernel, signature, {(positions[a],): value for a, value in constants.items()}, attributes)
    return triton.compile(source, target=target, options=options)


def main(capability: int, folder: Path | None) -> None:
    target = GPUTarget("cuda", capability, 32)
    report = {}
    for name, (kernel, constants, options) in (cases if folder is None else emulated_cases)(capability).items():
        compiled = compile_case(name, kernel, constants, options, target)
        report[name] = {"shared": compiled.metadata.shared, "warps": compiled.metadata.num_warps}
        report[name] |= resources(compiled.asm["cubin"])
        if folder is not None:
            (folder / f"{name}.ptx").write_text(compiled.asm["ptx"])
    print(json.dumps(report))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
