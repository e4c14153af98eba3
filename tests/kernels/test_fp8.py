"""fp8 quantisation, and the kernel's arithmetic imitated in torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from x2sam_rt.kernels import reference
from x2sam_rt.kernels.fp8 import QuantisedSlots, quantise_query, quantise_slots, self_segments, value_order


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def stored_values(slots: QuantisedSlots, tokens: int) -> Tensor:
    """(slots, tokens, dim) float64, brought back to the order of the keys."""
    padded = slots.value.shape[2]
    ordered = torch.zeros(slots.value.shape, dtype=torch.float64)
    ordered[:, :, value_order(padded)] = slots.value.double()
    assert not ordered[:, :, tokens:].any()
    return (ordered * slots.value_scale.double()[:, :, None]).transpose(1, 2)[:, :tokens]


def imitate(query: Tensor, slots: QuantisedSlots, shift: Tensor) -> Tensor:
    """What the kernel computes, apart from the tensor core's short sums: probabilities in e4m3 too."""
    codes, scale = quantise_query(query)
    tokens, dim = slots.key.shape[1:]
    factor = scale.double()[:, None] * slots.key_scale.double()[:, None, None] / math.sqrt(dim)
    scores = torch.einsum("td,skd->stk", codes.double(), slots.key.double()) * factor
    bias = torch.einsum("td,sd->st", query.double(), shift.double() + slots.key_mean.double()) / math.sqrt(dim)
    exact = (scores - scores.amax(-1, keepdim=True)).exp()
    rounded = (exact * 256).float().to(torch.float8_e4m3fn).double() / 256
    partial = rounded @ stored_values(slots, tokens) / exact.sum(-1, keepdim=True)
    weight = (scores.logsumexp(-1) + bias).softmax(0)
    return torch.einsum("st,std->td", weight, partial)


@pytest.mark.parametrize("tokens", [1, 37, 64])
def test_keys_and_values_survive_within_half_a_step(tokens: int) -> None:
    key, value = draw(2, tokens, 128), draw(2, tokens, 128, seed=1)
    slots = quantise_slots(key, value)
    keys = slots.key.double() * slots.key_scale.double()[:, None, None] + slots.key_mean.double()[:, None]
    centred = key.double() - slots.key_mean.double()[:, None]
    # three stored bits of mantissa: half a step is 2^-4 of the number; under 2^-6, a fixed 2^-10 of the scale
    assert ((keys - key).abs() <= centred.abs() * 2**-4 + slots.key_scale[:, None, None] * 2**-10).all()
    error = (stored_values(slots, tokens) - value).abs()
    assert (error <= value.abs().double() * 2**-4 + slots.value_scale[:, None] * 2**-10 + 1e-7).all()


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
    keys = slots.key.double() * slots.key_scale.double()[:, None, None] + slots.key_mean.double()[:, None]
    inputs_only = reference.slot_attention(
        codes.double() * scale.double()[:, None], keys, stored_values(slots, tokens), shift.double()
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
