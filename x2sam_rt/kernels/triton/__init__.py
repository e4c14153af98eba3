"""Portable GPU kernels. Importing this package imports no Triton: a module of it is loaded when it is first used."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from x2sam_rt.kernels.availability import gpu, has_triton
from x2sam_rt.kernels.dispatch import Backend

P = ParamSpec("P")
R = TypeVar("R")

LEAST_CAPABILITY = (8, 0)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def triton_backend(module: str, function: str, reason: Callable[..., str | None] | None = None) -> Backend[...]:
    """The function of x2sam_rt.kernels.triton.`module`. reason: its own grounds for refusing, after those of all."""

    def run(*args: Any) -> Tensor:
        result: Tensor = _function(module, function)(*args)
        return result

    def unsupported_reason(*args: Any) -> str | None:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        return _common_reason(*tensors) or (None if reason is None else reason(*args))

    return Backend("triton", run, unsupported_reason)


def on_its_device(function: Callable[P, R]) -> Callable[P, R]:
    """Makes the first tensor's GPU the current one meanwhile: Triton launches on the current one, whatever it gets."""

    @wraps(function)
    def on_device(*args: P.args, **kwargs: P.kwargs) -> R:
        first = args[0]
        assert isinstance(first, Tensor)
        if not first.is_cuda:  # the interpreter
            return function(*args, **kwargs)
        with torch.cuda.device(first.device):
            return function(*args, **kwargs)

    return on_device


def _function(module: str, function: str) -> Callable[..., Tensor]:
    found: Callable[..., Tensor] = getattr(import_module(f"{__name__}.{module}"), function)
    return found


def _common_reason(*tensors: Tensor) -> str | None:
    for tensor in tensors:
        if not tensor.is_cuda or tensor.dtype not in DTYPES:
            return f"it takes float32, float16 or bfloat16 on a CUDA device, got {tensor.dtype} on {tensor.device}"
    if not has_triton():
        return "Triton is not installed; pip install 'x2sam-rt[gpu]'"
    found = gpu(tensors[0].device)
    if found.capability < LEAST_CAPABILITY:
        return f"it needs capability 8.0 or newer, found {found}"
    return None
