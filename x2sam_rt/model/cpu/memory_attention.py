"""Memory attention, optimised for CPUs: four products per layer instead of eight, and none of its tables made anew."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from x2sam_rt.kernels.memory_attention import self_attention, slot_attention
from x2sam_rt.model.cpu.layers import FeedForward, PackedLinear, row_chunks, typed_children
from x2sam_rt.model.folding import value_with_output
from x2sam_rt.model.memory_attention import POSITION_WEIGHT, MemoryAttention, MemoryAttentionLayer
from x2sam_rt.model.position import temporal_encoding
from x2sam_rt.model.precision import fp32_copy


@dataclass(frozen=True, eq=False)
class _Grid:
    """A scale's tables, float32. position: (tokens, D). cos, sin: (tokens, 1, D / 2), a column for every pair."""

    position: Tensor
    cos: Tensor
    sin: Tensor


class CpuMemoryAttention(nn.Module):
    """The stage `MemoryAttentionStage` with products of the given dtype; everything between them is float32."""

    def __init__(self, plain: MemoryAttention, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            _Layer(layer, dtype) for layer in typed_children(plain.layers, MemoryAttentionLayer)
        )
        self.norm = fp32_copy(plain.layer_norm)
        self._dim, self._memory_position = plain.dim, plain.get_buffer("memory_position")
        self._grids = {scale: _grid(plain, scale) for scale in plain.scales}

    def forward(
        self, low: Tensor, middle: Tensor, high: Tensor, memory: Tensor, frame_offsets: Tensor
    ) -> tuple[Tensor, ...]:
        time = temporal_encoding(frame_offsets, self._dim)
        features = [low, middle, high]
        for (scale, grid), slots in zip(self._grids.items(), memory.unbind(1), strict=True):
            features[scale] = self._condition(grid, features[scale], slots, time)
        return tuple(features)

    def _condition(self, grid: _Grid, feature: Tensor, memory: Tensor, time: Tensor) -> Tensor:
        tokens = torch.empty_like(grid.position)
        torch.add(feature[0].flatten(1).T, grid.position, out=tokens)
        memory_key = memory + self._memory_position
        for layer in self.layers:
            layer(tokens, grid, memory, memory_key, time)
        out: Tensor = self.norm(tokens)
        return out.T.view(feature.shape)


class _Layer(nn.Module):
    """The channels of queries and keys are reordered, which leaves their products as they are, so that the two members
    of every rotated pair lie in two halves."""

    def __init__(self, plain: MemoryAttentionLayer, dtype: torch.dtype) -> None:
        super().__init__()
        own, cross = plain.self_attn, plain.cross_attn
        order = _halves(own.q_proj.in_features)
        projections = (*_reordered(own.q_proj, order), *_reordered(own.k_proj, order), *value_with_output(own))
        self.project = PackedLinear(torch.cat(projections[::2]), torch.cat(projections[1::2]), dtype)
        self.query = PackedLinear(*_reordered(cross.q_proj, order), dtype)
        key_weight, key_bias = _reordered(cross.k_proj, order)
        self.key, self.shift = PackedLinear(key_weight, key_bias, dtype), PackedLinear(key_weight, None, dtype)
        self.value = PackedLinear(*value_with_output(cross), dtype)
        self.feed_forward = FeedForward(plain.linear1, plain.linear2, "relu", dtype)
        self.norm1, self.norm2, self.norm3 = (
            fp32_copy(norm) for norm in (plain.layer_norm1, plain.layer_norm2, plain.layer_norm3)
        )
        self._dtype = dtype

    def forward(self, tokens: Tensor, grid: _Grid, memory: Tensor, memory_key: Tensor, time: Tensor) -> None:
        """tokens: (N, D) float32, changed in place. memory, memory_key: (slots, slot tokens, D)."""
        tokens += self._attend_self(tokens, grid)
        tokens += self._attend_memory(tokens, grid, memory, memory_key, time)
        for (chunk,) in row_chunks(tokens):
            chunk += self.feed_forward(self.norm3(chunk))

    def _attend_self(self, tokens: Tensor, grid: _Grid) -> Tensor:
        count, dim = tokens.shape
        projected = torch.empty(count, 3, dim, dtype=self._dtype, device="cpu")
        for chunk, out, cos, sin in row_chunks(tokens, projected, grid.cos, grid.sin):
            rows = self.project(self.norm1(chunk)).view(out.shape)
            _rotate(rows[:, :2], cos, sin, out[:, :2])
            out[:, 2] = rows[:, 2]
        return self_attention(*projected.unbind(1))

    def _attend_memory(self, tokens: Tensor, grid: _Grid, memory: Tensor, memory_key: Tensor, time: Tensor) -> Tensor:
        query = torch.empty(tokens.shape, dtype=self._dtype, device="cpu")
        for chunk, out, cos, sin in row_chunks(tokens, query, grid.cos, grid.sin):
            _rotate(self.query(self.norm2(chunk))[:, None], cos, sin, out[:, None])
        return slot_attention(query, self.key(memory_key), self.value(memory), self.shift(time))


def _grid(plain: MemoryAttention, scale: int) -> _Grid:
    position = POSITION_WEIGHT * plain.get_buffer(f"position_{scale}").flatten(1).T
    table = plain.get_buffer(f"rotary_{scale}")  # (cos and sin, side, D / 4), one axis for rows and columns
    side = table.shape[1]
    by_column, by_row = table[:, None].expand(-1, side, -1, -1), table[:, :, None].expand(-1, -1, side, -1)
    cos, sin = torch.cat((by_column, by_row), dim=-1).flatten(1, 2)[:, :, None]
    return _Grid(position.contiguous(), cos, sin)


def _halves(dim: int) -> Tensor:
    """The order of channels that puts the first members of all pairs before the second ones."""
    return torch.arange(dim, device="cpu").view(-1, 2).T.flatten()


def _reordered(plain: nn.Linear, order: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias with their outputs in another order, float32."""
    return plain.weight[order].float(), plain.bias[order].float()


def _rotate(rows: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotates pairs whose members lie in two halves. rows, out: (N, parts, D). cos, sin: (N, 1, D / 2) float32."""
    first, second = rows.float().chunk(2, dim=-1)
    out_first, out_second = out.chunk(2, dim=-1)
    torch.addcmul(first * cos, second, sin, value=-1, out=out_first)
    torch.addcmul(first * sin, second, cos, out=out_second)
