"""Plain-torch twins of the kernels: the CPU fallback, the documentation and the oracle of their tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def deformable_attention(
    value: Tensor, spatial_shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    """Multi-scale deformable attention (Deformable DETR, eq. 3): bilinear samples, weighted and summed.

    value: (batch, tokens, heads, head_dim), levels one after the other, each row-major.
    spatial_shapes: (height, width) per level. locations: (batch, queries, heads, levels, points, 2), x then y,
    0…1 over each level's extent; outside reads zero. weights: (batch, queries, heads, levels, points).
    Returns (batch, queries, heads · head_dim).
    """
    batch, queries, heads, _, points, _ = locations.shape
    head_dim = value.shape[-1]
    grids = 2 * locations - 1
    sampled = []
    for level, (plane, (height, width)) in enumerate(
        zip(torch.split(value, [h * w for h, w in spatial_shapes], dim=1), spatial_shapes, strict=True)
    ):
        plane = plane.permute(0, 2, 3, 1).reshape(batch * heads, head_dim, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points, 2)
        sampled.append(F.grid_sample(plane, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
    flat = weights.permute(0, 2, 1, 3, 4).reshape(batch * heads, 1, queries, -1)
    out = (torch.cat(sampled, dim=-1) * flat).sum(-1)  # (batch·heads, head_dim, queries)
    return out.view(batch, heads * head_dim, queries).transpose(1, 2)


def self_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """One-head attention over a scale's own tokens. query, key, value: (…, tokens, dim). Returns (…, tokens, dim)."""
    batch = math.prod(query.shape[:-2])  # not -1: of an empty query it could be anything
    q, k, v = (tensor.reshape(batch, 1, *tensor.shape[-2:]) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).view(query.shape)


def slot_attention(query: Tensor, key: Tensor, value: Tensor, key_shift: Tensor) -> Tensor:
    """One-head attention to a memory of slots, all slots under one softmax (X2SAM, memory attention).

    query: (…, tokens, dim). key, value: (…, slots, slot_tokens, dim), keys without their temporal term.
    key_shift: (slots, dim), the projected temporal term of each slot, the same for all its keys; because the
    keys are not rotated, q·(k + shift) = q·k + q·shift is exact. Returns (…, tokens, dim).
    """
    keys = (key + key_shift[:, None]).flatten(-3, -2)
    return self_attention(query, keys, value.flatten(-3, -2))


def mask_fusion(class_logits: Tensor, mask_logits: Tensor) -> Tensor:
    """The memory encoder's mask guidance: one map out of all queries, weighted by how sure each is.

    class_logits: (queries, conditions + 1), background last, padded conditions at −1e6. mask_logits: (queries, H, W).
    Returns (H, W): Σ_q softmax_q(mask + log max(score_q, 1e-6)) · sigmoid(mask), 0…1.
    """
    score = class_logits.softmax(-1)[:, :-1].amax(-1).clamp_min(1e-6)
    weight = (mask_logits + score.log()[:, None, None]).softmax(0)
    return (weight * mask_logits.sigmoid()).sum(0)


def attention_mask(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Where each query of a mask-decoder layer may look, from the previous prediction.

    mask_logits: (queries, H, W); size: the layer's grid. Returns (queries, h·w) bool, True = may attend. A query
    that would see nothing sees everything (Mask2Former).
    """
    resized = F.interpolate(mask_logits[None], size=size, mode="bilinear", align_corners=False)[0]
    allowed = resized.flatten(1) >= 0  # sigmoid >= 0.5
    return allowed | ~allowed.any(-1, keepdim=True)
