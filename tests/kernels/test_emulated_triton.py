"""Triton's compiled attention on the emulated GPU: bfloat16, which its interpreter cannot do, for two generations."""

from __future__ import annotations

import json
import math
import struct
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cuda_compile
import pytest
import torch
from checks import assert_as_exact_as
from emulator.device import Device
from emulator.ptx import parse
from torch import Tensor

from x2sam_rt.kernels import reference

pytestmark = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

DIM, TILE_Q, TILE_K, ROW_TILE = 64, 128, 64, 16
SCALE_LOG2 = math.log2(math.e) / DIM**0.5


@dataclass
class Module:
    """Kernels compiled for one capability, by the names of triton_cross_compile."""

    folder: Path
    report: dict[str, dict[str, int]]

    def launch(self, name: str, grid: tuple[int, int], *arguments: Tensor | int | float, seed: int = 0) -> None:
        kernels = parse((self.folder / f"{name}.ptx").read_text())
        device = Device(kernels)
        device.seed = seed
        scratch = [struct.pack("Q", 0)] * 2  # Triton adds two pointers that these kernels do not use
        given = [packed(argument) for argument in arguments] + scratch
        facts = self.report[name]
        device.launch(next(iter(kernels)), (*grid, 1), 32 * facts["warps"], facts["shared"], given)


def packed(argument: Tensor | int | float) -> bytes:
    if isinstance(argument, Tensor):
        return struct.pack("Q", argument.data_ptr())
    return struct.pack("f", argument) if isinstance(argument, float) else struct.pack("i", argument)


@pytest.fixture(scope="module", params=[80, 90])
def module(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Module:
    folder = tmp_path_factory.mktemp(f"triton{request.param}")
    script = Path(__file__).with_name("triton_cross_compile.py")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(cuda_compile.ROOT), "HOME": str(folder)}
    command = [sys.executable, str(script), str(request.param), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=900)
    assert run.returncode == 0, run.stderr[-2000:]
    return Module(folder, json.loads(run.stdout.splitlines()[-1]))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def attend(module: Module, case: list[Tensor], parts: int, skip_below: float | None = None) -> tuple[Tensor, Tensor]:
    """As attention.slot_attention launches them: bias, attention in parts, merge. Returns the result and the count."""
    query, key, value, shift = case
    (tokens, _), (slots, slot_tokens, _) = query.shape, key.shape
    biases, lse = torch.full((slots, tokens), math.nan), torch.full((parts, tokens), math.nan)
    partial, out = torch.full((parts, tokens, DIM), math.nan).bfloat16(), torch.full((tokens, DIM), math.nan).bfloat16()
    counter = torch.zeros(1, dtype=torch.int64)
    rows = -(-tokens // ROW_TILE)
    module.launch("bias", (rows, slots), query, shift, biases, tokens, query.stride(0), shift.stride(0), SCALE_LOG2)
    sizes = (tokens, slots * slot_tokens, slot_tokens, slots, -(-slots // parts))
    strides = (query.stride(0), *key.stride()[:2], *value.stride()[:2])
    module.launch(
        "attention" if skip_below is None else "attention_skip", (-(-tokens // TILE_Q), parts),
        query, key, value, biases, partial, lse, counter, *sizes, *strides, SCALE_LOG2, skip_below or 0.0,
    )  # fmt: skip
    module.launch("merge", (rows, 1), partial, lse, out, tokens, parts)
    return out, counter


@pytest.mark.parametrize(
    ("queries", "slots", "tokens", "parts"),
    [
        pytest.param(1, 1, 1, 1, id="one-of-each"),
        pytest.param(130, 2, 65, 2, id="one-beyond-the-tiles"),
        pytest.param(40, 3, 130, 2, id="odd-slots"),
    ],
)
def test_slot_attention(module: Module, queries: int, slots: int, tokens: int, parts: int) -> None:
    case = [draw(queries, DIM), draw(slots, tokens, DIM, seed=1), draw(slots, tokens, DIM, seed=2)]
    case.append(draw(slots, DIM, seed=3))
    out, _ = attend(module, case, parts)
    exact = reference.slot_attention(*(tensor.double() for tensor in case))
    # the parts' results are rounded to bfloat16 here, where the launcher keeps them in float32
    assert_as_exact_as(out, reference.slot_attention(*case), exact)


@pytest.mark.parametrize("scale", [1.0, 2.0**30], ids=["", "extreme-scores"])
def test_self_attention(module: Module, scale: float) -> None:
    query, key, value = draw(70, DIM) * scale, draw(130, DIM, seed=1), draw(130, DIM, seed=2)
    out, nothing = torch.full((70, DIM), math.nan).bfloat16(), torch.zeros(1, dtype=torch.int64)
    sizes, strides = (70, 130, 130, 1, 1), (DIM, 130 * DIM, DIM, 130 * DIM, DIM)
    tensors = (query, key, value, nothing, out, nothing, nothing)
    module.launch("self_attention", (1, 1), *tensors, *sizes, *strides, SCALE_LOG2, 0.0)
    exact = reference.self_attention(query.double(), key.double(), value.double())
    assert_as_exact_as(out, reference.self_attention(query, key, value), exact)


def test_extreme_scores_and_a_slot_switched_off(module: Module) -> None:
    query, key, value, shift = (
        draw(9, DIM).abs() * 2.0**30, draw(2, 70, DIM, seed=1), draw(2, 70, DIM, seed=2), draw(2, DIM, seed=3)
    )  # fmt: skip
    shift[0] = -math.inf
    alone = [query, key[1:], value[1:], shift[1:]]
    out, _ = attend(module, [query, key, value, shift], parts=2)
    exact = reference.slot_attention(*(tensor.double() for tensor in alone))
    assert_as_exact_as(out, reference.slot_attention(*alone), exact)


def test_skipping_counts_with_rows_beyond_the_queries(module: Module) -> None:
    query, key, value, shift = draw(5, DIM).abs(), draw(2, 130, DIM, seed=1), draw(2, 130, DIM, seed=2), None
    shift = torch.zeros(2, DIM).bfloat16()
    shift[0] = 8.0  # q·shift / 8 ≈ 50
    _, counter = attend(module, [query, key, value, shift], parts=1, skip_below=24 + math.log2(TILE_K))
    assert counter.item() == 3
