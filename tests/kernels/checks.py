"""The rule all kernel tests assert, and tensors to assert it on."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from x2sam_rt.kernels import available, fp8

needs_library = pytest.mark.skipif(available().cpu is None, reason="the CPU kernels were not built")


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def assert_as_exact_as(kernel: Tensor, plain: Tensor, exact: Tensor) -> None:
    """error(kernel) ≤ 2 · error(plain torch at the same precision) + the rounding of one result."""
    assert kernel.shape == plain.shape
    assert kernel.dtype == plain.dtype
    assert kernel.is_contiguous()
    error = (kernel.double() - exact).abs().max()
    plain_error = (plain.double() - exact).abs().max()
    limits = torch.finfo(kernel.dtype)
    rounding = limits.eps * exact.abs().max() + limits.tiny
    assert error <= 2 * plain_error + rounding, f"{error:.3g} against torch's {plain_error:.3g}"


def dequantised(slots: fp8.QuantisedSlots) -> tuple[Tensor, Tensor]:
    """Keys and values that the quantised ones stand for, (slots, tokens, dim) float64, in the order of the keys."""
    tokens, device = slots.key.shape[1], slots.key.device
    scale, raised = slots.block_scales.double().repeat_interleave(fp8.BLOCK, 1)[:, :tokens, :, None].unbind(2)
    values = torch.empty(slots.value.shape, dtype=torch.float64, device=device)
    values[:, :, fp8.value_order(values.shape[2]).to(device)] = slots.value.double() * slots.value_scale[:, :, None]
    assert not values[:, :, tokens:].any()
    keys = slots.key.double() * scale + slots.key_mean.double()[:, None]
    return keys, values.transpose(1, 2)[:, :tokens] * (-raised).exp2()


def self_case(queries: int, keys: int, dim: int) -> list[Tensor]:
    """Query, key and value in bfloat16."""
    return [random(rows, dim, seed=seed).bfloat16() for seed, rows in enumerate((queries, keys, keys))]


def slot_case(queries: int, slots: int, tokens: int, dim: int) -> list[Tensor]:
    """Query, key, value and key shift in bfloat16. Live slots are a prefix of a ring of 8, with NaN all around them."""
    rings = [torch.full((8, 2, tokens, dim), math.nan, dtype=torch.bfloat16) for _ in range(2)]
    for seed, ring in enumerate(rings, start=1):
        ring[:slots, 1] = random(slots, tokens, dim, seed=seed).bfloat16()
    query, shift = random(queries, dim).bfloat16(), random(slots, dim, seed=3).bfloat16()
    return [query, *(ring[:slots, 1] for ring in rings), shift]
