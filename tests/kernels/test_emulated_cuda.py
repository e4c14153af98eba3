"""The CUDA kernels' PTX on the emulated GPU: results against fp64, hazards, faults that must be noticed."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable

import pytest
import torch
from checks import assert_as_exact_as, dequantised, self_case, slot_case
from emulator.library import EmulatedLibrary
from torch import Tensor

from x2sam_rt.errors import EngineError
from x2sam_rt.kernels import cuda, fp8, reference


def check(library: EmulatedLibrary, kernel: Callable[..., Tensor], plain: Callable[..., Tensor], tensors: list[Tensor],
          **options: object) -> None:  # fmt: skip
    out = kernel(*tensors, **options)
    library.raise_hazard()
    assert_as_exact_as(out, plain(*tensors), plain(*(tensor.double() for tensor in tensors)))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("queries", "keys", "dim", "parts"),
    [
        pytest.param(1, 1, 64, None, id="one-of-each"),
        pytest.param(1, 700, 256, None, id="one-query-many-parts"),
        pytest.param(66, 129, 128, 1, id="one-beyond-the-tiles"),
        pytest.param(129, 80, 256, 1, id="one-key-block"),
        pytest.param(64, 161, 256, 1, id="one-key-beyond-two-blocks"),
        pytest.param(130, 240, 256, 3, id="a-block-per-part"),
        pytest.param(7, 300, 64, 2, id="a-short-last-part"),
    ],
)
def test_self_attention(
    emulated: EmulatedLibrary, queries: int, keys: int, dim: int, parts: int | None, seed: int
) -> None:
    emulated.reset(seed, shared_base=(1024, 16)[seed % 2])
    check(emulated, cuda.self_attention, reference.self_attention, self_case(queries, keys, dim), parts=parts)


@pytest.mark.parametrize("parts", [None, 1])
@pytest.mark.parametrize(
    ("queries", "slots", "tokens", "dim"),
    [
        pytest.param(1, 1, 1, 256, id="one-of-each"),
        pytest.param(66, 5, 131, 128, id="odd-slots"),
        pytest.param(130, 3, 79, 256, id="slots-shorter-than-a-block"),
        pytest.param(33, 8, 64, 64, id="a-full-ring"),
    ],
)
def test_slot_attention(
    emulated: EmulatedLibrary, queries: int, slots: int, tokens: int, dim: int, parts: int | None
) -> None:
    check(emulated, cuda.slot_attention, reference.slot_attention, slot_case(queries, slots, tokens, dim), parts=parts)


@pytest.mark.parametrize(("queries", "slots", "tokens", "dim"), [(1, 1, 1, 128), (66, 3, 200, 128), (5, 2, 130, 256)])
def test_fp8_adds_little_to_its_quantisation(
    emulated: EmulatedLibrary, queries: int, slots: int, tokens: int, dim: int
) -> None:
    query, key, value, shift = slot_case(queries, slots, tokens, dim)
    stored = fp8.quantise_slots(key, value)
    out = cuda.slot_attention_fp8(query, stored, shift)
    emulated.raise_hazard()
    truth = reference.slot_attention(*(tensor.double() for tensor in (query, key, value, shift)))
    codes, scale = fp8.quantise_query(query)
    unavoidable = reference.slot_attention(codes.double() * scale[:, None], *dequantised(stored), shift.double())
    rounding = 2**-4 * truth.abs().max()  # of one probability
    assert (out.double() - truth).abs().max() <= 2 * (unavoidable - truth).abs().max() + rounding


def test_fp8_self_attention(emulated: EmulatedLibrary) -> None:
    query, key, value = self_case(40, 256, 128)
    out = cuda.self_attention_fp8(query, key, value)
    emulated.raise_hazard()
    exact = reference.self_attention(query.double(), key.double(), value.double())
    assert (out.double() - exact).norm() / exact.norm() < 0.06


@pytest.mark.usefixtures("one_pair")
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("queries", "slots", "tokens", "dim", "parts"),
    [
        pytest.param(770, 1, 1, 64, 1, id="three-tiles-of-one-key"),
        pytest.param(385, 2, 130, 64, 1, id="a-last-tile-of-one-query"),
        pytest.param(270, 3, 178, 128, 1, id="an-even-number-of-blocks"),
        pytest.param(258, 3, 79, 256, 1, id="an-odd-number-of-blocks"),
        pytest.param(258, 3, 81, 256, 2, id="tiles-and-parts-of-unequal-length"),
    ],
)
def test_a_pair_of_blocks_takes_one_tile_after_the_other(
    emulated: EmulatedLibrary, queries: int, slots: int, tokens: int, dim: int, parts: int, seed: int
) -> None:
    emulated.reset(seed)
    check(emulated, cuda.slot_attention, reference.slot_attention, slot_case(queries, slots, tokens, dim), parts=parts)


@pytest.mark.usefixtures("one_pair")
def test_an_fp8_pair_takes_one_slot_after_the_other(emulated: EmulatedLibrary) -> None:
    query, key, value, shift = slot_case(300, 3, 129, 128)
    out = cuda.slot_attention_fp8(query, fp8.quantise_slots(key, value), shift)
    emulated.raise_hazard()
    exact = reference.slot_attention(*(tensor.double() for tensor in (query, key, value, shift)))
    assert (out.double() - exact).norm() / exact.norm() < 0.06


def test_fp8_blocks_have_scales_of_their_own(emulated: EmulatedLibrary) -> None:
    """Keys and values of one block lie 20 octaves under those beside it, more than e4m3 has."""
    query, key, value = self_case(9, 384, 128)
    key[128:256], value[128:256] = key[128:256] * 2.0**-20, value[128:256] * 2.0**-20
    stored = fp8.quantise_slots(key[None], value[None])
    out = cuda.slot_attention_fp8(query, stored, None)
    emulated.raise_hazard()
    codes, scale = fp8.quantise_query(query)
    keys, values = dequantised(stored)
    unavoidable = reference.self_attention(codes.double() * scale[:, None], keys[0], values[0])
    truth = reference.self_attention(query.double(), key.double(), value.double())
    rounding = 2**-4 * truth.abs().max()  # of one probability
    assert (out.double() - truth).abs().max() <= 2 * (unavoidable - truth).abs().max() + rounding


@pytest.mark.parametrize("kernel", ["bf16", "fp8"])
def test_no_query_gives_an_empty_result(emulated: EmulatedLibrary, kernel: str) -> None:
    query, key, value, shift = slot_case(0, 2, 5, 128)
    if kernel == "bf16":
        out = cuda.slot_attention(query, key, value, shift)
    else:
        out = cuda.slot_attention_fp8(query, fp8.quantise_slots(key, value), shift)
    assert out.shape == (0, 128)
    assert emulated.devices == []


def test_views_are_read_where_they_lie_or_copied(emulated: EmulatedLibrary) -> None:
    query, key, value = self_case(20, 40, 64)
    wide = torch.full((40, 3, 129), math.nan, dtype=torch.bfloat16)
    for columns in (slice(0, 64), slice(0, 128, 2), slice(33, 97)):
        views = [wide[: len(tensor), i, columns] for i, tensor in enumerate((query, key, value))]
        for view, tensor in zip(views, (query, key, value), strict=True):
            view.copy_(tensor)
        assert torch.equal(cuda.self_attention(*views), cuda.self_attention(query, key, value))
    emulated.raise_hazard()


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("scale", [2.0**12, 2.0**18, 2.0**30], ids=["2^24", "2^30", "2^42"])
def test_scores_beyond_the_exponent_stay_finite(emulated: EmulatedLibrary, scale: float, parts: int) -> None:
    """Scores of about `scale` · 2^12: an offset of theirs is rounded to more than an exponent can hold."""
    query, key, value = self_case(9, 200, 64)
    query, key = query * scale, key * 2.0**12
    check(emulated, cuda.self_attention, reference.self_attention, [query, key, value], parts=parts)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_slot_that_is_switched_off_weighs_nothing(emulated: EmulatedLibrary, parts: int) -> None:
    query, key, value, shift = slot_case(9, 2, 130, 64)
    query = query.abs()
    shift[0] = -math.inf
    out = cuda.slot_attention(query, key, value, shift, parts=parts)
    emulated.raise_hazard()
    alone = (query, key[1:], value[1:], shift[1:])
    exact = reference.slot_attention(*(tensor.double() for tensor in alone))
    assert_as_exact_as(out, reference.slot_attention(*alone), exact)


@pytest.mark.parametrize(
    ("queries", "tokens"), [(128, 400), (70, 400), (60, 161)], ids=["whole-tiles", "rows-beyond", "one-warpgroup"]
)
def test_skipping_counts_and_keeps_the_result(emulated: EmulatedLibrary, queries: int, tokens: int) -> None:
    """The first slot outweighs the second for every query, so its blocks are all that count."""
    query, key, value, shift = slot_case(queries, 2, tokens, 256)
    query = query.abs()
    shift[0], shift[1] = 4.0, 0.0  # q·shift / 16 ≈ 50
    out, stats = cuda.slot_attention_skipping(query, key, value, shift, parts=1)
    emulated.raise_hazard()
    groups, blocks = -(-queries // 64), -(-tokens // 80)
    assert stats == cuda.SkipStats(skipped=groups * blocks, blocks=2 * groups * blocks)
    tensors = (query, key, value, shift)
    exact = reference.slot_attention(*(tensor.double() for tensor in tensors))
    assert_as_exact_as(out, reference.slot_attention(*tensors), exact)


def test_launches_go_to_the_tensors_device(emulated: EmulatedLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_device", lambda tensor: 1)
    cuda.slot_attention(*slot_case(5, 2, 70, 64), parts=2)
    emulated.raise_hazard()
    assert emulated.devices == [1, 1, 1]  # bias, attention, merge
    assert emulated.handle.emulator_device() == 0  # what was current is so again


def test_a_device_that_is_not_there_is_an_error(emulated: EmulatedLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "_device", lambda tensor: 7)
    with pytest.raises(EngineError, match="reports error 101"):
        cuda.self_attention(*self_case(1, 1, 64))


def test_nothing_is_looked_up_twice(emulated: EmulatedLibrary) -> None:
    tensors = self_case(3, 5, 64)
    functions = ("cudaGetDriverEntryPointByVersion", "cudaFuncSetAttribute", "cudaSetDevice")
    cuda.self_attention(*tensors)
    before = [emulated.calls(function) for function in functions]
    cuda.self_attention(*tensors)
    assert [emulated.calls(function) for function in functions] == before


@pytest.mark.parametrize("parts", [0, -1])
def test_parts_below_one_are_refused(emulated: EmulatedLibrary, parts: int) -> None:
    with pytest.raises(EngineError, match=f"parts must be at least 1, got {parts}"):
        cuda.self_attention(*self_case(3, 5, 64), parts=parts)
    call = cuda.Call(tokens=3, segments=1, segment_tokens=5, dim=64, parts=parts)
    assert (
        cuda.load().x2sam_attention_bf16(ctypes.byref(call), None) == 1
    )  # cudaErrorInvalidValue, not a division by zero


def test_an_old_driver_is_named(emulated: EmulatedLibrary) -> None:
    emulated.handle.emulator_set_driver(12080)
    try:
        reason = cuda.driver_reason(*cuda._cuda_versions())
    finally:
        emulated.handle.emulator_set_driver(13000)
    assert reason is not None
    assert "built with CUDA 13.0" in reason
    assert "580 or newer" in reason
    assert "the one here serves CUDA 12.8" in reason
