# Kernel arguments are device values without Python types, and compile-time constants are upper case by custom.
# ruff: noqa: N803
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
"""The device side of memory attention in Triton; `attention` launches it.

Status: checked in Triton's interpreter, and compiled for sm_80 and sm_90a in the tests' emulator; not yet run on a GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)
LOWEST = tl.constexpr(-3.4028234663852886e38)  # a running maximum starts here, finite, since a slot's bias may be -inf


@triton.jit
def attend_segments(
    query,
    key,
    value,
    biases,
    out,
    lse,
    skip_counter,
    tokens,
    key_tokens,
    segment_tokens,
    segments,
    segments_per_part,
    query_stride,
    key_segment_stride,
    key_stride,
    value_segment_stride,
    value_stride,
    scale_log2,
    skip_below,
    DIM: tl.constexpr,
    TILE_Q: tl.constexpr,
    TILE_K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    WRITE_LSE: tl.constexpr,
    SKIP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    tile, part = tl.program_id(0), tl.program_id(1)
    rows = tile * TILE_Q + tl.arange(0, TILE_Q)
    lanes = tl.arange(0, DIM)
    live = rows < tokens
    wide_rows = rows.to(tl.int64)
    q = tl.load(query + wide_rows[:, None] * query_stride + lanes[None, :], mask=live[:, None], other=0.0)
    top = tl.full((TILE_Q,), LOWEST, tl.float32)  # running maximum, in powers of two
    total = tl.zeros((TILE_Q,), tl.float32)
    acc = tl.zeros((TILE_Q, DIM), tl.float32)
    skipped = tl.zeros((), tl.int64)
    first = part * segments_per_part
    keys = key + first.to(tl.int64) * key_segment_stride
    values = value + first.to(tl.int64) * value_segment_stride
    for segment in range(first, tl.minimum(first + segments_per_part, segments)):
        bias = tl.zeros((TILE_Q,), tl.float32)
        if HAS_BIAS:
            bias = tl.load(biases + segment * tokens + rows, mask=live, other=0.0)
        length = tl.minimum(segment_tokens, key_tokens - segment * segment_tokens)
        for start in range(0, length, TILE_K):
            columns = start + tl.arange(0, TILE_K)
            inside = columns < length
            k = tl.load(keys + columns[None, :] * key_stride + lanes[:, None], mask=inside[None, :], other=0.0)
            score = tl.where(inside[None, :], tl.dot(q, k, input_precision=PRECISION), float("-inf"))
            best = tl.max(score, 1)
            peak = best * scale_log2 + bias
            weightless = False
            if SKIP:
                weightless = tl.max(tl.where(live, peak - top, float("-inf")), 0) < -skip_below
            if weightless:
                skipped += 1
            else:
                new_top = tl.maximum(top, peak)
                # from the block's best: taken from zero, scores of 2^31 would be off by 2^7 in the exponent
                p = tl.exp2((score - best[:, None]) * scale_log2 + (peak - new_top)[:, None])
                decay = tl.exp2(top - new_top)
                top = new_top
                total = total * decay + tl.sum(p, 1)
                v = tl.load(values + columns[:, None] * value_stride + lanes[None, :], mask=inside[:, None], other=0.0)
                acc = tl.dot(p.to(v.dtype), v, acc * decay[:, None], input_precision=PRECISION)
        keys += key_segment_stride
        values += value_segment_stride
    target = (part * tokens + wide_rows) * DIM
    norm = 1.0 / total
    if WRITE_LSE:
        norm = tl.where(total == 0.0, 0.0, norm)  # a part whose slots all have a bias of -inf
    result = acc * norm[:, None]
    tl.store(out + target[:, None] + lanes[None, :], result.to(out.dtype.element_ty), mask=live[:, None])
    if WRITE_LSE:
        tl.store(lse + part * tokens + wide_rows, (top + tl.log2(total)) / LOG2_E, mask=live)
    if SKIP:
        tl.atomic_add(skip_counter, skipped)


@triton.jit
def slot_bias(query, shift, out, tokens, query_stride, shift_stride, scale_log2, DIM: tl.constexpr, TILE: tl.constexpr):
    """q·shift of one slot in powers of two. A kernel of its own: in the attention, q would be held in registers."""
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    slot = tl.program_id(1)
    lanes = tl.arange(0, DIM)
    live = rows < tokens
    source = query + rows.to(tl.int64)[:, None] * query_stride + lanes[None, :]
    q = tl.load(source, mask=live[:, None], other=0.0).to(tl.float32)
    delta = tl.load(shift + slot * shift_stride + lanes).to(tl.float32)
    tl.store(out + slot * tokens + rows, tl.sum(q * delta[None, :], 1) * scale_log2, mask=live)


@triton.jit
def merge_rows(partial, lse, out, tokens, parts, DIM: tl.constexpr, TILE: tl.constexpr):
    rows = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)
    lanes = tl.arange(0, DIM)
    live = rows < tokens
    top = tl.full((TILE,), LOWEST, tl.float32)
    total = tl.zeros((TILE,), tl.float32)
    acc = tl.zeros((TILE, DIM), tl.float32)
    for part in range(parts):
        rung = tl.load(lse + part * tokens + rows, mask=live, other=0.0)
        new_top = tl.maximum(top, rung)
        # differences before products: fused with a subtraction, a product is not the rounded one that the maximum was
        decay, weight = tl.exp2((top - new_top) * LOG2_E), tl.exp2((rung - new_top) * LOG2_E)
        top = new_top
        total = total * decay + weight
        source = partial + (part * tokens + rows)[:, None] * DIM + lanes[None, :]
        piece = tl.load(source, mask=live[:, None], other=0.0).to(tl.float32)
        acc = acc * decay[:, None] + piece * weight[:, None]
    result = (acc / total[:, None]).to(out.dtype.element_ty)
    tl.store(out + rows[:, None] * DIM + lanes[None, :], result, mask=live[:, None])
