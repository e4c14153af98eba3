"""The rule all kernel tests assert."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from x2sam_rt.kernels import available

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
