"""Multi-scale deformable attention of the pixel decoder.

Source: Deformable DETR, eq. 3, as Mask2Former's pixel decoder uses it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from x2sam_rt.errors import EngineError
from x2sam_rt.kernels import cpu, reference
from x2sam_rt.kernels.contract import Contract
from x2sam_rt.kernels.dispatch import NAMESPACE, Backend, Operation, needs_grad, no_reason, register, require_torch
from x2sam_rt.kernels.triton import triton_backend

Shapes = Sequence[tuple[int, int]]


def deformable_attention(
    value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor, *, backend: str = "auto"
) -> Tensor:
    """Bilinear samples of several levels around each query, weighted and summed.

    value: (batch, tokens, heads, head_dim), levels one after the other, each row-major. spatial_shapes: (height,
    width) per level. locations: (batch, queries, heads, levels, points, 2), x then y, 0…1 over each level's extent;
    outside reads zero. weights: (batch, queries, heads, levels, points). One float dtype.
    Returns (batch, queries, heads · head_dim).
    backend: "auto", "cpu" (CPU, float32, with gradients), "triton" (CUDA, no gradients) or "torch".
    Raises EngineError when the tensors do not fit, KernelUnavailable when the backend cannot serve.
    """
    if needs_grad(value, locations, weights) and (
        backend == "torch" or cpu.unsupported_reason(value, locations, weights)
    ):
        require_torch("deformable_attention", backend)
        return reference.deformable_attention(value, spatial_shapes, locations, weights)
    flat = [size for shape in spatial_shapes for size in shape]
    out: Tensor = DEFORMABLE_ATTENTION_OP(value, flat, locations, weights, backend)
    return out


def _deformable_attention(
    value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor, backend: str
) -> Tensor:
    shapes = _pairs(spatial_shapes)
    tokens = sum(height * width for height, width in shapes)
    contract = Contract("deformable_attention")
    contract.match("value", value, f"batch {tokens} heads head_dim")
    contract.match("weights", weights, f"batch queries heads {len(shapes)} points")
    contract.match("locations", locations, f"batch queries heads {len(shapes)} points 2")
    return DEFORMABLE_ATTENTION_DISPATCH(backend, value, shapes, locations, weights)


def _fake(value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor, backend: str) -> Tensor:
    batch, queries, heads = weights.shape[:3]
    return value.new_empty(batch, queries, heads * value.shape[-1])


def _gradient(
    grad: Tensor, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return cpu.deformable_gradient(grad, value, _pairs(spatial_shapes), locations, weights)


def _fake_gradient(
    grad: Tensor, value: Tensor, spatial_shapes: Sequence[int], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    value, locations, weights = (tensor.new_empty(tensor.shape) for tensor in (value, locations, weights))
    return value, locations, weights


def _remember(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: Tensor) -> None:
    value, spatial_shapes, locations, weights, _ = inputs
    ctx.save_for_backward(value, locations, weights)  # type: ignore[arg-type]
    ctx.spatial_shapes = spatial_shapes  # type: ignore[attr-defined]


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, weights = ctx.saved_tensors  # type: ignore[attr-defined]
    grads = GRADIENT_OP(grad, value, ctx.spatial_shapes, locations, weights)  # type: ignore[attr-defined]
    return grads[0], None, grads[1], grads[2], None


def _pairs(flat: Sequence[int]) -> Shapes:
    if len(flat) % 2:
        raise EngineError(f"deformable_attention: spatial_shapes must be (height, width) pairs, got {list(flat)}")
    return tuple(zip(flat[::2], flat[1::2], strict=True))


def _cpu_reason(value: Tensor, spatial_shapes: Shapes, locations: Tensor, weights: Tensor) -> str | None:
    return cpu.unsupported_reason(value, locations, weights)


DEFORMABLE_ATTENTION_DISPATCH = Operation(
    "deformable_attention",
    (
        Backend("cpu", cpu.deformable_attention, _cpu_reason),
        triton_backend("deformable_attention", "deformable_attention"),
        Backend("torch", reference.deformable_attention, no_reason),
    ),
)

DEFORMABLE_ATTENTION_OP = register("deformable_attention", _deformable_attention, _fake)
GRADIENT_OP = register("deformable_attention_grad", _gradient, _fake_gradient)
torch.library.register_autograd(f"{NAMESPACE}::deformable_attention", _backward, setup_context=_remember)
