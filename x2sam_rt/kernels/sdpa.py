"""Memory attention through torch's cuDNN attention: the library's choice on Hopper, and the baseline there.

Status: not yet run on a GPU.

cuDNN is asked for by name. torch's own choice may be FlashAttention-2 without a word, at half the speed on Hopper;
here a machine without cuDNN attention gets an error instead. On other GPUs torch's own choice is as fast or faster.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from x2sam_rt.errors import KernelUnavailable
from x2sam_rt.kernels.availability import gpu
from x2sam_rt.kernels.contract import dense_rows
from x2sam_rt.kernels.split import merge_parts

HOPPER = (9, 0)
LEAST_CAPABILITY = (8, 0)
DIM_STEP = 8
MOST_DIM = {True: 256, False: 128}  # on Hopper, and elsewhere


def unsupported_reason(query: Tensor, *others: Tensor) -> str | None:
    """Why cuDNN cannot take these tensors, or None."""
    for tensor in (query, *others):
        if not tensor.is_cuda or tensor.dtype not in (torch.bfloat16, torch.float16):
            return f"it takes bfloat16 or float16 on a CUDA device, got {tensor.dtype} on {tensor.device}"
    if not torch.backends.cudnn.is_available():  # type: ignore[no-untyped-call]
        return "this PyTorch has no cuDNN; install a CUDA build of it"
    found, dim = gpu(query.device), query.shape[-1]
    if found.capability < LEAST_CAPABILITY:
        return f"its attention needs capability 8.0 or newer, found {found}"
    most = MOST_DIM[found.capability == HOPPER]
    if dim % DIM_STEP or dim > most:
        return f"dim must be a multiple of {DIM_STEP} up to {most} on {found}, got {dim}"
    return None


def passed_over_reason(query: Tensor, *_: Tensor) -> str | None:
    """Why torch's own choice of library is preferred for these tensors, or None."""
    found = gpu(query.device)
    return None if found.capability == HOPPER else f"on {found} torch's own choice is as fast or faster"


def self_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As `reference.self_attention`, bfloat16 or float16 on a CUDA device.

    Raises KernelUnavailable when the tensors are not there, RuntimeError of torch when cuDNN refuses them.
    """
    _require_cuda(query)
    if query.shape[0] == 0:
        return query.new_empty(query.shape)
    q, k, v = (dense_rows(tensor)[None, None] for tensor in (query, key, value))
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
        return F.scaled_dot_product_attention(q, k, v)[0, 0]


def slot_attention(query: Tensor, key: Tensor, value: Tensor, key_shift: Tensor) -> Tensor:
    """As `reference.slot_attention`: the slots are a batch, merged by the logarithm of their sums of exponentials.

    The temporal term adds q·shift to all scores of a slot, hence to that logarithm; it never enters cuDNN.
    """
    _require_cuda(query)
    if query.shape[0] == 0:
        return query.new_empty(query.shape)
    slots, dim = key.shape[0], query.shape[1]
    queries = query.expand(slots, -1, -1).contiguous()
    key, value = dense_rows(key), dense_rows(value)
    result = torch.ops.aten._scaled_dot_product_cudnn_attention(
        queries[:, None], key[:, None], value[:, None], None, True
    )
    bias = (query.float() @ key_shift.float().T).T / dim**0.5
    lse = result[1].reshape(slots, query.shape[0]) + bias
    return merge_parts(result[0][:, 0], lse)


def _require_cuda(query: Tensor) -> None:
    if not query.is_cuda:
        raise KernelUnavailable(f"cuDNN attention needs CUDA tensors, got {query.device}; move them to a GPU")
