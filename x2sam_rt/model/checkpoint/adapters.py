"""Low-rank adapters of a training checkpoint, merged into the base weights once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

_DOWN, _UP = ".lora_A.default.weight", ".lora_B.default.weight"


@dataclass(frozen=True, eq=False)
class Adapter:
    """weight + scale · up @ down. down: (rank, in); up: (out, rank)."""

    down: Tensor
    up: Tensor

    def merge(self, weight: Tensor, scale: float) -> Tensor:
        """In fp32: merging in bf16 moves the language states by whole units."""
        merged: Tensor = torch.addmm(weight.float(), self.up.float(), self.down.float(), alpha=scale)
        return merged


def adapter_names(module: str) -> tuple[str, str]:
    """Names of a module's adapter tensors: down, up."""
    return module + _DOWN, module + _UP


def adapter_rank(tensors: Mapping[str, Tensor]) -> int | None:
    """Rank of the adapters in a checkpoint, or None when it has none."""
    return next((value.shape[0] for name, value in tensors.items() if name.endswith(_DOWN) and value.ndim == 2), None)
