"""Rows of a map, some at a time, so that what is computed from them meets its next use in the cache."""

from __future__ import annotations

import torch
from torch import Tensor

_ROWS = 256  # per thread: of the widest hidden layer, as many fit into a second-level cache


def band_rows() -> int:
    return _ROWS * torch.get_num_threads()


def bands(*tensors: Tensor) -> zip[tuple[Tensor, ...]]:
    """Views of tensors that agree in their rows (N, …), band by band."""
    return zip(*(torch.split(tensor, band_rows()) for tensor in tensors), strict=True)
