"""Two linear layers with an activation between them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from x2sam_rt.model.prepared.linear import Activation, PackedLinear


class FeedForward(nn.Module):
    def __init__(self, first: nn.Linear, second: nn.Linear, activation: Activation, dtype: torch.dtype) -> None:
        super().__init__()
        self.first, self.second = PackedLinear.of(first, dtype, activation), PackedLinear.of(second, dtype)

    def forward(self, rows: Tensor) -> Tensor:
        """rows: (…, in), any float dtype. Returns (…, out) in the products' dtype. Give it a band of rows at a time."""
        out: Tensor = self.second(self.first(rows))
        return out
