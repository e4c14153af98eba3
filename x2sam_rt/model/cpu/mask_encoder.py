"""The mask encoder, optimised for CPUs: maps stay channels last, and the position map is made once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam2.modeling_sam2 import (
    Sam2MultiScaleAttention,
    Sam2MultiScaleBlock,
    Sam2VisionNeck,
    do_pool,
)

from x2sam_rt.model.cpu.layers import FeedForward, PackedLinear, channels_last, row_chunks
from x2sam_rt.model.mask_encoder import MaskEncoder
from x2sam_rt.model.precision import fp32_copy


class CpuMaskEncoder(nn.Module):
    def __init__(self, plain: MaskEncoder, dtype: torch.dtype) -> None:
        super().__init__()
        trunk = plain.backbone
        self.patches = channels_last(trunk.patch_embed.projection)
        side = plain.config.backbone_config.image_size[0] // self.patches.stride[0]
        self._position = _position(trunk.pos_embed.float(), trunk.pos_embed_window.float(), side)
        self.blocks = nn.ModuleList(_Block(block, dtype) for block in trunk.blocks)
        self.neck = _Neck(plain.neck, dtype)
        self._stage_ends = trunk.stage_ends

    def forward(self, frame: Tensor) -> tuple[list[Tensor], Tensor]:
        """frame: (1, 3, S, S), float32. Returns the pyramid, low to high resolution, each (h, w, D), and the region
        source (1, S/16, S/16, C); float32."""
        maps = self.patches(frame).permute(0, 2, 3, 1).contiguous() + self._position
        stages = []
        for index, block in enumerate(self.blocks):
            maps = block(maps)
            if index in self._stage_ends:
                stages.append(maps)
        return self.neck([stage[0] for stage in stages]), stages[2]


class _Block(nn.Module):
    """A block of the Hiera trunk: attention within windows, which may halve the map, and an MLP; pre-norm."""

    def __init__(self, plain: Sam2MultiScaleBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm1, self.norm2 = fp32_copy(plain.layer_norm1), fp32_copy(plain.layer_norm2)
        self.shortcut = PackedLinear.of(plain.proj, dtype) if plain.dim != plain.dim_out else None
        self.attention = _WindowAttention(plain.attn, dtype)
        self.feed_forward = FeedForward(plain.mlp.proj_in, plain.mlp.proj_out, "gelu", dtype)
        self._window, self._stride = plain.window_size, plain.query_stride
        self._dtype = dtype

    def forward(self, maps: Tensor) -> Tensor:
        """maps: (1, H, W, C) float32. Returns the same, or half the height and width with more channels."""
        normed = self.norm1(maps).to(self._dtype)
        residual = maps if self.shortcut is None else do_pool(self.shortcut(normed), self._stride)
        out = residual + self._attend(normed, residual.shape)
        for (chunk,) in row_chunks(out.view(-1, out.shape[-1])):
            chunk += self.feed_forward(self.norm2(chunk))
        return out

    def _attend(self, normed: Tensor, size: torch.Size) -> Tensor:
        """size: (1, height, width, channels) of the result."""
        if not self._window:
            attended: Tensor = self.attention(normed)
            return attended
        side = self._window // (self._stride[0] if self._stride else 1)
        return _join(self.attention(_windows(normed, self._window)), side, size)


class _WindowAttention(nn.Module):
    """Multi-head attention in each window; queries may be pooled first."""

    def __init__(self, plain: Sam2MultiScaleAttention, dtype: torch.dtype) -> None:
        super().__init__()
        self.project, self.output = PackedLinear.of(plain.qkv, dtype), PackedLinear.of(plain.proj, dtype)
        self._heads, self._stride = plain.num_attention_heads, plain.query_stride

    def forward(self, windows: Tensor) -> Tensor:
        """windows: (windows, h, w, C). Returns (windows, h / stride, w / stride, C out)."""
        query, key, value = self.project(windows).chunk(3, dim=-1)
        query = do_pool(query, self._stride)
        attended = F.scaled_dot_product_attention(self._split(query), self._split(key), self._split(value))
        out: Tensor = self.output(attended.transpose(1, 2).reshape(query.shape))
        return out

    def _split(self, windows: Tensor) -> Tensor:
        """(windows, h, w, C) to (windows, heads, h·w, C / heads)."""
        return windows.reshape(len(windows), -1, self._heads, windows.shape[-1] // self._heads).transpose(1, 2)


class _Neck(nn.Module):
    """The feature pyramid: every stage projected to D channels, plus the coarser level where so configured."""

    def __init__(self, plain: Sam2VisionNeck, dtype: torch.dtype) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(PackedLinear.pointwise(conv, dtype) for conv in plain.convs)  # low to high
        self._from_above = plain.fpn_top_down_levels

    def forward(self, stages: list[Tensor]) -> list[Tensor]:
        """stages: high to low resolution, each (h, w, C). Returns the three finest, low to high, each (h, w, D)."""
        pyramid: list[Tensor] = []
        for lateral, level in zip(self.laterals, reversed(range(len(stages))), strict=True):
            maps = lateral(stages[level]).float()
            if pyramid and level in self._from_above:
                maps = maps + pyramid[-1].repeat_interleave(2, dim=0).repeat_interleave(2, dim=1)
            pyramid.append(maps)
        return pyramid[-3:]


def _position(whole: Tensor, window: Tensor, side: int) -> Tensor:
    """One map resized to the grid and one repeated in every window, (1, C, h, w) each. Returns (1, side, side, C)."""
    repeats = side // window.shape[-1]
    resized = F.interpolate(whole, size=(side, side), mode="bicubic")
    return (resized + window.tile(1, 1, repeats, repeats)).permute(0, 2, 3, 1).contiguous()


def _windows(maps: Tensor, side: int) -> Tensor:
    """(1, H, W, C) to (windows, side, side, C); zeros fill the last ones."""
    below, right = -maps.shape[1] % side, -maps.shape[2] % side
    if below or right:
        maps = F.pad(maps, (0, 0, 0, right, 0, below))
    _, height, width, channels = maps.shape
    tiles = maps.view(height // side, side, width // side, side, channels).transpose(1, 2)
    return tiles.reshape(-1, side, side, channels)


def _join(windows: Tensor, side: int, size: torch.Size) -> Tensor:
    """The inverse of `_windows`. size: of the map, (1, H, W, C)."""
    _, height, width, channels = size
    rows, columns = -(-height // side), -(-width // side)
    tiles = windows.view(rows, columns, side, side, channels).transpose(1, 2)
    return tiles.reshape(1, rows * side, columns * side, channels)[:, :height, :width]
