"""The CUDA library and cuDNN attention against their torch twins, on a Hopper GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from checks import assert_as_exact_as, dequantised
from torch import Tensor

from x2sam_rt.errors import KernelUnavailable
from x2sam_rt.kernels import availability, available, cuda, fp8, reference, sdpa

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
needs_hopper = pytest.mark.skipif(not HOPPER, reason="needs a Hopper GPU (sm_90a)")
needs_library = pytest.mark.skipif(available().cuda is None, reason="the CUDA kernels were not built")

SELF_SHAPES = [
    pytest.param(1, 1, 64, id="one-query-one-key"),
    pytest.param(1, 4097, 256, id="one-query"),
    pytest.param(799, 81, 256, id="one-key-beyond-a-block"),
    pytest.param(257, 1023, 128, id="beside-the-tiles"),
    pytest.param(4096, 4096, 256, id="smallest-scale"),
]
SLOT_SHAPES = [
    pytest.param(1, 1, 1, 256, id="one-of-each"),
    pytest.param(300, 1, 4096, 256, id="one-slot"),
    pytest.param(129, 5, 131, 128, id="odd-slots"),
    pytest.param(130, 3, 79, 256, id="slots-shorter-than-a-block"),
    pytest.param(4096, 7, 4096, 256, id="seven-of-eight-slots"),
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda").bfloat16()


def ring_case(queries: int, slots: int, tokens: int, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The live slots are a prefix of a ring of 8, in a tensor that other layers share."""
    key, value = (draw(8, 2, tokens, dim, seed=seed)[:slots, 1] for seed in (1, 2))
    return draw(queries, dim), key, value, draw(slots, dim, seed=3)


def exact(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """In float64, a block of queries at a time: scores of 65,536 × 4,096 would take 17 GB."""
    query, others = tensors[0].double(), [tensor.double() for tensor in tensors[1:]]
    return torch.cat([function(rows, *others) for rows in torch.split(query, 512)])


@pytest.mark.gpu
@needs_hopper
@needs_library
@pytest.mark.parametrize(("queries", "keys", "dim"), SELF_SHAPES)
@pytest.mark.parametrize("parts", [None, 1])
def test_self_attention(queries: int, keys: int, dim: int, parts: int | None) -> None:
    query, key, value = (draw(rows, dim, seed=seed) for seed, rows in enumerate((queries, keys, keys)))
    plain = reference.self_attention(query, key, value)
    truth = exact(reference.self_attention, query, key, value)
    assert_as_exact_as(cuda.self_attention(query, key, value, parts=parts), plain, truth)


@pytest.mark.gpu
@needs_hopper
@needs_library
@pytest.mark.parametrize(("queries", "slots", "tokens", "dim"), SLOT_SHAPES)
@pytest.mark.parametrize("parts", [None, 1])
def test_slot_attention(queries: int, slots: int, tokens: int, dim: int, parts: int | None) -> None:
    tensors = ring_case(queries, slots, tokens, dim)
    plain, truth = reference.slot_attention(*tensors), exact(reference.slot_attention, *tensors)
    assert_as_exact_as(cuda.slot_attention(*tensors, parts=parts), plain, truth)


@pytest.mark.gpu
@needs_hopper
@needs_library
def test_every_row_is_written_and_no_other() -> None:
    query, key, value = (draw(130, 256, seed=seed) for seed in range(3))
    wide = torch.full((200, 256), torch.nan, device="cuda", dtype=torch.bfloat16)
    wide[:130] = query
    assert cuda.self_attention(wide[:130], key, value).isfinite().all()


@pytest.mark.gpu
@needs_hopper
@needs_library
def test_skipping_counts_and_keeps_the_result() -> None:
    query, key, value, _ = ring_case(128, 2, 400, 256)
    shift = torch.zeros(2, 256, device="cuda", dtype=torch.bfloat16)
    far = query.abs().clone()
    shift[0] = 4.0  # q·shift / 16 ≈ 50: the first slot outweighs the second for every query
    out, stats = cuda.slot_attention_skipping(far, key, value, shift, parts=1)
    assert stats.blocks == 2 * 2 * 5
    assert stats.skipped == 2 * 5
    plain, truth = (
        reference.slot_attention(far, key, value, shift), exact(reference.slot_attention, far, key, value, shift)
    )  # fmt: skip
    assert_as_exact_as(out, plain, truth)


@pytest.mark.gpu
@needs_hopper
@needs_library
@pytest.mark.parametrize(
    ("queries", "slots", "tokens", "dim"), [(1, 1, 1, 128), (129, 3, 200, 128), (4096, 5, 4096, 256)]
)
def test_fp8_adds_little_to_its_quantisation(queries: int, slots: int, tokens: int, dim: int) -> None:
    query, key, value, shift = ring_case(queries, slots, tokens, dim)
    stored = fp8.quantise_slots(key, value)
    out = cuda.slot_attention_fp8(query, stored, shift)
    truth = exact(reference.slot_attention, query, key, value, shift)
    codes, scale = fp8.quantise_query(query)
    unavoidable = exact(reference.slot_attention, codes.double() * scale[:, None], *dequantised(stored), shift)
    rounding = 2**-4 * truth.abs().max()  # of one probability
    assert (out.double() - truth).abs().max() <= 2 * (unavoidable - truth).abs().max() + rounding


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("queries", "slots", "tokens", "dim"), SLOT_SHAPES)
def test_cudnn_slots(queries: int, slots: int, tokens: int, dim: int) -> None:
    tensors = ring_case(queries, slots, tokens, dim)
    plain, truth = reference.slot_attention(*tensors), exact(reference.slot_attention, *tensors)
    assert_as_exact_as(sdpa.slot_attention(*tensors), plain, truth)


def test_obstacle_names_what_is_missing() -> None:
    tensor = torch.zeros(4, 64)
    assert "bfloat16 on a CUDA device, got torch.float32 on cpu" in str(cuda.unsupported_reason(tensor))


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(availability._PATHS, "x2sam_cuda", None)
    cuda.load.cache_clear()
    with pytest.raises(KernelUnavailable, match="nvcc and the nvidia-cutlass package"):
        cuda.load()
