"""Memory attention: one head over a scale's own tokens, or over the slots of the memory bank.

Source: X2SAM, memory attention (four layers of self- and cross-attention, one head of the model's full width).
"""

from __future__ import annotations

import torch
from torch import Tensor

from x2sam_rt.kernels import cuda, native, reference, sdpa
from x2sam_rt.kernels.contract import Contract
from x2sam_rt.kernels.dispatch import Backend, Operation, needs_grad, no_obstacle, require_torch
from x2sam_rt.kernels.lazy import triton_backend
from x2sam_rt.kernels.registration import register


def self_attention(query: Tensor, key: Tensor, value: Tensor, *, backend: str = "auto") -> Tensor:
    """One-head attention over a scale's own tokens, scores scaled by 1/√dim.

    query: (queries, dim); key, value: (tokens, dim), one float dtype; rows may be strided. Returns (queries, dim).
    backend: "auto", "native" (CPU, float32; bfloat16 on processors with AVX512-BF16), "cuda" (Hopper, bfloat16),
    "cudnn" (CUDA, bfloat16 or float16), "triton" (CUDA) or "torch"; "auto" is native on a CPU and torch elsewhere.
    For bfloat16 on other CPUs it is torch too: converting to float32 for the native kernel is no faster than torch
    with AVX-512 and slower with less. Memory does not grow as queries × tokens.
    Raises EngineError when the tensors do not fit, KernelUnavailable when the backend cannot serve.
    """
    if needs_grad(query, key, value):
        require_torch("self_attention", backend)
        return reference.self_attention(query, key, value)
    out: Tensor = SELF_OPERATION(query, key, value, backend)
    return out


def slot_attention(query: Tensor, key: Tensor, value: Tensor, key_shift: Tensor, *, backend: str = "auto") -> Tensor:
    """One-head attention to a memory of slots, all slots under one softmax, scores scaled by 1/√dim.

    query: (queries, dim). key, value: (slots, slot_tokens, dim), keys without their temporal term; a prefix of a
    ring is read in place. key_shift: (slots, dim), each slot's projected temporal term, added to all its keys.
    Returns (queries, dim). Backends and errors as `self_attention`; no slot at all is an EngineError.
    """
    if needs_grad(query, key, value, key_shift):
        require_torch("slot_attention", backend)
        return reference.slot_attention(query, key, value, key_shift)
    out: Tensor = SLOT_OPERATION(query, key, value, key_shift, backend)
    return out


def _self_attention(query: Tensor, key: Tensor, value: Tensor, backend: str) -> Tensor:
    contract = Contract("self_attention")
    contract.match("query", query, "queries dim")
    contract.match("key", key, "tokens dim")
    contract.match("value", value, "tokens dim")
    contract.at_least("tokens", 1, "there is nothing to attend to")
    return SELF_ATTENTION(backend, query, key, value)


def _slot_attention(query: Tensor, key: Tensor, value: Tensor, key_shift: Tensor, backend: str) -> Tensor:
    contract = Contract("slot_attention")
    contract.match("query", query, "queries dim")
    contract.match("key", key, "slots slot_tokens dim")
    contract.match("value", value, "slots slot_tokens dim")
    contract.match("key_shift", key_shift, "slots dim")
    contract.at_least("slots", 1, "the first frame of a stream has no memory and skips memory attention")
    contract.at_least("slot_tokens", 1, "there is nothing to attend to")
    return SLOT_ATTENTION(backend, query, key, value, key_shift)


def _fake_self_attention(query: Tensor, key: Tensor, value: Tensor, backend: str) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def _fake_slot_attention(query: Tensor, key: Tensor, value: Tensor, key_shift: Tensor, backend: str) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def _cudnn_obstacle(*tensors: Tensor) -> str | None:
    for tensor in tensors:
        if not tensor.is_cuda or tensor.dtype not in (torch.bfloat16, torch.float16):
            return f"it takes bfloat16 or float16 on a CUDA device, got {tensor.dtype} on {tensor.device}"
    return None


def _native_obstacle(query: Tensor, *others: Tensor) -> str | None:
    if query.shape[-1] % native.DIM_STEP:
        return f"dim must be a multiple of {native.DIM_STEP}, got {query.shape[-1]}"
    obstacle = native.obstacle(query, *others, dtypes=(torch.float32, torch.bfloat16))
    if obstacle is None and query.dtype == torch.bfloat16 and not native.multiplies_bfloat16():
        return "bfloat16 needs a processor with AVX512-BF16 and a compiler that knows it; use float32"
    return obstacle


SELF_ATTENTION = Operation(
    "self_attention",
    (
        Backend("native", native.self_attention, _native_obstacle),
        Backend("cuda", cuda.self_attention, cuda.obstacle, automatic=False),
        Backend("cudnn", sdpa.self_attention, _cudnn_obstacle, automatic=False),
        triton_backend("attention", "self_attention", automatic=False),
        Backend("torch", reference.self_attention, no_obstacle),
    ),
)

SLOT_ATTENTION = Operation(
    "slot_attention",
    (
        Backend("native", native.slot_attention, _native_obstacle),
        Backend("cuda", cuda.slot_attention, cuda.obstacle, automatic=False),
        Backend("cudnn", sdpa.slot_attention, _cudnn_obstacle, automatic=False),
        triton_backend("attention", "slot_attention", automatic=False),
        Backend("torch", reference.slot_attention, no_obstacle),
    ),
)

SELF_OPERATION = register("self_attention", _self_attention, _fake_self_attention)
SLOT_OPERATION = register("slot_attention", _slot_attention, _fake_slot_attention)
