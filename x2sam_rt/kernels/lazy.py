"""Backends whose module is imported when they are first used."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from x2sam_rt.kernels.dispatch import Backend


def triton_backend(module: str, function: str, *, automatic: bool) -> Backend[...]:
    """The function of x2sam_rt.kernels.triton.`module`, for CUDA tensors."""

    def run(*args: Any) -> Tensor:
        result: Tensor = getattr(import_module(f"x2sam_rt.kernels.triton.{module}"), function)(*args)
        return result

    return Backend("triton", run, _triton_obstacle, automatic)


def _triton_obstacle(*args: object) -> str | None:
    devices = {arg.device.type for arg in args if isinstance(arg, Tensor)}
    if devices != {"cuda"}:
        return f"it takes CUDA tensors, got {', '.join(sorted(devices))}"
    if find_spec("triton") is None:
        return "Triton is not installed; pip install 'x2sam-rt[gpu]'"
    return None
