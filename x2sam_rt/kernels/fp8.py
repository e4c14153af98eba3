"""Quantisation to e4m3 for the opt-in fp8 memory attention; a slot's keys and values are quantised once and kept.

Status: the numbers are checked on the CPU, and in the tests' emulator with the kernel; not yet run on a GPU.

Keys are smoothed first: what all keys of a slot have in common carries no information between them, but would take
most of e4m3's range. q·(k − mean) + q·mean = q·k, and q·mean joins the slot's bias, which is computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

E4M3_MAX = 448.0
KEY_STEP = 32  # keys of one fp8 matrix instruction
SEGMENT_TOKENS = 4096  # most keys summed in the tensor core's short accumulator
LEAST_SEGMENTS = 4  # so that few queries still fill the chip
LEAST_SCALE = 1e-12  # an all-zero row keeps a scale above zero


@dataclass(frozen=True, eq=False)
class QuantisedSlots:
    """Keys and values of some slots, as `cuda.slot_attention_fp8` takes them.

    key: (slots, tokens, dim) e4m3. key_scale: (slots,) float32. key_mean: (slots, dim) float32, taken off before.
    value: (slots, dim, tokens padded to 32) e4m3, keys in the order of `value_order`. value_scale: (slots, dim)
    float32. k ≈ key · key_scale + key_mean; v ≈ value · value_scale.
    """

    key: Tensor
    key_scale: Tensor
    key_mean: Tensor
    value: Tensor
    value_scale: Tensor


def quantise_query(query: Tensor) -> tuple[Tensor, Tensor]:
    """query: (tokens, dim). Returns it in e4m3 and its scale per token, (tokens,) float32."""
    scale = _scale(query.float().abs().amax(-1))
    return _to_e4m3(query.float() / scale[:, None]), scale


def quantise_slots(key: Tensor, value: Tensor) -> QuantisedSlots:
    """key, value: (slots, tokens, dim), any float type. One key scale per slot, one value scale per channel."""
    mean = key.float().mean(1)
    smooth = key.float() - mean[:, None]
    key_scale = _scale(smooth.abs().amax((1, 2)))
    value_scale = _scale(value.float().abs().amax(1))
    return QuantisedSlots(
        key=_to_e4m3(smooth / key_scale[:, None, None]),
        key_scale=key_scale,
        key_mean=mean,
        value=_transpose_values(_to_e4m3(value.float() / value_scale[:, None])),
        value_scale=value_scale,
    )


def value_order(tokens: int) -> Tensor:
    """(tokens,) int64, tokens a multiple of 16: the key that stands at each place of the stored values.

    The tensor core leaves a thread scores 2i and 2i+1 of two groups of eight, and takes four neighbouring
    probabilities of it. Storing values in this order makes those the same keys, without moving anything.
    """
    # place = 4·thread + 2·group + odd, key = 8·group + 2·thread + odd, in blocks of 16
    keys = torch.arange(tokens).view(-1, 2, 4, 2)
    return keys.transpose(1, 2).reshape(-1)


def self_segments(tokens: int) -> int:
    """Into how many equal segments self-attention over `tokens` keys is cut; each gets scales of its own."""
    count = max(LEAST_SEGMENTS, tokens // SEGMENT_TOKENS)
    return count if tokens % count == 0 else 1


def _scale(largest: Tensor) -> Tensor:
    return (largest / E4M3_MAX).clamp_min(LEAST_SCALE)


def _to_e4m3(tensor: Tensor) -> Tensor:
    return tensor.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def _transpose_values(value: Tensor) -> Tensor:
    slots, tokens, dim = value.shape
    padded = -(-tokens // KEY_STEP) * KEY_STEP
    # as bytes: not every operation knows the 8-bit float
    stored = torch.zeros(slots, padded, dim, dtype=torch.uint8, device=value.device)
    stored[:, :tokens] = value.view(torch.uint8)
    order = value_order(padded).to(value.device)
    return stored[:, order].transpose(1, 2).contiguous().view(torch.float8_e4m3fn)
