"""Registers the operations with torch, so that torch.compile and torch.export see each as one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "x2sam_rt"


def register(name: str, function: Callable[..., Any], fake: Callable[..., Any]) -> Callable[..., Any]:
    """Registers x2sam_rt::`name` with the schema of `function`'s annotations, for all devices; returns the operation.

    fake: gives an output of the right shape and dtype without computing.
    """
    qualified = f"{NAMESPACE}::{name}"
    # Not torch.library.custom_op: its Python layers cost as much as a small kernel.
    torch.library.define(qualified, torch.library.infer_schema(function, mutates_args=()))
    torch.library.impl(qualified, "default", function)
    torch.library.register_fake(qualified, fake)
    operation: Callable[..., Any] = getattr(getattr(torch.ops, NAMESPACE), name).default
    return operation
