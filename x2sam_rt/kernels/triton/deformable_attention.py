# Kernel arguments are device values without Python types, and compile-time constants are upper case by custom.
# ruff: noqa: N803
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call"
"""Multi-scale deformable attention in Triton: bilinear samples of all levels, weighted and summed in registers.

Status: checked in Triton's interpreter and compiled for sm_80 and sm_90a; not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from x2sam_rt.kernels.contract import dense_rows
from x2sam_rt.kernels.triton import on_its_device

QUERY_TILE = 32


@triton.jit
def _corner(plane, row, column, height, width, row_stride, weight, lanes, CHANNELS: tl.constexpr):
    """(tile, channels) float32: `weight` times the feature at (row, column), zero outside the level."""
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    token = (row * width + column).to(tl.int64)  # outside the level it is masked, not clamped
    mask = inside[:, None] & (lanes < CHANNELS)[None, :]
    feature = tl.load(plane + token[:, None] * row_stride + lanes[None, :], mask=mask, other=0.0)
    return feature.to(tl.float32) * weight[:, None]


@triton.jit
def _sample_levels(
    value,
    locations,
    weights,
    out,
    queries,
    value_batch_stride,
    value_token_stride,
    value_head_stride,
    SHAPES: tl.constexpr,
    HEADS: tl.constexpr,
    LEVELS: tl.constexpr,
    POINTS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LANES: tl.constexpr,
    TILE: tl.constexpr,
):
    head, batch = tl.program_id(1), tl.program_id(2)
    rows = tl.program_id(0) * TILE + tl.arange(0, TILE)
    lanes = tl.arange(0, LANES)
    live = rows < queries
    sample = ((batch * queries + rows).to(tl.int64) * HEADS + head) * (LEVELS * POINTS)
    plane = value + batch.to(tl.int64) * value_batch_stride + head * value_head_stride
    acc = tl.zeros((TILE, LANES), tl.float32)
    for level in tl.static_range(LEVELS):
        height = SHAPES[2 * level]
        width = SHAPES[2 * level + 1]
        for point in tl.static_range(POINTS):
            at = sample + (level * POINTS + point)
            weight = tl.load(weights + at, mask=live, other=0.0).to(tl.float32)
            # a location is a fraction of the level's extent; pixel centres lie at half-integers
            x = tl.load(locations + 2 * at, mask=live, other=0.0).to(tl.float32) * width - 0.5
            y = tl.load(locations + 2 * at + 1, mask=live, other=0.0).to(tl.float32) * height - 0.5
            # clamped so that far-off points stay outside and the conversion to integers stays defined
            x = tl.minimum(tl.maximum(x, -2.0), width + 1.0)
            y = tl.minimum(tl.maximum(y, -2.0), height + 1.0)
            left, top = tl.floor(x), tl.floor(y)
            right_share, low_share = x - left, y - top
            column, row = left.to(tl.int32), top.to(tl.int32)
            up, down = weight * (1 - low_share), weight * low_share
            stride = value_token_stride
            acc += _corner(plane, row, column, height, width, stride, up * (1 - right_share), lanes, CHANNELS)
            acc += _corner(plane, row, column + 1, height, width, stride, up * right_share, lanes, CHANNELS)
            acc += _corner(plane, row + 1, column, height, width, stride, down * (1 - right_share), lanes, CHANNELS)
            acc += _corner(plane, row + 1, column + 1, height, width, stride, down * right_share, lanes, CHANNELS)
        plane += height * width * value_token_stride
    target = ((batch * queries + rows).to(tl.int64) * HEADS + head) * CHANNELS
    mask = live[:, None] & (lanes < CHANNELS)[None, :]
    tl.store(out + target[:, None] + lanes[None, :], acc.to(out.dtype.element_ty), mask=mask)


@on_its_device
def deformable_attention(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """As `reference.deformable_attention`; compiled once per set of spatial shapes.

    Returns (batch, queries, heads · head_dim) in value's dtype.
    """
    value = dense_rows(value)
    batch, queries, heads, levels, points, _ = locations.shape
    channels = value.shape[-1]
    out = torch.empty(batch, queries, heads * channels, dtype=value.dtype, device=value.device)
    _sample_levels[(triton.cdiv(queries, QUERY_TILE), heads, batch)](
        value,
        locations.contiguous(),
        weights.contiguous(),
        out,
        queries,
        *value.stride()[:3],
        SHAPES=tuple(side for shape in spatial_shapes for side in shape),
        HEADS=heads,
        LEVELS=levels,
        POINTS=points,
        CHANNELS=channels,
        LANES=triton.next_power_of_2(channels),
        TILE=QUERY_TILE,
    )
    return out
