"""The CPU kernels against torch and ONNX Runtime: the shapes of a 256² input, attention in bfloat16 too.

    python benchmarks/bench_kernels.py [--threads 2] [--rounds 25]

Prints a table and writes results/kernels_cpu.json.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import TensorProto, helper
from timer import Comparison, compare, save
from torch import Tensor

from x2sam_rt.kernels import cpu, onnx_ops, reference
from x2sam_rt.kernels.deformable_attention import deformable_attention
from x2sam_rt.kernels.mask_fusion import attention_mask, mask_fusion
from x2sam_rt.kernels.memory_attention import self_attention, slot_attention

DIM = 256
SHAPES = ((16, 16), (32, 32), (64, 64))  # low to high; 5,376 tokens together
SLOT_TOKENS = 256
QUERIES, CONDITIONS = 200, 20
Side = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """What is measured against what; target: the speedup that must be reached; gflop: the work, where it is counted."""

    kernel: str
    shape: str
    baseline_name: str
    own: Side
    baseline: Side
    target: float
    gflop: float | None = None


def attention_cases(dtype: torch.dtype) -> Iterator[Case]:
    name = str(dtype).removeprefix("torch.")
    for height, width in SHAPES:
        tokens = height * width
        q, k, v = torch.randn(3, tokens, DIM, dtype=dtype)
        yield Case(
            "self_attention",
            f"{tokens} x {tokens}, d {DIM}, {name}",
            "torch SDPA",
            partial(self_attention, q, k, v, backend="cpu"),
            partial(reference.self_attention, q, k, v),
            1.0,
            attention_gflop(tokens, tokens),
        )
        for slots in (1, 5, 8):
            key, value = torch.randn(2, slots, SLOT_TOKENS, DIM, dtype=dtype)
            shift = torch.randn(slots, DIM, dtype=dtype)
            yield Case(
                "slot_attention",
                f"{tokens} x {slots}*{SLOT_TOKENS}, d {DIM}, {name}",
                "torch SDPA over the concatenated slots",
                partial(slot_attention, q, key, value, shift, backend="cpu"),
                partial(reference.slot_attention, q, key, value, shift),
                1.0,
                attention_gflop(tokens, slots * SLOT_TOKENS),
            )


def attention_gflop(queries: int, keys: int) -> float:
    """The two matrix products."""
    return 4e-9 * queries * keys * DIM


def all_cases(threads: int) -> Iterator[Case]:
    yield from attention_cases(torch.float32)
    if cpu.multiplies_bfloat16():
        yield from attention_cases(torch.bfloat16)
    yield from mask_cases()
    yield from deformable_cases(threads)


def mask_cases() -> Iterator[Case]:
    classes, masks = torch.randn(QUERIES, CONDITIONS + 1), torch.randn(QUERIES, 64, 64) * 5
    yield Case(
        "mask_fusion",
        f"{QUERIES} x 64 x 64",
        "torch",
        partial(mask_fusion, classes, masks, backend="cpu"),
        partial(reference.mask_fusion, classes, masks),
        3.0,
    )
    for size in SHAPES:
        yield Case(
            "attention_mask",
            f"{QUERIES} x 64 x 64 -> {size[0]} x {size[1]}",
            "torch",
            partial(attention_mask, masks, size, backend="cpu"),
            partial(reference.attention_mask, masks, size),
            3.0,
        )


def deformable_cases(threads: int) -> Iterator[Case]:
    tokens = sum(height * width for height, width in SHAPES)
    value, (locations, weights) = torch.randn(1, tokens, 8, 32), sampling(tokens)
    shape = f"{tokens} tokens, 8 heads x 3 levels x 4 points, d 32"
    yield Case(
        "deformable_attention",
        shape,
        "torch grid_sample",
        partial(deformable_attention, value, SHAPES, locations, weights, backend="cpu"),
        partial(reference.deformable_attention, value, SHAPES, locations, weights),
        8.0,
    )
    feeds = {"value": value.numpy(), "locations": locations.numpy(), "weights": weights.numpy()}
    own, baseline = (session_run(feeds, threads, ours=ours) for ours in (True, False))
    yield Case("deformable_attention in ONNX Runtime", shape, "ONNX Runtime GridSample", own, baseline, 3.0)


def sampling(tokens: int) -> tuple[Tensor, Tensor]:
    """Locations as the pixel decoder has them: a few cells around each token's own place."""
    centres = torch.cat([cell_centres(height, width) for height, width in SHAPES]).view(1, tokens, 1, 1, 1, 2)
    extents = torch.tensor([(width, height) for height, width in SHAPES]).view(1, 1, 1, 3, 1, 2)
    locations = centres + torch.randn(1, tokens, 8, 3, 4, 2) * 2 / extents
    weights = torch.randn(1, tokens, 8, 12).softmax(-1).view(1, tokens, 8, 3, 4)
    return locations, weights


def cell_centres(height: int, width: int) -> Tensor:
    """(height · width, 2), x then y, 0…1."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y], -1).view(-1, 2)


def session_run(feeds: Mapping[str, np.ndarray[Any, Any]], threads: int, *, ours: bool) -> Side:
    """One deformable attention in ONNX Runtime, with the native operator or through its GridSample body."""
    flat = [size for shape in SHAPES for size in shape]
    node = helper.make_node("DeformableAttention", list(feeds), ["out"], domain=onnx_ops.DOMAIN, spatial_shapes=flat)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape) for name, array in feeds.items()]
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "deformable", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle pools must not slow the other side
    if ours:
        cpu.register_with_onnxruntime(options)
    serialized = onnx_ops.add_function_bodies(model).SerializeToString()
    session = onnxruntime.InferenceSession(serialized, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, feeds)


def gflop_per_second(case: Case, result: Comparison) -> tuple[float, float] | None:
    """Of the kernel and of the baseline."""
    if case.gflop is None:
        return None
    return case.gflop / result.own.median_ms * 1e3, case.gflop / result.baseline.median_ms * 1e3


def report(case: Case, result: Comparison) -> None:
    verdict = "ok" if result.speedup >= case.target else f"below {case.target:g}"
    rates = gflop_per_second(case, result)
    rate = "" if rates is None else f"{rates[0]:.0f} against {rates[1]:.0f} GFLOP/s"
    print(
        f"{case.kernel:38} {case.shape:50} {result.own.median_ms:9.3f} {result.baseline.median_ms:9.3f} ms "
        f"{result.speedup:6.2f}x  {rate:26} {verdict:10} ({case.baseline_name})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"instruction set {cpu.instruction_set()}, {options.threads} threads; own, baseline, speedup")
    rows = []
    with torch.no_grad():
        for case in all_cases(options.threads):
            result = compare(case.own, case.baseline, rounds=options.rounds)
            report(case, result)
            rows.append(
                {
                    "kernel": case.kernel,
                    "shape": case.shape,
                    "baseline": case.baseline_name,
                    "target": case.target,
                    "gflop_per_second": gflop_per_second(case, result),
                    "result": result,
                }
            )
    print(save("kernels_cpu", rows))


if __name__ == "__main__":
    main()
