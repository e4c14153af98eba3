"""Attention in parts: how many parts fill the chip, and how their results are put together again."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from x2sam_rt.errors import EngineError

MAX_PARTS = 8  # every part writes and reads back a partial result of the queries' size
WORTHWHILE = 0.95  # more parts must save a twentieth of the time to be chosen


def split_count(query_tiles: int, segments: int, processors: int) -> int:
    """Into how many parts the keys' segments are split, so that parts × query tiles keep every processor busy.

    The cost of a choice is its number of waves times the segments that one part walks through. No part is empty.
    """
    best, best_cost = 1, -(-query_tiles // processors) * segments
    for parts in range(2, min(segments, MAX_PARTS) + 1):
        length = -(-segments // parts)
        cost = -(-query_tiles * parts // processors) * length
        if cost < WORTHWHILE * best_cost and (parts - 1) * length < segments:
            best, best_cost = parts, cost
    return best


@lru_cache(maxsize=4096)
def part_count(parts: int | None, query_tiles: int, segments: int, processors: int) -> int:
    """The parts asked for, or those of `split_count`, less those that would be left without segments.

    Raises EngineError when fewer than one was asked for.
    """
    if parts is not None and parts < 1:
        raise EngineError(f"attention: parts must be at least 1, got {parts}; leave it out to have it chosen")
    wanted = split_count(query_tiles, segments, processors) if parts is None else parts
    length = -(-segments // wanted)
    return -(-segments // length)


def merge_parts(partial: Tensor, lse: Tensor) -> Tensor:
    """Attention over all keys out of attention over disjoint parts of them: Σ_s exp(lse_s − L) · partial_s.

    partial: (parts, tokens, dim), each part normalised on its own. lse: (parts, tokens) float32, natural logarithm
    of each part's sum of exponentials, slot bias included; L = logsumexp over parts. Returns (tokens, dim) in
    partial's dtype; the sum runs in float32 (float64 for float64).
    """
    weight = lse.softmax(0)
    exact = torch.promote_types(partial.dtype, torch.float32)
    return torch.einsum("pt,ptd->td", weight.to(exact), partial.to(exact)).to(partial.dtype)
