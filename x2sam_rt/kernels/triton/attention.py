"""Memory attention in Triton: the portable path (compute capability 8.0 and newer).

Status: checked in Triton's interpreter, and compiled for sm_80 and sm_90a in the tests' emulator; not yet run on a GPU.

One head. Keys come in segments: the slots of the memory ring, read where they lie through their strides, or pieces
of one long key tensor. A program takes one tile of queries and a run of segments; with several runs per tile the
partial results are merged by log-sum-exp, which is also what fills the chip when there are few queries.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from x2sam_rt.kernels.availability import gpu
from x2sam_rt.kernels.contract import dense_rows
from x2sam_rt.kernels.split import part_count
from x2sam_rt.kernels.triton import on_its_device
from x2sam_rt.kernels.triton.attention_kernels import attend_segments, merge_rows, slot_bias

SELF_SEGMENTS = 8  # most pieces the keys of self-attention are cut into
ROW_TILE = 16  # queries per program of the small kernels around the attention
SKIP_BITS = 24.0  # a key block under 2^-24 of the best key cannot be seen in float32
PRECISION = {torch.float32: "ieee", torch.float16: "tf32", torch.bfloat16: "tf32"}  # tf32 concerns float32 only


@dataclass(frozen=True)
class Tiles:
    """Tile of a program: queries × keys, its warps and its software pipeline's depth."""

    query: int
    key: int
    warps: int
    stages: int


@dataclass(frozen=True)
class SkipStats:
    """What a run with skipping left out: key blocks whose P·V product was not computed, of all it met."""

    skipped: int
    blocks: int


@dataclass(frozen=True)
class _Segments:
    """Where the segments of the keys and values lie; all but the last hold `tokens` keys."""

    count: int
    tokens: int
    total: int
    key_strides: tuple[int, int]  # elements from segment to segment, and from key to key
    value_strides: tuple[int, int]


def default_tiles(query: Tensor) -> Tiles:
    """Tiles whose query, key and value blocks fit the shared memory: 227 KB on sm_90, 99 KB at least elsewhere."""
    if query.dtype == torch.float32:
        return Tiles(query=32, key=32, warps=4, stages=1)
    if query.shape[1] <= 128 or (query.is_cuda and (9, 0) <= gpu(query.device).capability < (12, 0)):
        return Tiles(query=128, key=64, warps=8, stages=2)
    return Tiles(query=64, key=32, warps=8, stages=2)


@on_its_device
def self_attention(
    query: Tensor, key: Tensor, value: Tensor, *, tiles: Tiles | None = None, parts: int | None = None
) -> Tensor:
    """As `reference.self_attention`: query, key, value (tokens, dim), dim a power of two from 16 to 256.

    tiles and parts: chosen from the device and the shapes unless given.
    """
    tiles = tiles or default_tiles(query)
    parts = part_count(parts, _tile_count(query, tiles), max(SELF_SEGMENTS, parts or 1), _processors(query))
    key, value = dense_rows(key), dense_rows(value)
    return _launch(query, _pieces(key, value, parts, tiles.key), key, value, None, parts, tiles, None)[0]


@on_its_device
def slot_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_shift: Tensor,
    *,
    tiles: Tiles | None = None,
    parts: int | None = None,
) -> Tensor:
    """As `reference.slot_attention`; key and value may be views of a ring: any stride over slots and tokens."""
    return _attend_slots(query, key, value, key_shift, parts, tiles or default_tiles(query), None)[0]


