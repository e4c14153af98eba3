"""Memory attention on Hopper: the CUDA library through ctypes, raw pointers and strides in, tensors out.

Status: the library compiles within its resource bounds and its layouts are checked on the CPU; not yet run on a GPU.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from x2sam_rt.errors import EngineError, KernelUnavailable
from x2sam_rt.kernels import fp8, libraries
from x2sam_rt.kernels.split import split_count

INSTALL_HINT = "reinstall x2sam-rt with nvcc and the nvidia-cutlass package (CMake's output says what was built)"
QUERY_TILE = 128  # queries per thread block
SKIP_ROWS = 64  # queries that skip a key block together
SKIP_BITS = 24.0  # a key block under 2^-24 of the best key cannot be seen in float32
DIMS = (64, 128, 256)
ALIGNMENT = 16  # bytes, of pointers and strides: what the copy engine asks for

_Pointer = ctypes.c_void_p


class _Attention(ctypes.Structure):
    """X2SamAttention of attention.h, field by field."""

    _fields_ = (
        *[(name, _Pointer) for name in ("query", "key", "value", "bias", "query_scale", "key_scale", "value_scale")],
        *[(name, _Pointer) for name in ("out", "lse", "skipped")],
        *[(name, ctypes.c_int64) for name in ("query_stride", "key_segment_stride", "key_stride")],
        *[(name, ctypes.c_int64) for name in ("value_segment_stride", "value_stride")],
        *[(name, ctypes.c_int32) for name in ("tokens", "segments", "segment_tokens", "dim", "parts")],
        *[(name, ctypes.c_float) for name in ("scale", "skip_bits")],
    )


@dataclass(frozen=True)
class SkipStats:
    """What a run with skipping left out: P·V products (64 queries × one key block each), of all there were."""

    skipped: int
    blocks: int


@cache
def load() -> ctypes.CDLL:
    """The installed library. Raises KernelUnavailable when it is missing or cannot be loaded."""
    path = libraries.find("x2sam_cuda")
    if path is None:
        raise KernelUnavailable(f"the CUDA kernels were not built; {INSTALL_HINT}")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelUnavailable(f"the CUDA kernels cannot be loaded ({error}); {INSTALL_HINT}") from error
    pointer, size, number = _Pointer, ctypes.c_int64, ctypes.c_int
    library.x2sam_slot_bias.argtypes = [
        pointer, size, pointer, pointer, number, number, number, ctypes.c_float, pointer
    ]  # fmt: skip
    library.x2sam_merge_parts.argtypes = [pointer, pointer, pointer, number, number, number, pointer]
    for attention in (library.x2sam_attention_bf16, library.x2sam_attention_fp8):
        attention.argtypes = [ctypes.POINTER(_Attention), pointer]
    library.x2sam_error_string.restype = ctypes.c_char_p
    return library


def obstacle(query: Tensor, *others: Tensor) -> str | None:
    """Why the library cannot take these tensors, or None."""
    for tensor in (query, *others):
        if not tensor.is_cuda or tensor.dtype != torch.bfloat16:
            return f"it takes bfloat16 on a CUDA device, got {tensor.dtype} on {tensor.device}"
    if query.shape[-1] not in DIMS:
        return f"dim must be one of {DIMS}, got {query.shape[-1]}"
    if torch.cuda.get_device_capability(query.device)[0] != 9:
        return f"it is compiled for Hopper (capability 9.0), found {torch.cuda.get_device_name(query.device)}"
    if not libraries.built("x2sam_cuda"):
        return f"the CUDA kernels were not built; {INSTALL_HINT}"
    return None


def self_attention(query: Tensor, key: Tensor, value: Tensor, *, parts: int | None = None) -> Tensor:
    """As `reference.self_attention`, bfloat16, dim 64, 128 or 256; rows may be strided. parts: chosen if not given."""
    return _attend(query, key[None], value[None], None, parts, None)[0]


def slot_attention(query: Tensor, key: Tensor, value: Tensor, key_shift: Tensor, *, parts: int | None = None) -> Tensor:
    """As `reference.slot_attention`, bfloat16; key and value are read where they lie in the ring."""
    return _attend(query, key, value, key_shift, parts, None)[0]


def slot_attention_skipping(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_shift: Tensor,
    *,
    bits: float = SKIP_BITS,
    parts: int | None = None,
) -> tuple[Tensor, SkipStats]:
    """`slot_attention` without the P·V product of key blocks that weigh under 2^-bits of every row's best key so far.

    "So far" starts anew in each part. Returns the result and what was left out; reading that waits for the device.
    """
    if bits < 0:
        raise EngineError(f"slot_attention_skipping: bits must not be negative, got {bits}")
    out, counter = _attend(query, key, value, key_shift, parts, bits)
    row_groups = -(-query.shape[0] // QUERY_TILE) * (QUERY_TILE // SKIP_ROWS)
    blocks = row_groups * key.shape[0] * -(-key.shape[1] // _key_block(query.shape[1]))
    return out, SkipStats(int(counter.item()), blocks)


def self_attention_fp8(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`self_attention` with e4m3 products; query, key, value bfloat16, dim 128 or 256. Approximate: opt-in."""
    count = fp8.self_segments(key.shape[0])
    slots = [tensor.reshape(count, -1, key.shape[1]) for tensor in (key, value)]
    shift = torch.zeros(count, key.shape[1], device=key.device)
    return slot_attention_fp8(query, fp8.quantise_slots(slots[0], slots[1]), shift)


