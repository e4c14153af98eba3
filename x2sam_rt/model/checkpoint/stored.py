"""Weights as files hold them: mapped from disk in their own type, read one at a time."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from x2sam_rt.model.checkpoint.adapters import Adapter


@dataclass(frozen=True, eq=False)
class StoredWeight:
    """A weight that costs no memory until it is read. stored: mapped. adapter: not merged yet; None = there is none.
    scale: of the adapter."""

    stored: Tensor
    adapter: Adapter | None = None
    scale: float = 1.0

    def read(self, dtype: torch.dtype) -> Tensor:
        """The weight, its adapter merged in fp32 and rounded once. Mapped still when nothing is to be computed."""
        value = self.stored if self.adapter is None else self.adapter.merge(self.stored, self.scale)
        return value.to(dtype)


StoredWeights = Mapping[str, StoredWeight]


def fill(model: nn.Module, weights: StoredWeights, names: Iterable[str], dtype: torch.dtype) -> None:
    """Puts weights by name into a model that has none. What is one weight under two names is read once."""
    read: dict[int, Tensor] = {}
    for name in names:
        weight = weights[name]
        if id(weight) not in read:
            read[id(weight)] = weight.read(dtype)
    values = {name: read[id(weights[name])] for name in names}
    model.load_state_dict(values, strict=False, assign=True)
    model.requires_grad_(False)


def empty(model: nn.Module) -> None:
    """Gives the memory of a model's weights back to the system now. Exporters keep the parameters of finished graphs,
    and the allocator what lies between others."""
    for parameter in model.parameters():
        if not parameter.is_meta:
            parameter.data = parameter.data.new_empty(0)
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # the GNU library has it
    if trim is not None:
        trim(0)
