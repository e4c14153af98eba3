"""Mask fusion and attention masks: C++ against their twins, extreme logits, contract."""

from __future__ import annotations

import pytest
import torch
from checks import assert_as_exact_as, needs_library, random
from torch import Tensor

from x2sam_rt.errors import EngineError, KernelUnavailable
from x2sam_rt.kernels import reference
from x2sam_rt.kernels.mask_fusion import attention_mask, mask_fusion

FUSION_SHAPES = [
    pytest.param(1, 1, 1, 1, id="one-of-each"),
    pytest.param(200, 3, 16, 16, id="published-queries"),
    pytest.param(7, 40, 5, 53, id="no-multiple-of-a-vector"),
    pytest.param(13, 2, 1, 257, id="one-row-beyond-a-tile"),
]


def assert_fusion_is_as_exact_as_torch(classes: Tensor, masks: Tensor) -> None:
    exact = reference.mask_fusion(classes.double(), masks.double())
    assert_as_exact_as(mask_fusion(classes, masks, backend="cpu"), reference.mask_fusion(classes, masks), exact)


@needs_library
@pytest.mark.parametrize(("queries", "conditions", "height", "width"), FUSION_SHAPES)
def test_fusion_is_as_exact_as_torch(queries: int, conditions: int, height: int, width: int) -> None:
    classes, masks = random(queries, conditions + 1, seed=1), random(queries, height, width, seed=2, scale=6)
    assert_fusion_is_as_exact_as_torch(classes, masks)


@needs_library
def test_padded_conditions_and_a_background_that_always_wins() -> None:
    classes = random(9, 6, seed=1)
    classes[:, 2:5] = -1e6
    classes[:4, 5] = 50.0
    classes[:4, :2] = -50.0
    assert_fusion_is_as_exact_as_torch(classes, random(9, 6, 7, seed=2, scale=6))


@needs_library
@pytest.mark.parametrize("offset", [-1e4, -150.0, -80.0, 80.0, 150.0, 1e4])
def test_far_logits_stay_finite(offset: float) -> None:
    assert_fusion_is_as_exact_as_torch(random(9, 3, seed=1), random(9, 6, 7, seed=2, scale=6) + offset)


@needs_library
def test_queries_far_apart() -> None:
    masks = random(9, 6, 7, seed=2, scale=6) + torch.linspace(-300, 300, 9)[:, None, None]
    assert_fusion_is_as_exact_as_torch(random(9, 3, seed=1), masks)
    assert_fusion_is_as_exact_as_torch(random(9, 3, seed=1), masks.flip(0))


@needs_library
def test_strided_views() -> None:
    classes, masks = random(5, 8, seed=1), random(5, 6, 14, seed=2, scale=6)
    assert_fusion_is_as_exact_as_torch(classes[:, ::2], masks[:, :, ::2])
    assert_fusion_is_as_exact_as_torch(classes[::2, 1:], masks[::2])
    assert_fusion_is_as_exact_as_torch(classes[:3], masks.transpose(0, 1)[:3])


MASK_SIZES = [
    pytest.param((12, 20), (3, 5), id="a-quarter"),
    pytest.param((12, 20), (12, 20), id="same-size"),
    pytest.param((12, 20), (7, 13), id="odd-ratio"),
    pytest.param((5, 3), (9, 11), id="enlarged"),
    pytest.param((1, 1), (4, 1), id="one-pixel"),
    pytest.param((9, 9), (1, 1), id="to-one-pixel"),
]


@needs_library
@pytest.mark.parametrize(("source", "size"), MASK_SIZES)
def test_attention_masks_equal_torchs(source: tuple[int, int], size: tuple[int, int]) -> None:
    masks = random(11, *source, seed=3)
    assert torch.equal(attention_mask(masks, size, backend="cpu"), reference.attention_mask(masks, size))


@needs_library
def test_a_query_that_sees_nothing_sees_everything() -> None:
    masks = random(4, 6, 6, seed=3)
    masks[1], masks[2] = -3.0, -0.0
    own = attention_mask(masks, (3, 3), backend="cpu")
    assert torch.equal(own, reference.attention_mask(masks, (3, 3)))
    assert own[1].all()


@needs_library
def test_attention_masks_of_strided_views() -> None:
    wide = random(6, 10, 16, seed=3)
    for view in (wide[::2, 1:9, 2:14], wide[:, :, ::2], wide.transpose(1, 2)):
        assert torch.equal(attention_mask(view, (4, 5), backend="cpu"), reference.attention_mask(view, (4, 5)))


def test_wrong_tensors_are_named() -> None:
    classes, masks = random(5, 3), random(5, 4, 4)
    with pytest.raises(EngineError, match=r"class_logits must be \(5, classes\) float32 on cpu, got \(4, 3\)"):
        mask_fusion(classes[:4], masks)
    with pytest.raises(EngineError, match="classes must be at least 2, got 1"):
        mask_fusion(classes[:, :1], masks)
    with pytest.raises(EngineError, match="queries must be at least 1, got 0"):
        mask_fusion(classes[:0], masks[:0])
    with pytest.raises(EngineError, match="size must be"):
        attention_mask(masks, (0, 4))
    with pytest.raises(KernelUnavailable, match=r"on a CUDA device, got torch\.float32 on cpu"):
        attention_mask(masks, (2, 2), backend="triton")


def test_gradients_flow_in_auto() -> None:
    inputs = [random(5, 3).requires_grad_(), random(5, 4, 4, seed=1).requires_grad_()]
    own = torch.autograd.grad(mask_fusion(*inputs).sum(), inputs)
    plain = torch.autograd.grad(reference.mask_fusion(*inputs).sum(), inputs)
    for gradient, expected in zip(own, plain, strict=True):
        assert torch.equal(gradient, expected)


def test_operations_are_registered_soundly() -> None:
    classes, masks = random(5, 3), random(5, 4, 4)
    torch.library.opcheck(torch.ops.x2sam_rt.mask_fusion.default, (classes, masks, "auto"))
    torch.library.opcheck(torch.ops.x2sam_rt.attention_mask.default, (masks, (2, 2), "auto"))
