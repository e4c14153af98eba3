"""The precision a model computes in."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from x2sam_rt.errors import EngineError

M = TypeVar("M", bound=nn.Module)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def dtype_of(precision: str) -> torch.dtype:
    """Raises EngineError for a precision that PyTorch does not compute the model in."""
    if precision not in DTYPES:
        raise EngineError(f"Precision {precision!r} is not available; wanted one of {', '.join(DTYPES)}.")
    return DTYPES[precision]


def cast_weights(model: M, dtype: torch.dtype) -> M:
    """Casts the weights in place. Constant tables (positions, rotary angles) stay fp32: they name places."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def fp32_copy(module: M) -> M:
    """A copy with fp32 weights, rounded as those of `module` are."""
    return cast_weights(copy.deepcopy(module), torch.float32)
