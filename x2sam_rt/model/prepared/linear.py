"""Linear layers as a CPU runs them fastest: the weight laid out once for oneDNN, the activation inside the product."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Literal["none", "relu", "gelu"]
_ROWS = 512  # oneDNN lays a weight out for about this many


class PackedLinear(nn.Module):
    """activation(rows · weightᵀ + bias), with products of the given dtype and sums in float32."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, activation: Activation = "none"
    ) -> None:
        """weight: (out, in); bias: (out,); any float dtype."""
        super().__init__()
        self._dtype, self._activation = dtype, activation
        self._bias = None if bias is None else bias.to(dtype)
        self._packed = _has_onednn(dtype)
        self._weight = _pack(weight.to(dtype)) if self._packed else weight.to(dtype)

    @classmethod
    def of(cls, plain: nn.Linear, dtype: torch.dtype, activation: Activation = "none") -> PackedLinear:
        return cls(plain.weight, plain.bias, dtype, activation)

    @classmethod
    def pointwise(cls, plain: nn.Conv2d, dtype: torch.dtype) -> PackedLinear:
        """A 1×1 convolution, for channels-last maps."""
        return cls(plain.weight.flatten(1), plain.bias, dtype)

    def forward(self, rows: Tensor) -> Tensor:
        """rows: (…, in), any float dtype. Returns (…, out) in the products' dtype."""
        rows = rows.to(self._dtype)
        if not self._packed:
            return _activate(F.linear(rows, self._weight, self._bias), self._activation)
        kind = "none" if self._activation == "gelu" else ""  # which approximation of it
        out: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._weight, self._bias, self._activation, [], kind)
        return out


def _has_onednn(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes this dtype here; where not, PyTorch's own products are used."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pack(weight: Tensor) -> Tensor:
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)
    return packed


def _activate(rows: Tensor, activation: Activation) -> Tensor:
    if activation == "relu":
        return F.relu(rows)
    return F.gelu(rows) if activation == "gelu" else rows
