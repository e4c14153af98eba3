"""Mask fusion: the memory encoder's mask guidance, and the mask decoder's attention masks.

Source: X2SAM, memory encoder; Mask2Former, masked attention.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from x2sam_rt.errors import EngineError
from x2sam_rt.kernels import cpu, reference
from x2sam_rt.kernels.contract import Contract
from x2sam_rt.kernels.dispatch import Backend, Operation, needs_grad, no_reason, register, require_torch
from x2sam_rt.kernels.triton import triton_backend


def mask_fusion(class_logits: Tensor, mask_logits: Tensor, *, backend: str = "auto") -> Tensor:
    """One map out of all queries' masks, weighted by how sure each query is.

    class_logits: (queries, conditions + 1), background last, padded conditions at −1e6. mask_logits: (queries, H, W),
    the same float dtype. Returns (H, W): Σ_q softmax_q(mask + log max(score_q, 1e-6)) · sigmoid(mask), 0…1, where
    score_q is the largest probability of a condition.
    backend: "auto", "cpu" (CPU, float32), "triton" (CUDA) or "torch".
    Raises EngineError when the tensors do not fit, KernelUnavailable when the backend cannot serve.
    """
    if needs_grad(class_logits, mask_logits):
        require_torch("mask_fusion", backend)
        return reference.mask_fusion(class_logits, mask_logits)
    out: Tensor = MASK_FUSION_OP(class_logits, mask_logits, backend)
    return out


def attention_mask(mask_logits: Tensor, size: tuple[int, int], *, backend: str = "auto") -> Tensor:
    """Where each query of a mask-decoder layer may look, from the previous prediction.

    mask_logits: (queries, H, W); size: the layer's grid (h, w). Returns (queries, h · w) bool, True = may attend: the
    bilinearly resized logit is ≥ 0 (sigmoid ≥ 0.5). A query that would see nothing sees everything.
    Backends and errors as `mask_fusion`.
    """
    out: Tensor = ATTENTION_MASK_OP(mask_logits, size, backend)
    return out


def _mask_fusion(class_logits: Tensor, mask_logits: Tensor, backend: str) -> Tensor:
    contract = Contract("mask_fusion")
    contract.match("mask_logits", mask_logits, "queries height width")
    contract.match("class_logits", class_logits, "queries classes")
    contract.at_least("queries", 1, "there is no mask to fuse")
    contract.at_least("classes", 2, "give at least one condition and the background")
    return MASK_FUSION_DISPATCH(backend, class_logits, mask_logits)


def _attention_mask(mask_logits: Tensor, size: Sequence[int], backend: str) -> Tensor:
    contract = Contract("attention_mask")
    contract.match("mask_logits", mask_logits, "queries height width")
    contract.at_least("height", 1, "the masks are empty")
    contract.at_least("width", 1, "the masks are empty")
    if len(size) != 2 or min(size) < 1:
        raise EngineError(f"attention_mask: size must be (height, width), at least 1 each, got {tuple(size)}")
    return ATTENTION_MASK_DISPATCH(backend, mask_logits, (size[0], size[1]))


def _fake_mask_fusion(class_logits: Tensor, mask_logits: Tensor, backend: str) -> Tensor:
    return mask_logits.new_empty(mask_logits.shape[1:])


def _fake_attention_mask(mask_logits: Tensor, size: Sequence[int], backend: str) -> Tensor:
    return mask_logits.new_empty(mask_logits.shape[0], size[0] * size[1], dtype=torch.bool)


def _mask_reason(mask_logits: Tensor, size: tuple[int, int]) -> str | None:
    return cpu.unsupported_reason(mask_logits)


MASK_FUSION_DISPATCH = Operation(
    "mask_fusion",
    (
        Backend("cpu", cpu.mask_fusion, cpu.unsupported_reason),
        triton_backend("mask_fusion", "mask_fusion"),
        Backend("torch", reference.mask_fusion, no_reason),
    ),
)

ATTENTION_MASK_DISPATCH = Operation(
    "attention_mask",
    (
        Backend("cpu", cpu.attention_mask, _mask_reason),
        triton_backend("mask_fusion", "attention_mask"),
        Backend("torch", reference.attention_mask, no_reason),
    ),
)

MASK_FUSION_OP = register("mask_fusion", _mask_fusion, _fake_mask_fusion)
ATTENTION_MASK_OP = register("attention_mask", _attention_mask, _fake_attention_mask)
