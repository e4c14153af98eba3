"""Memory attention on Hopper: the CUDA library through ctypes, raw pointers and strides in, tensors out.

Status: the library compiles within its resource bounds, and its PTX, run by the tests' emulator, gives the right
results; not yet run on a GPU.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from x2sam_rt.errors import EngineError, KernelUnavailable
from x2sam_rt.kernels import availability, fp8
from x2sam_rt.kernels.split import part_count

INSTALL_HINT = "reinstall x2sam-rt with nvcc and the nvidia-cutlass package (CMake's output says what was built)"
HOPPER = (9, 0)
CLUSTER = 2  # thread blocks that share keys and values: they come in pairs
SKIP_ROWS = 64  # queries that skip a key block together
SKIP_BITS = 24.0  # a key block under 2^-24 of the best key cannot be seen in float32
DIMS = (64, 128, 256)
FP8_DIMS = (128, 256)
ALIGNMENT = 16  # bytes, of pointers and strides: what the copy engine asks for
LEAST_DRIVER = {11: "450", 12: "525", 13: "580"}  # of each CUDA generation

_Pointer = ctypes.c_void_p


class Call(ctypes.Structure):
    """X2SamAttention of attention.h, field by field."""

    _fields_ = (
        *[(name, _Pointer) for name in ("query", "key", "value", "shift", "plain_query")],
        *[(name, _Pointer) for name in ("key_mean", "query_scale", "block_scales", "value_scale")],
        *[(name, _Pointer) for name in ("out", "workspace", "skipped")],
        *[(name, ctypes.c_int64) for name in ("query_stride", "key_segment_stride", "key_stride")],
        *[(name, ctypes.c_int64) for name in ("value_segment_stride", "value_stride")],
        *[(name, ctypes.c_int64) for name in ("shift_stride", "plain_query_stride")],
        *[(name, ctypes.c_int32) for name in ("tokens", "segments", "segment_tokens", "dim", "parts")],
        *[(name, ctypes.c_int32) for name in ("processors", "device")],
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
    path = availability.library("x2sam_cuda")
    if path is None:
        raise KernelUnavailable(f"the CUDA kernels were not built; {INSTALL_HINT}")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise KernelUnavailable(f"the CUDA kernels cannot be loaded ({error}); {INSTALL_HINT}") from error
    for attention in (library.x2sam_attention_bf16, library.x2sam_attention_fp8):
        attention.argtypes = [_Pointer, _Pointer]
    library.x2sam_attention_workspace.argtypes = [_Pointer]
    library.x2sam_attention_workspace.restype = ctypes.c_int64
    library.x2sam_error_string.restype = ctypes.c_char_p
    return library


def unsupported_reason(query: Tensor, *others: Tensor) -> str | None:
    """Why the library cannot take these tensors, or None. Last axes that are not dense are copied."""
    for tensor in (query, *others):
        if not tensor.is_cuda or tensor.dtype != torch.bfloat16:
            return f"it takes bfloat16 on a CUDA device, got {tensor.dtype} on {tensor.device}"
    if query.shape[-1] not in DIMS:
        return f"dim must be one of {DIMS}, got {query.shape[-1]}"
    return device_reason(query.device)


@cache
def device_reason(device: torch.device) -> str | None:
    """Why the library cannot run on this device at all, or None. Asked once: nothing of it changes."""
    if device.type != "cuda":
        return f"it runs on a CUDA device, got {device}"
    found = availability.gpu(device)
    if found.capability != HOPPER:
        return f"it is compiled for Hopper (capability 9.0), found {found}"
    if not availability.has_library("x2sam_cuda"):
        return f"the CUDA kernels were not built; {INSTALL_HINT}"
    return driver_reason(*_cuda_versions())


def driver_reason(driver: int, runtime: int) -> str | None:
    """Why a driver cannot run the library, or None. Both: CUDA versions, 1000 · major + 10 · minor; driver 0: none."""
    if driver // 1000 >= runtime // 1000:
        return None
    found = "there is none" if driver == 0 else f"the one here serves CUDA {_version(driver)}"
    wanted = LEAST_DRIVER.get(runtime // 1000)
    release = "" if wanted is None else f" ({wanted} or newer)"
    return (
        f"the library was built with CUDA {_version(runtime)} and needs a driver of that generation{release}, but "
        f"{found}; update the driver, or reinstall x2sam-rt with an older nvcc"
    )


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _cuda_versions() -> tuple[int, int]:
    """The newest CUDA that the driver serves, and the one that the library was built with."""
    driver, runtime = ctypes.c_int(), ctypes.c_int()
    _check(load().x2sam_cuda_versions(ctypes.byref(driver), ctypes.byref(runtime)), "CUDA versions")
    return driver.value, runtime.value


def self_attention(query: Tensor, key: Tensor, value: Tensor, *, parts: int | None = None) -> Tensor:
    """As `reference.self_attention`, bfloat16, dim 64, 128 or 256; rows may be strided. parts: chosen if not given."""
    return _attend(query, key, value, None, parts, None)


def slot_attention(query: Tensor, key: Tensor, value: Tensor, key_shift: Tensor, *, parts: int | None = None) -> Tensor:
    """As `reference.slot_attention`, bfloat16; key and value are read where they lie in the ring."""
    return _attend(query, key, value, key_shift, parts, None)


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
    _require(query, key, value, key_shift)
    counter = torch.zeros(1, dtype=torch.int64, device=query.device)
    out = _attend(query, key, value, key_shift, parts, Skipping(bits, counter))
    blocks = -(-query.shape[0] // SKIP_ROWS) * key.shape[0] * -(-key.shape[1] // _key_block(query.shape[1]))
    return out, SkipStats(int(counter.item()), blocks)


def self_attention_fp8(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """`self_attention` with e4m3 products; query, key, value bfloat16, dim 128 or 256. Approximate: opt-in."""
    count = fp8.self_segments(key.shape[0])
    slots = [tensor.reshape(count, -1, key.shape[1]) for tensor in (key, value)]
    return slot_attention_fp8(query, fp8.quantise_slots(slots[0], slots[1]), None)


def slot_attention_fp8(query: Tensor, slots: fp8.QuantisedSlots, key_shift: Tensor | None) -> Tensor:
    """`slot_attention` with e4m3 products, over slots quantised when they were stored. Approximate: opt-in.

    query: (tokens, dim) bfloat16, dim 128 or 256. key_shift: (slots, dim) bfloat16, or None for none. Returns bfloat16.
    """
    _require(query, *(() if key_shift is None else (key_shift,)))
    if query.shape[1] not in FP8_DIMS:
        raise KernelUnavailable(f"the fp8 kernels cannot be used: dim must be one of {FP8_DIMS}, got {query.shape[1]}")
    out = query.new_empty(query.shape)
    if query.shape[0] == 0:
        return out
    query, shift = _readable(query), None if key_shift is None else _readable(key_shift)
    codes, query_scale = fp8.quantise_query(query)
    count, tokens, dim = slots.key.shape
    scales = (query_scale.data_ptr(), slots.block_scales.data_ptr(), slots.value_scale.data_ptr())
    factors = (codes.data_ptr(), slots.key.data_ptr(), slots.value.data_ptr())
    biases = (None if shift is None else shift.data_ptr(), query.data_ptr(), slots.key_mean.data_ptr())
    strides = (dim, *slots.key.stride()[:2], *slots.value.stride()[:2])
    bias_strides = (0 if shift is None else shift.stride(0), query.stride(0))
    sizes = (query.shape[0], count, tokens, dim, count, _processors(query), _device(query))
    results = (out.data_ptr(), None, None)
    call = Call(*factors, *biases, *scales, *results, *strides, *bias_strides, *sizes, dim**-0.5, -1.0)
    _run(load().x2sam_attention_fp8, call, query)
    return out


@dataclass(frozen=True, eq=False)
class Skipping:
    """bits: see `slot_attention_skipping`. counter: (1,) int64, added to."""

    bits: float
    counter: Tensor


def _attend(
    query: Tensor, key: Tensor, value: Tensor, shift: Tensor | None, parts: int | None, skipping: Skipping | None
) -> Tensor:
    """key, value: ([segments,] tokens, dim)."""
    tokens, dim = query.shape
    out = query.new_empty((tokens, dim))
    segments = key.shape[0] if key.dim() == 3 else 1
    blocks = segments * -(-key.shape[-2] // _key_block(dim))
    tiles = -(-tokens // (CLUSTER * _query_tile(dim))) * CLUSTER
    parts = part_count(parts, tiles, blocks, _processors(query))
    if tokens == 0:
        return out
    query, key, value = _readable(query), _readable(key), _readable(value)
    shift = None if shift is None else _readable(shift)
    pointers = (query.data_ptr(), key.data_ptr(), value.data_ptr(), None if shift is None else shift.data_ptr())
    results = (out.data_ptr(), None, None if skipping is None else skipping.counter.data_ptr())
    strides = (query.stride(0), *_strides(key), *_strides(value), 0 if shift is None else shift.stride(0), 0)
    sizes = (tokens, segments, key.shape[-2], dim, parts, _processors(query), _device(query))
    bits = -1.0 if skipping is None else skipping.bits
    call = Call(*pointers, None, None, None, None, None, *results, *strides, *sizes, dim**-0.5, bits)
    _run(load().x2sam_attention_bf16, call, query)
    return out


def _run(function: ctypes._NamedFuncPointer, call: Call, query: Tensor) -> None:
    """Takes the workspace from torch's allocator, which knows the stream, and launches on the current stream."""
    reference = ctypes.byref(call)
    size = load().x2sam_attention_workspace(reference)
    if size:
        workspace = torch.empty(size, dtype=torch.uint8, device=query.device)
        call.workspace = workspace.data_ptr()
    _check(function(reference, _stream(query)), "attention")


