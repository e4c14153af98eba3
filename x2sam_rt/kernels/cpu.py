"""The CPU library through ctypes: raw pointers and strides in, tensors out; float32, and bfloat16 in attention."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from x2sam_rt.errors import KernelUnavailable
from x2sam_rt.kernels.availability import has_library, library
from x2sam_rt.kernels.contract import dense_maps, dense_rows

if TYPE_CHECKING:
    import onnxruntime

INSTALL_HINT = "reinstall x2sam-rt with GCC or Clang on PATH (CMake's output says what was built)"
DIM_STEP = 16  # channels of memory attention come in whole vectors of the widest instruction set

_Pointer = ctypes.c_void_p
_Size = ctypes.c_int64


class _Attention(ctypes.Structure):
    _fields_ = (
        *[(name, _Pointer) for name in ("query", "key", "value", "key_shift", "out")],
        *[(name, _Size) for name in ("queries", "slots", "slot_tokens", "dim", "query_row")],
        *[(name, _Size) for name in ("key_slot", "key_row", "value_slot", "value_row", "shift_row")],
    )


class _Deformable(ctypes.Structure):
    _fields_ = (
        *[(name, _Pointer) for name in ("value", "spatial_shapes", "locations", "weights", "out")],
        *[(name, _Size) for name in ("batch", "tokens", "heads", "head_dim", "queries", "levels", "points")],
        *[(name, _Size) for name in ("value_batch", "value_token", "value_head")],
    )


class _DeformableGrad(ctypes.Structure):
    _fields_ = (
        ("forward", _Deformable),
        *[(name, _Pointer) for name in ("grad_value", "grad_locations", "grad_weights")],
    )


class _MaskFusion(ctypes.Structure):
    _fields_ = (
        *[(name, _Pointer) for name in ("class_logits", "mask_logits", "out")],
        *[(name, _Size) for name in ("queries", "classes", "pixels", "class_row", "mask_row")],
    )


class _AttentionMask(ctypes.Structure):
    _fields_ = (
        *[(name, _Pointer) for name in ("mask_logits", "out")],
        *[(name, _Size) for name in ("queries", "height", "width", "out_height", "out_width")],
        *[(name, _Size) for name in ("mask_query", "mask_row")],
    )


@cache
def _library() -> ctypes.CDLL:
    path = library("x2sam_cpu")
    if path is None:
        raise KernelUnavailable(f"the CPU kernels were not built; {INSTALL_HINT}")
    loaded = ctypes.CDLL(str(path))
    loaded.x2sam_isa.restype = ctypes.c_char_p
    loaded.x2sam_onnxruntime_calls.restype = ctypes.c_int64
    return loaded


def instruction_set() -> str:
    """ "avx512", "avx2" or "baseline": what the library chose for this processor. Raises KernelUnavailable."""
    name: bytes = _library().x2sam_isa()
    return name.decode()


def register_with_onnxruntime(options: onnxruntime.SessionOptions) -> None:
    """Lets sessions made from `options` run these kernels as operators. For sessions on the CPU provider only.

    An operator with a registered kernel is not replaced by its body in the model. Raises KernelUnavailable when the
    library was not built; without it the model runs through its bodies.
    """
    path = library("x2sam_cpu")
    if path is None:
        raise KernelUnavailable(f"ONNX Runtime's native operators were not built; {INSTALL_HINT}")
    options.register_custom_ops_library(str(path))


def onnxruntime_calls() -> int:
    """How often ONNX Runtime has run one of the library's operators in this process. Raises KernelUnavailable."""
    return int(_library().x2sam_onnxruntime_calls())


def multiplies_bfloat16() -> bool:
    """Whether the library and this processor have bfloat16 instructions (AVX512-BF16). Raises KernelUnavailable."""
    return bool(_library().x2sam_has_bf16())


