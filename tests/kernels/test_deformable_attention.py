"""Deformable attention: C++ against its twin, gradients, edges of the image, contract."""

from __future__ import annotations

import pytest
import torch
from checks import assert_as_exact_as, needs_library, random
from torch import Tensor

from x2sam_rt.errors import EngineError, KernelUnavailable
from x2sam_rt.kernels import reference
from x2sam_rt.kernels.deformable_attention import deformable_attention

Shapes = tuple[tuple[int, int], ...]
Inputs = tuple[Tensor, Shapes, Tensor, Tensor]

CASES = [
    pytest.param(1, ((4, 4), (8, 8), (16, 16)), 8, 32, 336, 4, id="as-in-the-pixel-decoder"),
    pytest.param(2, ((3, 5), (1, 7)), 3, 16, 31, 4, id="odd-levels"),
    pytest.param(1, ((1, 1),), 1, 64, 1, 1, id="one-of-each"),
    pytest.param(1, ((5, 3), (2, 2)), 2, 12, 33, 3, id="channels-no-vector"),
    pytest.param(2, ((9, 2),), 4, 4, 65, 5, id="toy-channels"),
    pytest.param(1, ((6, 6),), 2, 8, 3, 40, id="many-points"),
]


def make_inputs(
    batch: int, shapes: Shapes, heads: int, head_dim: int, queries: int, points: int, margin: float = 0.3
) -> Inputs:
    tokens = sum(height * width for height, width in shapes)
    samples = (batch, queries, heads, len(shapes), points)
    locations = torch.rand(*samples, 2, generator=torch.Generator().manual_seed(5)) * (1 + 2 * margin) - margin
    weights = random(batch, queries, heads, len(shapes) * points, seed=6).softmax(-1).view(samples)
    return random(batch, tokens, heads, head_dim, seed=7), shapes, locations, weights


def twice_as_wide(value: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Inputs:
    return value.double(), shapes, locations.double(), weights.double()


@needs_library
@pytest.mark.parametrize(("batch", "shapes", "heads", "head_dim", "queries", "points"), CASES)
def test_is_as_exact_as_torch(batch: int, shapes: Shapes, heads: int, head_dim: int, queries: int, points: int) -> None:
    inputs = make_inputs(batch, shapes, heads, head_dim, queries, points)
    exact = reference.deformable_attention(*twice_as_wide(*inputs))
    native = deformable_attention(*inputs, backend="cpu")
    assert_as_exact_as(native, reference.deformable_attention(*inputs), exact)


@needs_library
@pytest.mark.parametrize("at", [-1e30, -0.5, -1e-3, 0.0, 1.0, 1.001, 1.5, 1e30])
def test_edges_and_the_outside(at: float) -> None:
    value, shapes, locations, weights = make_inputs(1, ((4, 3), (2, 2)), 2, 16, 5, 2)
    locations[..., 0] = at
    exact = reference.deformable_attention(*twice_as_wide(value, shapes, locations.clamp(-9, 9), weights))
    plain = reference.deformable_attention(value, shapes, locations.clamp(-9, 9), weights)
    assert_as_exact_as(deformable_attention(value, shapes, locations, weights, backend="cpu"), plain, exact)


@needs_library
def test_unusable_locations_read_nothing_and_do_not_crash() -> None:
    value, shapes, locations, weights = make_inputs(1, ((4, 3),), 1, 16, 2, 1)
    locations[:] = float("nan")
    deformable_attention(value, shapes, locations, weights, backend="cpu")
    locations[:] = float("inf")
    assert not deformable_attention(value, shapes, locations, weights, backend="cpu").any()


@needs_library
def test_strided_views() -> None:
    value, shapes, locations, weights = make_inputs(2, ((3, 4), (2, 2)), 2, 16, 7, 3)
    wide = torch.zeros(2, value.shape[1], 4, 16)
    wide[:, :, 1:3] = value
    spread = torch.stack([locations, locations], -1)[..., 0]
    view = deformable_attention(wide[:, :, 1:3], shapes, spread, weights, backend="cpu")
    assert torch.equal(view, deformable_attention(value, shapes, locations, weights, backend="cpu"))


def gradients(inputs: Inputs, backend: str) -> tuple[Tensor, ...]:
    value, shapes, locations, weights = inputs
    leaves = [tensor.clone().requires_grad_() for tensor in (value, locations, weights)]
    out = deformable_attention(leaves[0], shapes, leaves[1], leaves[2], backend=backend)
    incoming = random(*out.shape, seed=8).to(out.dtype)
    return torch.autograd.grad(out, leaves, incoming)


@needs_library
@pytest.mark.parametrize(("batch", "shapes", "heads", "head_dim", "queries", "points"), CASES)
def test_gradients_are_as_exact_as_torch(
    batch: int, shapes: Shapes, heads: int, head_dim: int, queries: int, points: int
) -> None:
    inputs = make_inputs(batch, shapes, heads, head_dim, queries, points)
    exact = gradients(twice_as_wide(*inputs), "torch")
    for own, plain, truth in zip(gradients(inputs, "cpu"), gradients(inputs, "torch"), exact, strict=True):
        assert_as_exact_as(own, plain, truth)


@needs_library
def test_registered_soundly_with_gradients() -> None:
    value, shapes, locations, weights = make_inputs(1, ((3, 4), (2, 2)), 2, 16, 5, 2)
    flat = [size for shape in shapes for size in shape]
    leaves = [tensor.requires_grad_() for tensor in (value, locations, weights)]
    operation = torch.ops.x2sam_rt.deformable_attention.default
    torch.library.opcheck(operation, (leaves[0], flat, leaves[1], leaves[2], "cpu"))


@needs_library
def test_compiles_without_graph_breaks_and_trains() -> None:
    value, shapes, locations, weights = make_inputs(1, ((3, 4), (2, 2)), 2, 16, 5, 2)

    def loss(offset: Tensor) -> Tensor:
        return deformable_attention(value, shapes, locations + offset, weights).square().sum()

    offset = torch.zeros(2, requires_grad=True)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    (own,) = torch.autograd.grad(compiled(offset), offset)
    (eager,) = torch.autograd.grad(loss(offset), offset)
    torch.testing.assert_close(own, eager)


def test_double_precision_runs_on_torch() -> None:
    inputs = twice_as_wide(*make_inputs(1, ((3, 4),), 2, 16, 5, 2))
    assert torch.equal(deformable_attention(*inputs), reference.deformable_attention(*inputs))
    with pytest.raises(KernelUnavailable, match=r"it takes float32 on the CPU, got torch\.float64"):
        deformable_attention(*inputs, backend="cpu")


def test_wrong_tensors_are_named() -> None:
    value, shapes, locations, weights = make_inputs(1, ((3, 4), (2, 2)), 2, 16, 5, 2)
    with pytest.raises(EngineError, match=r"value must be \(batch, 12, heads, head_dim\)"):
        deformable_attention(value, shapes[:1], locations, weights)
    with pytest.raises(EngineError, match=r"locations must be \(1, 5, 2, 2, 2, 2\) float32 on cpu, got \(1, 4,"):
        deformable_attention(value, shapes, locations[:, :4], weights)
