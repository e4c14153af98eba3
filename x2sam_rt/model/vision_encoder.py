"""The visual tower of Qwen3-VL, one call for any number of frame pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.stage_contract import TensorSpec

_ROTARY_BASE = 10000.0


@dataclass(frozen=True, eq=False)
class PatchGrid:
    """What the tower must know of a patch grid: where each patch lies.

    indices: (tokens, 4) int64 into the learned position table; weights: (tokens, 4) fp32, its bilinear weights.
    cos, sin: (tokens, head dim) fp32, the rotary angles. Patches in merge order (2×2 blocks adjacent).
    """

    indices: Tensor
    weights: Tensor
    cos: Tensor
    sin: Tensor

    def to(self, device: torch.device) -> PatchGrid:
        return PatchGrid(*(table.to(device) for table in (self.indices, self.weights, self.cos, self.sin)))


def patch_grid(height: int, width: int, *, merge: int, table_side: int, head_dim: int) -> PatchGrid:
    """On the CPU. height, width: patches of one frame pair. table_side: side of the learned position table."""
    with torch.device("cpu"):
        rows, columns = _merge_order(height, width, merge)
        indices, weights = _table_taps(rows, columns, height, width, table_side)
        frequency = 1.0 / _ROTARY_BASE ** (torch.arange(0, head_dim // 2, 2, dtype=torch.float32) / (head_dim // 2))
        angles = torch.cat((rows[:, None] * frequency, columns[:, None] * frequency), dim=-1).repeat(1, 2)
    return PatchGrid(indices, weights, angles.cos(), angles.sin())


def _merge_order(height: int, width: int, merge: int) -> tuple[Tensor, Tensor]:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    blocks = [
        axis.view(height // merge, merge, width // merge, merge).transpose(1, 2).flatten() for axis in (rows, columns)
    ]
    return blocks[0], blocks[1]


def _table_taps(rows: Tensor, columns: Tensor, height: int, width: int, side: int) -> tuple[Tensor, Tensor]:
    """Bilinear taps (align_corners) of each patch in the square table of learned positions."""
    axes = []
    for index, count in ((rows, height), (columns, width)):
        # The published positions come from an fp32 linspace; index · step would differ in the last bit.
        at = torch.linspace(0, side - 1, count)[index]
        low = at.long()
        high = (low + 1).clamp_max(side - 1)
        axes.append((low, high, at - low))
    (top, bottom, down), (left, right, across) = axes
    indices = torch.stack([y * side + x for y in (top, bottom) for x in (left, right)], dim=-1)
    weights = torch.stack([v * h for v in (1 - down, down) for h in (1 - across, across)], dim=-1)
    return indices, weights


class VisionTower(nn.Module):
    """Runs the parts of transformers' Qwen3VLVisionModel over a batch of frame pairs.

    The parent packs pairs into one ragged sequence and splits it by lengths read on the host, which cannot be
    exported; as attention does not cross pairs and all pairs of a prompt share a grid, a batch axis says the same.
    """

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.visual = visual

    @staticmethod
    def signature(config: ModelConfig, dtype: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
        vision, dim = config.language["vision_config"], config.language_dim
        tokens = f"{vision['spatial_merge_size'] ** 2}*merged"
        patch_dim = 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2
        angles = (tokens, vision["hidden_size"] // vision["num_heads"])
        levels = len(vision["deepstack_visual_indexes"])
        return (
            (
                TensorSpec("patches", ("pairs", tokens, patch_dim), dtype),
                TensorSpec("indices", (tokens, 4), "int64"),
                TensorSpec("weights", (tokens, 4), "float32"),
                TensorSpec("cos", angles, "float32"),
                TensorSpec("sin", angles, "float32"),
            ),
            (
                TensorSpec("vision_tokens", ("pairs", "merged", dim), dtype),
                TensorSpec("deepstack", (levels, "pairs", "merged", dim), dtype),
            ),
        )

    def forward(
        self, patches: Tensor, indices: Tensor, weights: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        """patches: (pairs, tokens, 3·2·16·16). The rest as in `PatchGrid`.

        Returns visual tokens (pairs, tokens/4, language dim) and deep-stack features
        (levels, pairs, tokens/4, language dim).
        """
        visual = self.visual
        position = (visual.pos_embed(indices) * weights[..., None].to(patches.dtype)).sum(1)
        # One patch per kernel window: the 3-D convolution is a matrix product.
        kernel = visual.patch_embed.proj
        hidden = F.linear(patches, kernel.weight.flatten(1), kernel.bias) + position
        taps = list(visual.deepstack_visual_indexes)
        deepstack: dict[int, Tensor] = {}
        for depth, block in enumerate(visual.blocks):
            hidden = self._block(block, hidden, cos, sin)
            if depth in taps:
                deepstack[depth] = self._merge(visual.deepstack_merger_list[taps.index(depth)], hidden)
        return self._merge(visual.merger, hidden), torch.stack([deepstack[depth] for depth in taps])

    @staticmethod
    def _merge(merger: Any, hidden: Tensor) -> Tensor:
        pairs = hidden.shape[0]
        merged: Tensor = merger(hidden.reshape(-1, hidden.shape[-1]))
        return merged.view(pairs, -1, merged.shape[-1])

    @staticmethod
    def _block(block: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        attention = block.attn
        pairs, tokens, dim = hidden.shape
        qkv = attention.qkv(block.norm1(hidden)).view(pairs, tokens, 3, attention.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (pairs, heads, tokens, head dim)
        attended = F.scaled_dot_product_attention(_rotate_half(query, cos, sin), _rotate_half(key, cos, sin), value)
        hidden = hidden + attention.proj(attended.transpose(1, 2).reshape(pairs, tokens, dim))
        out: Tensor = hidden + block.mlp(block.norm2(hidden))
        return out


def _rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding in the split-halves layout, in fp32."""
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x.float() * cos + turned * sin).to(x.dtype)
