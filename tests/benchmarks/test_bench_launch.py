"""What the host does for a frame's memory attention, counted at the door of the CUDA library."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from x2sam_rt.kernels import cuda, memory_attention
from x2sam_rt.kernels.dispatch import Backend, Operation, no_reason
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.memory_attention import MemoryAttention

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def stubbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import bench_launch

    bench_launch.install_stub(tmp_path, monkeypatch.setattr)
    for name, run in (
        ("SELF_ATTENTION_DISPATCH", cuda.self_attention),
        ("SLOT_ATTENTION_DISPATCH", cuda.slot_attention),
    ):
        operation = Operation(name, (Backend("cuda", run, no_reason),))  # tensors of the CPU stand for a GPU's
        monkeypatch.setattr(memory_attention, name, operation)
    forget = (cuda.load.cache_clear, cuda._key_block.cache_clear, cuda._query_tile.cache_clear)
    for one in forget:
        one()
    yield bench_launch
    for one in forget:
        one()


def calls(bench: ModuleType) -> Counter[str]:
    names = [declaration.split("(")[0].split()[-1].lstrip("*") for declaration in bench.ANSWERS]
    return Counter({name: ctypes.c_int.in_dll(cuda.load(), bench.counter(name)).value for name in names})


def test_a_frame_asks_the_library_for_its_attentions_and_nothing_else(stubbed: ModuleType, toy: Checkpoint) -> None:
    config = replace(toy.model.config, dim=64)
    attention = MemoryAttention(config).bfloat16().eval()
    features = tuple(torch.randn(1, 64, side, side).bfloat16() for side in config.grids)
    memory = torch.randn(2, len(features), config.slot_tokens, 64).bfloat16()
    offsets = torch.arange(1.0, 3.0)
    attentions = 2 * config.memory.attention_layers * len(features)
    with torch.no_grad():
        attention(features, memory, offsets)
        first = calls(stubbed)
        attention(features, memory, offsets)
    per_frame = calls(stubbed) - first
    # A workspace's size is the library's own arithmetic. What it asks of the driver is counted by the emulator's tests.
    assert per_frame == {"x2sam_attention_bf16": attentions, "x2sam_attention_workspace": attentions}
    assert (first["x2sam_key_block"], first["x2sam_query_tile"]) == (1, 1)
