"""Triton kernels against their torch twins: on a GPU where there is one, in Triton's interpreter otherwise."""

from __future__ import annotations

import os
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
if not HAS_GPU and os.environ.get("TRITON_INTERPRET") != "1":
    if "triton" in sys.modules:
        pytest.skip("Triton was imported before; set TRITON_INTERPRET=1 for the whole run", allow_module_level=True)
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported, by the package or by torch
if not HAS_GPU and tuple(int(part) for part in np.__version__.split(".")[:2]) >= (2, 4):
    pytest.skip(f"Triton's interpreter needs numpy < 2.4, found {np.__version__}", allow_module_level=True)
pytest.importorskip("triton", reason="Triton is not installed; pip install 'x2sam-rt[gpu]'")

from x2sam_rt.errors import EngineError  # noqa: E402
from x2sam_rt.kernels import reference, split  # noqa: E402
from x2sam_rt.kernels.triton import attention, deformable_attention, mask_fusion  # noqa: E402

# bfloat16 is left out: the interpreter computes it as garbage
DTYPES = [pytest.param(torch.float32, id="fp32"), pytest.param(torch.float16, id="fp16")]
SMALL = attention.Tiles(query=16, key=16, warps=4, stages=1)


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * scale).to(dtype).to(DEVICE)


def assert_as_good(kernel: Tensor, plain: Tensor, exact: Tensor) -> None:
    """The kernel's error is at most twice that of plain torch at the same precision, and rounding."""
    assert kernel.dtype == plain.dtype
    assert kernel.shape == plain.shape
    if exact.numel() == 0:
        return
    rounding = torch.finfo(kernel.dtype).eps * exact.abs().max()
    ours, torchs = (kernel.double() - exact).abs().max(), (plain.double() - exact).abs().max()
    assert ours <= 2 * torchs + rounding, f"error {ours:.3g} against torch's {torchs:.3g}"


def split_error_case(module: ModuleType, tensors: list[Tensor], function: str, **options: object) -> None:
    """Runs `function` of the module and of the reference on the same tensors and compares both with float64."""
    plain = getattr(reference, function)(*tensors)
    exact = getattr(reference, function)(*(tensor.double() for tensor in tensors))
    assert_as_good(getattr(module, function)(*tensors, **options), plain, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("queries", "keys", "dim", "parts"),
    [
        pytest.param(1, 1, 64, 1, id="one-query-one-key"),
        pytest.param(33, 50, 64, 3, id="odd-tiles-three-parts"),
        pytest.param(16, 17, 128, 2, id="last-part-of-one-key"),
        pytest.param(39, 70, 256, 1, id="d256"),
        pytest.param(0, 5, 64, 1, id="no-query"),
    ],
)
def test_self_attention(dtype: torch.dtype, queries: int, keys: int, dim: int, parts: int) -> None:
    tensors = [draw(rows, dim, dtype=dtype, seed=seed) for seed, rows in enumerate((queries, keys, keys))]
    split_error_case(attention, tensors, "self_attention", tiles=SMALL, parts=parts)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize(
    ("queries", "slots", "slot_tokens", "dim"),
    [
        pytest.param(1, 1, 1, 64, id="one-of-each"),
        pytest.param(21, 5, 16, 64, id="whole-tiles"),
        pytest.param(17, 3, 37, 128, id="partial-bank-odd-slots"),
    ],
)
def test_slot_attention(dtype: torch.dtype, parts: int, queries: int, slots: int, slot_tokens: int, dim: int) -> None:
    ring = [draw(8, slot_tokens + 3, dim, dtype=dtype, seed=seed)[:slots, :slot_tokens] for seed in (1, 2)]
    tensors = [draw(queries, dim, dtype=dtype), *ring, draw(slots, dim, dtype=dtype, seed=3)]
    split_error_case(attention, tensors, "slot_attention", tiles=SMALL, parts=parts)


def test_strided_queries() -> None:
    tensors = [draw(20, 3, 64, seed=seed)[:, seed] for seed in range(3)]
    split_error_case(attention, tensors, "self_attention", tiles=SMALL, parts=2)


