"""fp8 quantisation, and the kernel's arithmetic imitated in torch."""

from __future__ import annotations

import math

import pytest
import torch
from checks import dequantised
from torch import Tensor

from x2sam_rt.kernels import reference
from x2sam_rt.kernels.fp8 import BLOCK, QuantisedSlots, quantise_query, quantise_slots, self_segments


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def imitate(query: Tensor, slots: QuantisedSlots, shift: Tensor) -> Tensor:
    """What the kernel computes, apart from the tensor core's short sums: probabilities in e4m3 too."""
    codes, scale = quantise_query(query)
    tokens, dim = slots.key.shape[1:]
    keys, values = dequantised(slots)
    raised = slots.block_scales[..., 1].double().repeat_interleave(BLOCK, 1)[:, None, :tokens]
    queries = codes.double() * scale.double()[:, None] / math.sqrt(dim)
    scores = torch.einsum("td,skd->stk", queries, keys - slots.key_mean.double()[:, None])
    bias = torch.einsum("td,sd->st", query.double(), shift.double() + slots.key_mean.double()) / math.sqrt(dim)
    exact = (scores - scores.amax(-1, keepdim=True)).exp()
    lowered = 2 ** (8 - raised)
    rounded = (exact * lowered).float().to(torch.float8_e4m3fn).double() / lowered
    partial = rounded @ values / exact.sum(-1, keepdim=True)
    weight = (scores.logsumexp(-1) + bias).softmax(0)
    return torch.einsum("st,std->td", weight, partial)


@pytest.mark.parametrize("tokens", [1, 37, 128, 300])
def test_keys_and_values_survive_within_half_a_step_of_their_block(tokens: int) -> None:
    """Neighbouring blocks differ by 18 octaves, more than e4m3 has: under one scale the small ones would be zero."""
    size = 2.0 ** (-18.0 * (torch.arange(tokens) // BLOCK % 2))
    key, value = (draw(2, tokens, 128, seed=seed) * size[:, None] for seed in range(2))
    key -= key.mean(1, keepdim=True)  # with a mean, what is left of small keys is not small
    slots = quantise_slots(key, value)
    keys, values = dequantised(slots)
    scale, raised = slots.block_scales.double().repeat_interleave(BLOCK, 1)[:, :tokens, :, None].unbind(2)
    centred = key.double() - slots.key_mean.double()[:, None]
    # three stored bits of mantissa: half a step is 2^-4 of the number; under 2^-6, a fixed 2^-10 of the scale
    assert ((keys - key).abs() <= centred.abs() * 2**-4 + scale * 2**-10).all()
    step = slots.value_scale.double()[:, None] * (-raised).exp2()
    assert ((values - value).abs() <= value.abs().double() * 2**-4 + step * 2**-10 + 1e-7 * step).all()
    assert tokens <= BLOCK or (keys[:, BLOCK : 2 * BLOCK] != 0).double().mean() > 0.9


def test_scales_are_powers_of_two_that_fit() -> None:
    slots = quantise_slots(draw(2, 200, 128), draw(2, 200, 128, seed=1))
    codes, scale = quantise_query(draw(9, 128))
    for powers in (scale, slots.block_scales[..., 0]):
        assert (torch.frexp(powers.float()).mantissa == 0.5).all()
    for stored in (codes, slots.key, slots.value):
        assert 224 <= stored.float().abs().max() <= 448
    assert slots.block_scales.shape == (2, 2, 2)


@pytest.mark.parametrize(
    ("queries", "count", "tokens"),
    [
        pytest.param(1, 1, 1, id="one-of-each"),
        pytest.param(33, 3, 70, id="odd"),
        pytest.param(16, 1, 256, id="one-slot"),
    ],
)
def test_arithmetic_adds_little_to_the_quantisation(queries: int, count: int, tokens: int) -> None:
    query, key, value, shift = (
        draw(queries, 128), draw(count, tokens, 128, seed=1), draw(count, tokens, 128, seed=2), draw(count, 128, seed=3)
    )  # fmt: skip
    exact = reference.slot_attention(query.double(), key.double(), value.double(), shift.double())
    slots = quantise_slots(key, value)
    codes, scale = quantise_query(query)
    inputs_only = reference.slot_attention(
        codes.double() * scale.double()[:, None], *dequantised(slots), shift.double()
    )
    rounding = 2**-4 * exact.abs().max()  # of one probability
    error, unavoidable = (imitate(query, slots, shift) - exact).abs().max(), (inputs_only - exact).abs().max()
    assert error <= 2 * unavoidable + rounding


def test_what_all_keys_share_costs_no_precision() -> None:
    query, key, value, shift = draw(20, 128), draw(2, 90, 128, seed=1), draw(2, 90, 128, seed=2), torch.zeros(2, 128)
    offset = 50 * draw(2, 1, 128, seed=4).sign()
    plain = imitate(query, quantise_slots(key, value), shift)
    moved = imitate(query, quantise_slots(key + offset, value), shift)
    moved_back = imitate(query, quantise_slots(key + offset, value), shift - offset[:, 0])
    torch.testing.assert_close(moved_back, plain, atol=2e-2, rtol=0)
    assert (moved - plain).abs().max() > 2e-2  # the offset differs between the slots, so it does weigh


def test_zeros_stay_finite() -> None:
    slots = quantise_slots(torch.zeros(1, 5, 128), torch.zeros(1, 5, 128))
    assert torch.equal(imitate(torch.zeros(3, 128), slots, torch.zeros(1, 128)), torch.zeros(3, 128).double())


@pytest.mark.parametrize(("tokens", "segments"), [(4096, 4), (16384, 4), (65536, 16), (7, 1), (4098, 1)])
def test_segments_of_self_attention_are_equal(tokens: int, segments: int) -> None:
    assert self_segments(tokens) == segments
