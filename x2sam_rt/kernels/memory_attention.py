"""Memory attention: one head over a scale's own tokens, or over the slots of the memory bank.

Source: X2SAM, memory attention (four layers of self- and cross-attention, one head of the model's full width).
"""

from __future__ import annotations

import torch
from torch import Tensor

from x2sam_rt.kernels import cpu, cuda, reference, sdpa
from x2sam_rt.kernels.contract import Contract
from x2sam_rt.kernels.dispatch import Backend, Operation, needs_grad, no_reason, register, require_torch
from x2sam_rt.kernels.triton import triton_backend

TRITON_DIMS = (16, 32, 64, 128, 256)  # a matrix instruction's least, and the most whose tiles fit shared memory


def self_attention(query: Tensor, key: Tensor, value: Tensor, *, backend: str = "auto") -> Tensor:
    """One-head attention over a scale's own tokens, scores scaled by 1/√dim.

    query: (queries, dim); key, value: (tokens, dim), one float dtype; rows may be strided. Returns (queries, dim).
    backend: "cpu" (float32; bfloat16 on processors with AVX512-BF16), "cuda" (Hopper, bfloat16), "triton" (CUDA, dim a
    power of two), "cudnn" (CUDA, bfloat16 or float16), "torch", or "auto": the first of these that serves the tensors,
    cudnn on Hopper only. For bfloat16 on other CPUs that is torch: converting to float32 for our kernel is no faster
    than torch with AVX-512 and slower with less. Memory does not grow as queries × tokens.
    Raises EngineError when the tensors do not fit, KernelUnavailable when the backend cannot serve.
    """
    if needs_grad(query, key, value):
        require_torch("self_attention", backend)
        return reference.self_attention(query, key, value)
    out: Tensor = SELF_ATTENTION_OP(query, key, value, backend)
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
    out: Tensor = SLOT_ATTENTION_OP(query, key, value, key_shift, backend)
    return out


def _self_attention(query: Tensor, key: Tensor, value: Tensor, backend: str) -> Tensor:
    contract = Contract("self_attention")
    contract.match("query", query, "queries dim")
    contract.match("key", key, "tokens dim")
    contract.match("value", value, "tokens dim")
    contract.at_least("tokens", 1, "there is nothing to attend to")
    return SELF_ATTENTION_DISPATCH(backend, query, key, value)


def _slot_attention(query: Tensor, key: Tensor, value: Tensor, key_shift: Tensor, backend: str) -> Tensor:
    contract = Contract("slot_attention")
    contract.match("query", query, "queries dim")
    contract.match("key", key, "slots slot_tokens dim")
    contract.match("value", value, "slots slot_tokens dim")
    contract.match("key_shift", key_shift, "slots dim")
    contract.at_least("slots", 1, "the first frame of a stream has no memory and skips memory attention")
    contract.at_least("slot_tokens", 1, "there is nothing to attend to")
    return SLOT_ATTENTION_DISPATCH(backend, query, key, value, key_shift)


def _fake_self_attention(query: Tensor, key: Tensor, value: Tensor, backend: str) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def _fake_slot_attention(query: Tensor, key: Tensor, value: Tensor, key_shift: Tensor, backend: str) -> Tensor:
    return torch.empty_like(query, memory_format=torch.contiguous_format)


def _cpu_reason(query: Tensor, *others: Tensor) -> str | None:
    if query.shape[-1] % cpu.DIM_STEP:
        return f"dim must be a multiple of {cpu.DIM_STEP}, got {query.shape[-1]}"
    reason = cpu.unsupported_reason(query, *others, dtypes=(torch.float32, torch.bfloat16))
    if reason is None and query.dtype == torch.bfloat16 and not cpu.multiplies_bfloat16():
        return "bfloat16 needs a processor with AVX512-BF16 and a compiler that knows it; use float32"
    return reason


def _triton_reason(query: Tensor, *_: Tensor) -> str | None:
    dim = query.shape[-1]
    return None if dim in TRITON_DIMS else f"dim must be one of {TRITON_DIMS}, got {dim}"


SELF_ATTENTION_DISPATCH = Operation(
    "self_attention",
    (
        Backend("cpu", cpu.self_attention, _cpu_reason),
        Backend("cuda", cuda.self_attention, cuda.unsupported_reason),
        triton_backend("attention", "self_attention", _triton_reason),
        Backend("cudnn", sdpa.self_attention, sdpa.unsupported_reason, sdpa.passed_over_reason),
        Backend("torch", reference.self_attention, no_reason),
    ),
)

SLOT_ATTENTION_DISPATCH = Operation(
    "slot_attention",
    (
        Backend("cpu", cpu.slot_attention, _cpu_reason),
        Backend("cuda", cuda.slot_attention, cuda.unsupported_reason),
        triton_backend("attention", "slot_attention", _triton_reason),
        Backend("cudnn", sdpa.slot_attention, sdpa.unsupported_reason, sdpa.passed_over_reason),
        Backend("torch", reference.slot_attention, no_reason),
    ),
)

SELF_ATTENTION_OP = register("self_attention", _self_attention, _fake_self_attention)
SLOT_ATTENTION_OP = register("slot_attention", _slot_attention, _fake_slot_attention)
