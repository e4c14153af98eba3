"""The precision a model computes in."""

from __future__ import annotations

import copy
import math
import time
from typing import Literal, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)

# int8 is a way to compute, within stages whose weights and borders are fp32; see `export.int8`.
Precision = Literal["fp32", "bf16", "int8"]
_ROUNDS = 8
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.float32}


def dtype_of(precision: Precision) -> torch.dtype:
    """Of weights, and of the floating tensors that cross a stage's border."""
    return DTYPES[precision]


def cast_weights(model: M, dtype: torch.dtype) -> M:
    """Casts the weights in place. Constant tables (positions, rotary angles) stay fp32: they name places."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def fp32_copy(module: M) -> M:
    """A copy with fp32 weights, rounded as those of `module` are."""
    return cast_weights(copy.deepcopy(module), torch.float32)


def bf16_share() -> float:
    """Time of a matrix product in bf16 on this CPU as a share of the same in fp32, measured now in some tenths of a
    second. With AVX512-bf16 or AMX it is below 1; without them PyTorch takes several times as long as in fp32."""
    sides = [torch.ones(1024, 1024, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)]
    best = [math.inf, math.inf]
    for _ in range(_ROUNDS):  # in turns, and the best of each: what other programs take is not the processor's
        for index, side in enumerate(sides):
            started = time.perf_counter()
            side[:256] @ side
            best[index] = min(best[index], time.perf_counter() - started)
    return best[0] / best[1]
