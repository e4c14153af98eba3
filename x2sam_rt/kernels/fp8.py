"""Quantisation to e4m3 for the opt-in fp8 memory attention; a slot's keys and values are quantised once and kept.

Status: the numbers are checked on the CPU, and in the tests' emulator with the kernel; not yet run on a GPU.

Keys are smoothed first: what all keys of a slot have in common carries no information between them, but would take
most of e4m3's range. q·(k − mean) + q·mean = q·k, and q·mean joins the slot's bias, which is computed in float32.

Every block of 128 keys has scales of its own, powers of two. e4m3 is a float: within its 15 octaves a scale changes no
rounding, so on features of one magnitude these blocks are as exact as one scale for all. They matter where magnitudes
differ by more: what one huge token takes from the small numbers of its slot, it now takes from its block only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

E4M3_MAX = 448.0
KEY_STEP = 32  # keys of one fp8 matrix instruction
BLOCK = 128  # keys that the kernel takes at a time, and that share a scale
# Octaves that a block's values are raised by at most. The kernel takes them off its probabilities, which are stored up
# to 2^8 and keep full precision down to 2^-6: six less leave them eight octaves.
MOST_RAISED = 6
SEGMENT_TOKENS = 4096  # most keys summed in the tensor core's short accumulator
LEAST_SEGMENTS = 4  # so that few queries still fill the chip
LEAST_SCALE = 1e-12  # an all-zero row keeps a scale above zero


@dataclass(frozen=True, eq=False)
class QuantisedSlots:
    """Keys and values of some slots, as `cuda.slot_attention_fp8` takes them.

    key: (slots, tokens, dim) e4m3. key_mean: (slots, dim) float32, taken off before. value: (slots, dim, tokens padded
    to 32) e4m3, keys in the order of `value_order`. value_scale: (slots, dim) float32. block_scales: (slots, blocks of
    128 keys, 2) bfloat16: the keys' scale, a power of two, and `raised`, a whole number.
    k ≈ key · scale + key_mean; v ≈ value · value_scale · 2^-raised.
    """

    key: Tensor
    block_scales: Tensor
    key_mean: Tensor
    value: Tensor
    value_scale: Tensor


def quantise_query(query: Tensor) -> tuple[Tensor, Tensor]:
    """query: (tokens, dim). Returns it in e4m3 and its scale per token, (tokens,) bfloat16: powers of two."""
    scale = _power_of_two(_scale(query.float().abs().amax(-1)))
    return _to_e4m3(query.float() / scale[:, None]), scale.bfloat16()


def quantise_slots(key: Tensor, value: Tensor) -> QuantisedSlots:
    """key, value: (slots, tokens, dim), any float type."""
    mean = key.float().mean(1)
    smooth = key.float() - mean[:, None]
    key_scale = _power_of_two(_scale(_block_peaks(smooth)))
    value_scale = _scale(value.float().abs().amax(1))
    even = value.float() / value_scale[:, None]
    raised = -torch.frexp(_block_peaks(even) / E4M3_MAX).exponent.clamp(-MOST_RAISED, 0)
    return QuantisedSlots(
        key=_to_e4m3(smooth / _per_key(key_scale, smooth)),
        block_scales=torch.stack([key_scale, raised], -1).bfloat16(),
        key_mean=mean,
        value=_transpose_values(_to_e4m3(even * _per_key(raised.exp2(), even))),
        value_scale=value_scale,
    )


def _block_peaks(rows: Tensor) -> Tensor:
    """rows: (slots, tokens, dim). The largest number of each block, (slots, blocks)."""
    peaks = F.pad(rows.abs().amax(2), (0, -rows.shape[1] % BLOCK))
    return peaks.view(len(rows), -1, BLOCK).amax(2)


def _per_key(blocks: Tensor, rows: Tensor) -> Tensor:
    """blocks: (slots, blocks). What each of `rows` belongs to, (slots, tokens, 1)."""
    return blocks.repeat_interleave(BLOCK, 1)[:, : rows.shape[1], None]


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


def _power_of_two(scale: Tensor) -> Tensor:
    """The next one above."""
    return torch.frexp(scale).exponent.exp2()


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
