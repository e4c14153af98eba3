"""Position encodings: sine maps, axial rotary tables and the temporal code of the memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_TEMPERATURE = 10000.0


def sine_position(side: int, dim: int) -> Tensor:
    """Normalised 2-D sine embedding (DETR) of a square grid. Returns (dim, side, side) fp32, rows first."""
    steps = torch.arange(1, side + 1, dtype=torch.float32) / (side + 1e-6) * (2 * math.pi)
    channel = torch.arange(dim // 2, dtype=torch.float32)
    angles = steps[:, None] / _TEMPERATURE ** (2 * (channel // 2) / (dim // 2))
    axis = torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), dim=2).flatten(1).T  # (dim/2, side)
    rows, columns = axis[:, :, None].expand(-1, -1, side), axis[:, None, :].expand(-1, side, -1)
    return torch.cat((rows, columns))


def rotary_table(side: int, dim: int) -> Tensor:
    """Cosines and sines of the 2-D axial rotary embedding for one axis; both axes use the same table.

    Returns (2, side, dim/4) fp32: position p turns pair j by p · 10000^(−4j/dim).
    """
    frequency = _TEMPERATURE ** (-torch.arange(0, dim, 4, dtype=torch.float32) / dim)
    angles = torch.arange(side, dtype=torch.float32)[:, None] * frequency
    return torch.stack((angles.cos(), angles.sin()))


def rotate(tokens: Tensor, table: Tensor) -> Tensor:
    """Rotates tokens of a square grid: the first half of the channels by column, the second by row.

    tokens: (side², dim), row-major. table: (2, side, dim/4) from `rotary_table`. Real-valued, so that it exports.
    Computed in the table's precision, returned in the tokens'.
    """
    side, dim = table.shape[1], tokens.shape[-1]
    by_column, by_row = tokens.to(table.dtype).view(side, side, 2, dim // 4, 2).unbind(2)
    columns = _rotate_pairs(by_column, table[:, None, :])
    rows = _rotate_pairs(by_row, table[:, :, None])
    return torch.stack((columns, rows), dim=2).view(side * side, dim).to(tokens.dtype)


def _rotate_pairs(pairs: Tensor, table: Tensor) -> Tensor:
    (cos, sin), (even, odd) = table.unbind(0), pairs.unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)


def temporal_encoding(frame_offsets: Tensor, dim: int) -> Tensor:
    """Sinusoid of the frame gap between now and each memory slot.

    frame_offsets: (slots,) frames, 1 for the previous frame. Returns (slots, dim) fp32: [sin | cos], not interleaved.
    """
    steps = torch.arange(dim // 2, dtype=torch.float32, device=frame_offsets.device)
    angles = frame_offsets.to(torch.float32)[:, None] * torch.exp(steps * (-math.log(_TEMPERATURE) / (dim // 2)))
    return torch.cat((angles.sin(), angles.cos()), dim=-1)