@on_its_device
def slot_attention_skipping(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_shift: Tensor,
    *,
    bits: float = SKIP_BITS,
    tiles: Tiles | None = None,
    parts: int | None = None,
) -> tuple[Tensor, SkipStats]:
    """`slot_attention` that leaves out key blocks which together weigh under 2^-bits of the row's best key so far.

    A block is left out only if that holds for every query of the tile; "so far" starts anew in each part. Returns the
    result and what was left out; reading the counter waits for the device.
    """
    tiles = tiles or default_tiles(query)
    out, counter = _attend_slots(query, key, value, key_shift, parts, tiles, bits)
    blocks = _tile_count(query, tiles) * key.shape[0] * -(-key.shape[1] // tiles.key)
    return out, SkipStats(skipped=int(counter.item()), blocks=blocks)


@on_its_device
def merge_parts(partial: Tensor, lse: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """As `split.merge_parts`, for dense tensors; the result has `dtype`, or else partial's."""
    parts, tokens, dim = partial.shape
    out = torch.empty(tokens, dim, dtype=dtype or partial.dtype, device=partial.device)
    merge_rows[(-(-tokens // ROW_TILE),)](partial, lse, out, tokens, parts, DIM=dim, TILE=ROW_TILE)
    return out


def _attend_slots(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    shift: Tensor,
    parts: int | None,
    tiles: Tiles,
    skip_bits: float | None,
) -> tuple[Tensor, Tensor]:
    parts = part_count(parts, _tile_count(query, tiles), key.shape[0], _processors(query))
    key, value = dense_rows(key), dense_rows(value)
    return _launch(query, _slots(key, value), key, value, dense_rows(shift), parts, tiles, skip_bits)


def _launch(
    query: Tensor,
    segments: _Segments,
    key: Tensor,
    value: Tensor,
    shift: Tensor | None,
    parts: int,
    tiles: Tiles,
    skip_bits: float | None,
) -> tuple[Tensor, Tensor]:
    """Runs the kernel over `parts` runs of segments and merges them. Returns the result and the skip counter."""
    tokens, dim = query.shape
    query = dense_rows(query)
    counter = torch.zeros(1 if skip_bits is not None else 0, dtype=torch.int64, device=query.device)
    if tokens == 0:
        return query.new_empty(query.shape), counter
    per_part = -(-segments.count // parts)
    parts = -(-segments.count // per_part)
    partial_type = query.dtype if parts == 1 else torch.float32
    partial = torch.empty(parts, tokens, dim, dtype=partial_type, device=query.device)
    lse = torch.empty(parts, tokens, dtype=torch.float32, device=query.device)
    scale_log2 = math.log2(math.e) / dim**0.5
    biases = None if shift is None else _biases(query, shift, scale_log2)
    attend_segments[(_tile_count(query, tiles), parts)](
        query,
        key,
        value,
        lse if biases is None else biases,
        partial,
        lse,
        counter,
        tokens,
        segments.total,
        segments.tokens,
        segments.count,
        per_part,
        query.stride(0),
        *segments.key_strides,
        *segments.value_strides,
        scale_log2,
        # if every key of a block weighs under 2^-(bits + log2 of their number), the block weighs under 2^-bits
        0.0 if skip_bits is None else skip_bits + math.log2(tiles.key),
        DIM=dim,
        TILE_Q=tiles.query,
        TILE_K=tiles.key,
        HAS_BIAS=biases is not None,
        WRITE_LSE=parts > 1,
        SKIP=skip_bits is not None,
        PRECISION=PRECISION[query.dtype],
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    return (partial[0] if parts == 1 else merge_parts(partial, lse, query.dtype)), counter


def _biases(query: Tensor, shift: Tensor, scale_log2: float) -> Tensor:
    """(slots, tokens) float32: what a slot's temporal term adds to each query's scores, in powers of two."""
    (tokens, dim), slots = query.shape, shift.shape[0]
    out = torch.empty(slots, tokens, dtype=torch.float32, device=query.device)
    grid = (-(-tokens // ROW_TILE), slots)
    strides = (query.stride(0), shift.stride(0))
    slot_bias[grid](query, shift, out, tokens, *strides, scale_log2, DIM=dim, TILE=ROW_TILE)
    return out


def _slots(key: Tensor, value: Tensor) -> _Segments:
    count, tokens, _ = key.shape
    strides = [(tensor.stride(0), tensor.stride(1)) for tensor in (key, value)]
    return _Segments(count, tokens, count * tokens, strides[0], strides[1])


def _pieces(key: Tensor, value: Tensor, parts: int, tile: int) -> _Segments:
    """One long key tensor, cut at multiples of the tile."""
    total = key.shape[0]
    tokens = -(-total // (parts * tile)) * tile
    strides = [(tokens * tensor.stride(0), tensor.stride(0)) for tensor in (key, value)]
    return _Segments(-(-total // tokens), tokens, total, strides[0], strides[1])


def _tile_count(query: Tensor, tiles: Tiles) -> int:
    return -(-query.shape[0] // tiles.query)


def _processors(query: Tensor) -> int:
    """Streaming multiprocessors of the query's device; 1 for the interpreter."""
    if not query.is_cuda:
        return 1
    return gpu(query.device).processors