def unsupported_reason(*tensors: Tensor, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> str | None:
    """Why the library cannot take these tensors, or None."""
    for tensor in tensors:
        if tensor.device.type != "cpu" or tensor.dtype not in dtypes:
            names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
            return f"it takes {names} on the CPU, got {tensor.dtype} on {tensor.device}"
    if not has_library("x2sam_cpu"):
        return f"the CPU kernels were not built; {INSTALL_HINT}"
    return None


def _call(function: str, arguments: ctypes.Structure) -> None:
    threads = ctypes.c_size_t(torch.get_num_threads())
    if _library()[function](ctypes.byref(arguments), threads) != 0:
        raise MemoryError(f"{function}: no memory for the kernel's work space")


def self_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As `reference.self_attention`, float32 or (where `multiplies_bfloat16`) bfloat16, dim a multiple of 16.

    bfloat16: sums and the softmax are float32; only the weights of the values and the result are rounded.
    """
    return _attend(query, key[None], value[None], None)


def slot_attention(query: Tensor, key: Tensor, value: Tensor, key_shift: Tensor) -> Tensor:
    """As `reference.slot_attention`; dtypes and dim as `self_attention`; keys and values are read where they lie."""
    return _attend(query, key, value, dense_rows(key_shift))


def _attend(query: Tensor, key: Tensor, value: Tensor, shift: Tensor | None) -> Tensor:
    query, key, value = dense_rows(query), dense_rows(key), dense_rows(value)
    out = torch.empty(query.shape, dtype=query.dtype)
    pointers = (query.data_ptr(), key.data_ptr(), value.data_ptr(), None if shift is None else shift.data_ptr())
    sizes = (query.shape[0], *key.shape)
    strides = (query.stride(0), *key.stride()[:2], *value.stride()[:2], 0 if shift is None else shift.stride(0))
    function = "x2sam_attention_bf16" if query.dtype == torch.bfloat16 else "x2sam_attention"
    _call(function, _Attention(*pointers, out.data_ptr(), *sizes, *strides))
    return out


def deformable_attention(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """As `reference.deformable_attention`, float32."""
    value, locations, weights = dense_rows(value), locations.contiguous(), weights.contiguous()
    batch, queries, heads = weights.shape[:3]
    out = torch.empty(batch, queries, heads * value.shape[-1])
    shapes = _shape_table(spatial_shapes)
    _call("x2sam_deformable", _deformable(value, shapes, locations, weights, out))
    return out


def deformable_gradient(
    grad: Tensor, value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations and weights; grad: (batch, queries, heads · head_dim), all float32."""
    value, locations, weights, grad = (
        dense_rows(value), locations.contiguous(), weights.contiguous(), grad.contiguous()
    )  # fmt: skip
    grad_value = torch.zeros(value.shape)
    grad_locations, grad_weights = torch.empty(locations.shape), torch.empty(weights.shape)
    shapes = _shape_table(spatial_shapes)
    gradients = (grad_value, grad_locations, grad_weights)
    forward = _deformable(value, shapes, locations, weights, grad)
    _call("x2sam_deformable_grad", _DeformableGrad(forward, *(tensor.data_ptr() for tensor in gradients)))
    return gradients


def _shape_table(spatial_shapes: Sequence[tuple[int, int]]) -> ctypes.Array[ctypes.c_int64]:
    flat = [size for shape in spatial_shapes for size in shape]
    return (_Size * len(flat))(*flat)


def _deformable(
    value: Tensor, shapes: ctypes.Array[ctypes.c_int64], locations: Tensor, weights: Tensor, out: Tensor
) -> _Deformable:
    pointers = (value.data_ptr(), ctypes.addressof(shapes), locations.data_ptr(), weights.data_ptr(), out.data_ptr())
    _, queries, _, levels, points = weights.shape
    return _Deformable(*pointers, *value.shape, queries, levels, points, *value.stride()[:3])


def mask_fusion(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """As `reference.mask_fusion`, float32."""
    class_logits, mask_logits = dense_rows(class_logits), dense_maps(mask_logits)
    out = torch.empty(mask_logits.shape[1:])
    pointers = (class_logits.data_ptr(), mask_logits.data_ptr(), out.data_ptr())
    strides = (class_logits.stride(0), mask_logits.stride(0))
    _call("x2sam_mask_fusion", _MaskFusion(*pointers, *class_logits.shape, out.numel(), *strides))
    return out


def attention_mask(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """As `reference.attention_mask`, float32."""
    mask_logits = dense_rows(mask_logits)
    out = torch.empty(mask_logits.shape[0], size[0] * size[1], dtype=torch.bool)
    pointers = (mask_logits.data_ptr(), out.data_ptr())
    _call("x2sam_attention_mask", _AttentionMask(*pointers, *mask_logits.shape, *size, *mask_logits.stride()[:2]))
    return out