def _require(*tensors: Tensor) -> None:
    """Raises KernelUnavailable for tensors the library would misread."""
    found = unsupported_reason(*tensors)
    if found is not None:
        raise KernelUnavailable(f"the CUDA kernels cannot be used: {found}")


def _readable(tensor: Tensor) -> Tensor:
    """The tensor itself if the copy engine can read it where it lies, else a dense copy."""
    *steps, last = tensor.stride()
    fits = last == 1 and tensor.data_ptr() % ALIGNMENT == 0
    for step in steps:
        fits = fits and step > 0 and step * tensor.element_size() % ALIGNMENT == 0
    return tensor if fits else tensor.clone(memory_format=torch.contiguous_format)


def _strides(tensor: Tensor) -> tuple[int, int]:
    """Elements from segment to segment and from key to key of ([segments,] tokens, dim)."""
    return (tensor.stride(0), tensor.stride(1)) if tensor.dim() == 3 else (tensor.numel(), tensor.stride(0))


@cache
def _key_block(dim: int) -> int:
    """Keys per block of the bfloat16 kernel."""
    return int(load().x2sam_key_block(dim))


@cache
def _query_tile(dim: int) -> int:
    """Queries per thread block of the bfloat16 kernel."""
    return int(load().x2sam_query_tile(dim))


def _processors(tensor: Tensor) -> int:
    return availability.gpu(tensor.device).processors


def _device(tensor: Tensor) -> int:
    return tensor.get_device()


def _stream(tensor: Tensor) -> int:
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


def _check(error: int, what: str) -> None:
    if error != 0:
        text = load().x2sam_error_string(error).decode()
        raise EngineError(f"{what}: the CUDA library reports error {error} ({text}); check the tensors' shapes")
