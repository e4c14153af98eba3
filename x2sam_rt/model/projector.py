"""The two-layer projectors between the language model and the segmentor."""

from __future__ import annotations

from torch import Tensor, nn


class Projector(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(dim_in, dim_out), nn.GELU(), nn.Linear(dim_out, dim_out))

    def forward(self, states: Tensor) -> Tensor:
        out: Tensor = self.model(states)
        return out