@pytest.mark.parametrize("columns", [slice(0, 128, 2), slice(33, 97)], ids=["every-other", "inner"])
def test_views_of_wider_tensors(columns: slice) -> None:
    """The last axis spread out, or narrower than what it lies in, with NaN around it."""

    def view(tensor: Tensor) -> Tensor:
        wide = torch.full((*tensor.shape[:-1], 129), torch.nan, device=DEVICE)
        wide[..., columns] = tensor
        return wide[..., columns]

    tensors = [draw(20, 64), draw(2, 17, 64, seed=1), draw(2, 17, 64, seed=2), draw(2, 64, seed=3)]
    plain = attention.slot_attention(*tensors, tiles=SMALL)
    assert torch.equal(attention.slot_attention(*(view(tensor) for tensor in tensors), tiles=SMALL), plain)
    flat = [tensor.flatten(0, -2) for tensor in tensors[:3]]
    plain = attention.self_attention(*flat, tiles=SMALL)
    assert torch.equal(attention.self_attention(*(view(tensor) for tensor in flat), tiles=SMALL), plain)


def test_maps_cut_out_of_wider_ones() -> None:
    classes, masks = draw(5, 8), draw(5, 6, 14, seed=1, scale=6)
    for class_view, mask_view in (
        (classes[:, ::2], masks[:, :, ::2]),
        (classes[:, :3], masks[:, 1:5, 3:11]),
        (classes, masks.transpose(1, 2)),
    ):
        dense = mask_fusion.mask_fusion(class_view.contiguous(), mask_view.contiguous())
        assert torch.equal(mask_fusion.mask_fusion(class_view, mask_view), dense)
        allowed = mask_fusion.attention_mask(mask_view.contiguous(), (3, 4))
        assert torch.equal(mask_fusion.attention_mask(mask_view, (3, 4)), allowed)


def test_values_whose_channels_are_spread_out() -> None:
    value, at, weights = draw(1, 15, 2, 16)[..., ::2], draw(1, 7, 2, 1, 4, 2, seed=1), draw(1, 7, 2, 1, 4, seed=2)
    dense = deformable_attention.deformable_attention(value.contiguous(), ((3, 5),), at, weights)
    assert torch.equal(deformable_attention.deformable_attention(value, ((3, 5),), at, weights), dense)


@pytest.mark.parametrize("parts", [0, -3])
def test_parts_below_one_are_refused(parts: int) -> None:
    tensors = [draw(3, 64), draw(2, 5, 64), draw(2, 5, 64), draw(2, 64)]
    with pytest.raises(EngineError, match=f"parts must be at least 1, got {parts}"):
        attention.slot_attention(*tensors, tiles=SMALL, parts=parts)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("scale", [2.0**12, 2.0**30], ids=["2^24", "2^42"])
def test_scores_beyond_the_exponent_stay_finite(scale: float, parts: int) -> None:
    tensors = [draw(9, 64, scale=scale), draw(50, 64, seed=1, scale=2.0**12), draw(50, 64, seed=2)]
    split_error_case(attention, tensors, "self_attention", tiles=SMALL, parts=parts)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_slot_that_is_switched_off_weighs_nothing(parts: int) -> None:
    query, key, value, shift = draw(9, 64).abs(), draw(2, 20, 64, seed=1), draw(2, 20, 64, seed=2), draw(2, 64, seed=3)
    shift[0] = -torch.inf
    out = attention.slot_attention(query, key, value, shift, tiles=SMALL, parts=parts)
    alone = (query, key[1:], value[1:], shift[1:])
    exact = reference.slot_attention(*(tensor.double() for tensor in alone))
    assert_as_good(out, reference.slot_attention(*alone), exact)


def test_rows_beyond_the_queries_do_not_veto_skipping() -> None:
    query, key, value, shift = peaked(60.0)
    out, stats = attention.slot_attention_skipping(query[:5], key, value, shift, tiles=SMALL, parts=1)
    assert stats == attention.SkipStats(skipped=2, blocks=4)
    assert out.shape == (5, 64)


def test_merge_matches_its_twin() -> None:
    partial, lse = draw(3, 19, 64), draw(3, 19, scale=5.0, seed=1)
    torch.testing.assert_close(attention.merge_parts(partial, lse), split.merge_parts(partial, lse))


