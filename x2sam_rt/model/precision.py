"""The precision a model computes in."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)

Precision = Literal["fp32", "bf16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


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
