"""Memory attention through torch's cuDNN attention: the baseline, and the fast path of a GPU without our library.

Status: not yet run on a GPU.

cuDNN is asked for by name. torch's own choice may be FlashAttention-2 without a word, at half the speed on Hopper;
here a machine without cuDNN attention gets an error instead.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from x2sam_rt.errors import KernelUnavailable
from x2sam_rt.kernels.split import merge_parts


def self_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """As `reference.self_attention`, bfloat16 or float16 on a CUDA device.

    Raises KernelUnavailable when the tensors are not there, RuntimeError of torch when cuDNN refuses them.
    """
    _require_cuda(query)
    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
        return F.scaled_dot_product_attention(query[None, None], key[None, None], value[None, None])[0, 0]


def slot_attention(query: Tensor, key: Tensor, value: Tensor, key_shift: Tensor) -> Tensor:
    """As `reference.slot_attention`: the slots are a batch, merged by the logarithm of their sums of exponentials.

    The temporal term adds q·shift to all scores of a slot, hence to that logarithm; it never enters cuDNN.
    """
    _require_cuda(query)
    slots, dim = key.shape[0], query.shape[1]
    queries = query.expand(slots, -1, -1).contiguous()
    result = torch.ops.aten._scaled_dot_product_cudnn_attention(
        queries[:, None], key[:, None], value[:, None], None, True
    )
    bias = (query.float() @ key_shift.float().T).T / dim**0.5
    lse = result[1].reshape(slots, query.shape[0]) + bias
    return merge_parts(result[0][:, 0], lse)


def _require_cuda(query: Tensor) -> None:
    if not query.is_cuda:
        raise KernelUnavailable(f"cuDNN attention needs CUDA tensors, got {query.device}; move them to a GPU")
