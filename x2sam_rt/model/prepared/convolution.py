"""Convolutions of channels-last maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_rt.model.precision import widened
from x2sam_rt.model.prepared.bands import band_rows
from x2sam_rt.model.prepared.linear import PackedLinear


def channels_last(plain: nn.Conv2d) -> nn.Conv2d:
    """A copy, in float32, that need not lay its weight out anew at every call."""
    copy = widened(plain)
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
        # Neighbourhoods take nine times the memory of the map, so that only a band of them exists at a time.
        lines = max(1, band_rows() // width)
        parts = [self._product(band.reshape(-1, 9 * maps.shape[-1])) for band in torch.split(places, lines)]
        return torch.cat(parts).view(height, width, -1)