def peaked(gap: float) -> list[Tensor]:
    """Two slots of which the first holds keys that outweigh the second's by `gap` powers of two, for every query."""
    query = torch.ones(16, 64, device=DEVICE) + draw(16, 64, scale=0.01)
    key = draw(2, 32, 64, scale=0.01, seed=1)
    shift = torch.zeros(2, 64, device=DEVICE)
    shift[0] = gap * np.log(2) / 8  # q·shift / sqrt(64) = gap · ln 2
    return [query, key, draw(2, 32, 64, seed=2), shift]


@pytest.mark.parametrize(
    ("gap", "bits", "skipped"),
    [
        pytest.param(60.0, 24.0, 2, id="far-below"),
        pytest.param(10.0, 24.0, 0, id="near"),
        pytest.param(10.0, 4.0, 2, id="near-but-looser"),
    ],
)
def test_skipping_counts_and_keeps_the_result(gap: float, bits: float, skipped: int) -> None:
    tensors = peaked(gap)
    out, stats = attention.slot_attention_skipping(*tensors, bits=bits, tiles=SMALL, parts=1)
    assert stats == attention.SkipStats(skipped=skipped, blocks=4)
    bound = 2 * 2.0**-bits * stats.skipped * tensors[2].abs().max().item()
    exact = reference.slot_attention(*(tensor.double() for tensor in tensors))
    assert (out.double() - exact).abs().max().item() <= bound + 1e-6


SHAPES = ((3, 5), (7, 9), (1, 16))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("batch", "queries", "heads", "channels"),
    [
        pytest.param(1, 1, 1, 32, id="one-query"),
        pytest.param(2, 45, 3, 8, id="odd-queries"),
        pytest.param(1, 33, 2, 24, id="channels-not-a-power-of-two"),
    ],
)
def test_deformable_attention(dtype: torch.dtype, batch: int, queries: int, heads: int, channels: int) -> None:
    tokens = sum(height * width for height, width in SHAPES)
    value = draw(batch, tokens, heads, channels, dtype=dtype)
    # a fifth of the points lie outside, some far off
    locations = (draw(batch, queries, heads, 3, 4, 2, seed=1) * 0.6 + 0.5).to(dtype)
    weights = draw(batch, queries, heads, 12, seed=2).softmax(-1).view(batch, queries, heads, 3, 4).to(dtype)
    out = deformable_attention.deformable_attention(value, SHAPES, locations, weights)
    plain = reference.deformable_attention(value, SHAPES, locations, weights)
    exact = reference.deformable_attention(value.double(), SHAPES, locations.double(), weights.double())
    assert_as_good(out, plain, exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("queries", "conditions", "height", "width"),
    [
        pytest.param(1, 2, 1, 1, id="one-of-each"),
        pytest.param(21, 6, 13, 17, id="odd"),
        pytest.param(200, 3, 4, 5, id="published-queries"),
    ],
)
def test_mask_fusion(dtype: torch.dtype, queries: int, conditions: int, height: int, width: int) -> None:
    classes = draw(queries, conditions, scale=5.0).clamp(-50, 50)
    classes[:, 0] = -1e6 if conditions > 2 else 0.0  # a padded condition
    masks = draw(queries, height, width, dtype=dtype, seed=1, scale=8.0)
    exact = reference.mask_fusion(classes.double(), masks.double())
    assert_as_good(mask_fusion.mask_fusion(classes, masks), reference.mask_fusion(classes.to(dtype), masks), exact)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (13, 17), (26, 51)], ids=str)
def test_attention_mask(dtype: torch.dtype, size: tuple[int, int]) -> None:
    masks = draw(9, 13, 17, dtype=dtype, scale=8.0)
    masks[4] = -3.0  # sees nothing, so sees everything
    allowed = mask_fusion.attention_mask(masks, size)
    assert allowed.dtype == torch.bool
    assert allowed[4].all()
    resized = torch.nn.functional.interpolate(masks[None].double(), size=size, mode="bilinear")[0].flatten(1)
    clear = (resized.abs() > torch.finfo(dtype).eps * 16) & (resized.amax(1, keepdim=True) > 0)
    assert torch.equal(allowed[clear], resized[clear] >= 0)
    assert clear.sum() >= resized.numel() // 2
