# Kernel arguments are device values without Python types, and compile-time constants are upper case by custom.
# ruff: noqa: N803
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
"""Mask fusion and the decoder's attention masks in Triton, each in one pass over the mask logits.

Status: checked in Triton's interpreter and compiled for sm_80 and sm_90a; not yet run on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from x2sam_rt.kernels.contract import dense_maps, dense_rows
from x2sam_rt.kernels.triton import on_its_device

PIXEL_TILE = 128
QUERY_TILE = 16
MASK_TILE = 1024


@triton.jit
def _log_scores(class_logits, out, conditions, row_stride, LANES: tl.constexpr):
    """log max(score, 1e-6) of one query; score = the best real condition's share (the last one is background)."""
    query = tl.program_id(0)
    lanes = tl.arange(0, LANES)
    row = class_logits + query.to(tl.int64) * row_stride
    logits = tl.load(row + lanes, mask=lanes < conditions, other=float("-inf")).to(tl.float32)
    share = tl.exp(logits - tl.max(logits, 0))
    best = tl.max(tl.where(lanes < conditions - 1, share, 0.0), 0) / tl.sum(share, 0)
    tl.store(out + query, tl.log(tl.maximum(best, 1e-6)))


@triton.jit
def _fuse(mask_logits, log_scores, out, queries, pixels, query_stride, TILE_Q: tl.constexpr, TILE_P: tl.constexpr):
    """Softmax over the queries and its weighted sum of sigmoids, kept as running maximum, total and sum."""
    columns = tl.program_id(0) * TILE_P + tl.arange(0, TILE_P)
    live = columns < pixels
    top = tl.full((TILE_P,), float("-inf"), tl.float32)
    total = tl.zeros((TILE_P,), tl.float32)
    acc = tl.zeros((TILE_P,), tl.float32)
    for start in range(0, queries, TILE_Q):
        rows = start + tl.arange(0, TILE_Q)
        real = rows < queries
        source = mask_logits + rows.to(tl.int64)[:, None] * query_stride + columns[None, :]
        mask = tl.load(source, mask=real[:, None] & live[None, :], other=0.0).to(tl.float32)
        score = tl.load(log_scores + rows, mask=real, other=float("-inf"))
        weight = mask + score[:, None]
        new_top = tl.maximum(top, tl.max(weight, 0))
        share = tl.exp(weight - new_top[None, :])
        decay = tl.exp(top - new_top)
        top = new_top
        total = total * decay + tl.sum(share, 0)
        acc = acc * decay + tl.sum(share * tl.sigmoid(mask), 0)
    tl.store(out + columns, (acc / total).to(out.dtype.element_ty), mask=live)


@triton.jit
def _taps(index, ratio, size):
    """Bilinear neighbours of an output index and the second one's share (pixel centres at half-integers)."""
    at = tl.maximum((index.to(tl.float32) + 0.5) * ratio - 0.5, 0.0)
    low = tl.minimum(at.to(tl.int32), size - 1)
    return low, tl.minimum(low + 1, size - 1), at - low.to(tl.float32)


@triton.jit
def _allow(
    mask_logits,
    out,
    height,
    width,
    out_width,
    pixels,
    query_stride,
    row_ratio,
    column_ratio,
    TILE: tl.constexpr,
):
    """One query: which pixels of the resized mask are not under zero; all of them if none would be."""
    query = tl.program_id(0).to(tl.int64)
    plane = mask_logits + query * query_stride
    target = out + query * pixels
    seen = 0
    for start in range(0, pixels, TILE):
        index = start + tl.arange(0, TILE)
        live = index < pixels
        above, below, low_share = _taps(index // out_width, row_ratio, height)
        left, right, right_share = _taps(index % out_width, column_ratio, width)
        a = tl.load(plane + above * width + left, mask=live, other=0.0).to(tl.float32)
        b = tl.load(plane + above * width + right, mask=live, other=0.0).to(tl.float32)
        c = tl.load(plane + below * width + left, mask=live, other=0.0).to(tl.float32)
        d = tl.load(plane + below * width + right, mask=live, other=0.0).to(tl.float32)
        upper = a * (1 - right_share) + b * right_share
        lower = c * (1 - right_share) + d * right_share
        allowed = ((upper * (1 - low_share) + lower * low_share) >= 0) & live
        tl.store(target + index, allowed.to(tl.uint8), mask=live)
        seen += tl.sum(allowed.to(tl.int32), 0)
    if seen == 0:
        # other threads' stores above are to the same addresses; without the barrier the last writer is open
        tl.debug_barrier()
        for start in range(0, pixels, TILE):
            index = start + tl.arange(0, TILE)
            tl.store(target + index, tl.full((TILE,), 1, tl.uint8), mask=index < pixels)


@on_its_device
def mask_fusion(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """As `reference.mask_fusion`. Returns (H, W) in mask_logits' dtype."""
    class_logits, mask_logits = dense_rows(class_logits), dense_maps(mask_logits)
    queries, conditions = class_logits.shape
    _, height, width = mask_logits.shape
    pixels = height * width
    scores = torch.empty(queries, dtype=torch.float32, device=class_logits.device)
    lanes = triton.next_power_of_2(conditions)
    _log_scores[(queries,)](class_logits, scores, conditions, class_logits.stride(0), LANES=lanes)
    out = torch.empty(height, width, dtype=mask_logits.dtype, device=mask_logits.device)
    grid = (triton.cdiv(pixels, PIXEL_TILE),)
    stride = mask_logits.stride(0)
    _fuse[grid](mask_logits, scores, out, queries, pixels, stride, TILE_Q=QUERY_TILE, TILE_P=PIXEL_TILE)
    return out


@on_its_device
def attention_mask(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """As `reference.attention_mask`. Returns (queries, h·w) bool."""
    mask_logits = dense_maps(mask_logits)
    queries, height, width = mask_logits.shape
    pixels = size[0] * size[1]
    out = torch.empty(queries, pixels, dtype=torch.uint8, device=mask_logits.device)
    _allow[(queries,)](
        mask_logits,
        out,
        height,
        width,
        size[1],
        pixels,
        mask_logits.stride(0),
        height / size[0],
        width / size[1],
        TILE=MASK_TILE,
        num_warps=8,
    )
    return out.view(torch.bool)