def slot_attention_fp8(query: Tensor, slots: fp8.QuantisedSlots, key_shift: Tensor) -> Tensor:
    """`slot_attention` with e4m3 products, over slots quantised when they were stored. Approximate: opt-in.

    query: (tokens, dim) bfloat16, dim 128 or 256. key_shift: (slots, dim), any float type. Returns bfloat16.
    """
    _require(query)
    query = _readable(query)
    codes, query_scale = fp8.quantise_query(query)
    count, tokens, dim = slots.key.shape
    bias = _slot_bias(query, key_shift.float() + slots.key_mean)
    out, lse = _workspace(query, count)
    scales = (query_scale.data_ptr(), slots.key_scale.data_ptr(), slots.value_scale.data_ptr())
    pointers = (codes.data_ptr(), slots.key.data_ptr(), slots.value.data_ptr(), bias.data_ptr(), *scales)
    strides = (dim, *slots.key.stride()[:2], *slots.value.stride()[:2])
    sizes = (query.shape[0], count, tokens, dim, count)
    results = (out.data_ptr(), lse.data_ptr(), None)
    call = _Attention(*pointers, *results, *strides, *sizes, dim**-0.5, -1.0)
    _check(load().x2sam_attention_fp8(ctypes.byref(call), _stream(query)), "slot_attention_fp8")
    return out[0] if count == 1 else _merge(out, lse, query)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, shift: Tensor | None, parts: int | None, skip_bits: float | None
) -> tuple[Tensor, Tensor]:
    """key, value: (segments, tokens, dim). Returns the result and the skip counter, (1,) int64."""
    _require(query, key, value)
    counter = torch.zeros(1, dtype=torch.int64, device=query.device)
    if query.shape[0] == 0:
        return torch.empty_like(query), counter
    query, key, value = (_readable(tensor) for tensor in (query, key, value))
    segments, tokens, dim = key.shape
    blocks = segments * -(-tokens // _key_block(dim))
    parts = parts or split_count(-(-query.shape[0] // QUERY_TILE), blocks, _processors(query))
    out, lse = _workspace(query, parts)
    bias = None if shift is None else _slot_bias(query, shift.float())
    pointers = (query.data_ptr(), key.data_ptr(), value.data_ptr(), None if bias is None else bias.data_ptr())
    results = (out.data_ptr(), lse.data_ptr(), counter.data_ptr())
    strides = (query.stride(0), *key.stride()[:2], *value.stride()[:2])
    sizes = (query.shape[0], segments, tokens, dim, parts)
    bits = -1.0 if skip_bits is None else skip_bits
    call = _Attention(*pointers, None, None, None, *results, *strides, *sizes, dim**-0.5, bits)
    _check(load().x2sam_attention_bf16(ctypes.byref(call), _stream(query)), "attention")
    return (out[0] if parts == 1 else _merge(out, lse, query)), counter


def _slot_bias(query: Tensor, shift: Tensor) -> Tensor:
    """(slots, tokens) float32: what a slot's shift, (slots, dim) float32, adds to the scores, in powers of two."""
    (tokens, dim), slots = query.shape, shift.shape[0]
    shift = shift.contiguous()
    bias = torch.empty(slots, tokens, dtype=torch.float32, device=query.device)
    pointers = (query.data_ptr(), query.stride(0), shift.data_ptr(), bias.data_ptr())
    error = load().x2sam_slot_bias(*pointers, tokens, slots, dim, dim**-0.5, _stream(query))
    _check(error, "slot bias")
    return bias


def _merge(partial: Tensor, lse: Tensor, query: Tensor) -> Tensor:
    out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
    parts, tokens, dim = partial.shape
    pointers = (partial.data_ptr(), lse.data_ptr(), out.data_ptr())
    _check(load().x2sam_merge_parts(*pointers, tokens, parts, dim, _stream(query)), "merge of parts")
    return out


def _workspace(query: Tensor, parts: int) -> tuple[Tensor, Tensor]:
    """Room for the result, or in float32 for those of several parts: (parts, tokens, dim); and lse, (parts, tokens)."""
    dtype = query.dtype if parts == 1 else torch.float32
    out = torch.empty(parts, *query.shape, dtype=dtype, device=query.device)
    return out, torch.empty(parts, query.shape[0], dtype=torch.float32, device=query.device)


def _require(*tensors: Tensor) -> None:
    """Raises KernelUnavailable for tensors the library would misread."""
    found = obstacle(*tensors)
    if found is not None:
        raise KernelUnavailable(f"the CUDA kernels cannot be used: {found}")


def _readable(tensor: Tensor) -> Tensor:
    """The tensor itself if the copy engine can read it where it lies, else a dense copy."""
    steps = [stride * tensor.element_size() for stride in tensor.stride()[:-1]]
    fits = tensor.stride(-1) == 1 and all(step % ALIGNMENT == 0 and step > 0 for step in steps)
    return (
        tensor if fits and tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone(memory_format=torch.contiguous_format)
    )


def _key_block(dim: int) -> int:
    """Keys per block of the bfloat16 kernel."""
    return int(load().x2sam_key_block(dim))


def _processors(tensor: Tensor) -> int:
    return int(torch.cuda.get_device_properties(tensor.device).multi_processor_count)


def _stream(tensor: Tensor) -> int:
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


def _check(error: int, what: str) -> None:
    if error != 0:
        text = load().x2sam_error_string(error).decode()
        raise EngineError(f"{what}: the CUDA library reports error {error} ({text}); check the tensors' shapes")
