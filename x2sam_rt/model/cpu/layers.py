"""Layers as a CPU runs them fastest: weights laid out once for oneDNN, rows taken in chunks that stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_rt.model.precision import fp32_copy

_CHUNK_ROWS = 256  # per thread: of the widest hidden layer, as many fit into a second-level cache


def chunk_rows() -> int:
    return _CHUNK_ROWS * torch.get_num_threads()


def row_chunks(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    """Views of tensors that agree in their rows (N, …), chunk by chunk."""
    return zip(*(torch.split(tensor, chunk_rows()) for tensor in tensors), strict=True)


Activation = Literal["none", "relu", "gelu"]
_LAYOUT_ROWS = 512  # oneDNN lays a weight out for about this many


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
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _LAYOUT_ROWS)
    return packed


def _activate(rows: Tensor, activation: Activation) -> Tensor:
    if activation == "relu":
        return F.relu(rows)
    return F.gelu(rows) if activation == "gelu" else rows


def channels_last(plain: nn.Conv2d) -> nn.Conv2d:
    """A copy, in float32, that need not lay its weight out anew at every call."""
    copy = fp32_copy(plain)
    copy.weight.data = copy.weight.data.contiguous(memory_format=torch.channels_last)
    return copy


class Convolution3x3(nn.Module):
    """A 3×3 convolution with padding 1 as a product. Every place's neighbourhood is a row of it."""

    def __init__(self, plain: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype, self._stride = dtype, int(plain.stride[0])
        self._product = PackedLinear(plain.weight.permute(0, 2, 3, 1).flatten(1), plain.bias, dtype)

    def forward(self, maps: Tensor) -> Tensor:
        """maps: (H, W, C). Returns (H / stride, W / stride, channels out), halves rounded up."""
        padded = F.pad(maps.to(self._dtype), (0, 0, 1, 1, 1, 1))
        places = padded.unfold(0, 3, self._stride).unfold(1, 3, self._stride).permute(0, 1, 3, 4, 2)
        height, width = places.shape[:2]
        # Neighbourhoods take nine times the memory of the map, so that only a chunk of them exists at a time.
        lines = max(1, chunk_rows() // width)
        parts = [self._product(chunk.reshape(-1, 9 * maps.shape[-1])) for chunk in torch.split(places, lines)]
        return torch.cat(parts).view(height, width, -1)


class FeedForward(nn.Module):
    def __init__(self, first: nn.Linear, second: nn.Linear, activation: Activation, dtype: torch.dtype) -> None:
        super().__init__()
        self.first, self.second = PackedLinear.of(first, dtype, activation), PackedLinear.of(second, dtype)

    def forward(self, rows: Tensor) -> Tensor:
        """rows: (…, in), any float dtype. Returns (…, out) in the products' dtype. Give it a chunk at a time."""
        out: Tensor = self.second(self.first(rows))
        return out


M = TypeVar("M", bound=nn.Module)


def typed_children(listed: nn.Module, kind: type[M]) -> Iterator[M]:
    """The modules of an nn.ModuleList or nn.Sequential, which are all of one kind."""
    for module in listed.children():
        assert isinstance(module, kind)
        yield module
