"""Memory attention: the current frame's features look at themselves and at the memory bank."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_rt.config import SCALES, ModelConfig
from x2sam_rt.kernels.memory_attention import self_attention, slot_attention
from x2sam_rt.model.position import rotary_table, rotate, sine_position, temporal_encoding

# SAM 2 adds the position map to the features at this weight before the first layer.
POSITION_WEIGHT = 0.1


class AttentionProjections(nn.Module):
    """The four projections of a one-head attention."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.o_proj = nn.Linear(dim, dim)


class MemoryAttentionLayer(nn.Module):
    """Self-attention (rotary), cross-attention to the slots (queries rotated, keys not), MLP; pre-norm."""

    def __init__(self, dim: int, feedforward_dim: int) -> None:
        super().__init__()
        self.self_attn = AttentionProjections(dim)
        self.cross_attn = AttentionProjections(dim)
        self.linear1 = nn.Linear(dim, feedforward_dim)
        self.linear2 = nn.Linear(feedforward_dim, dim)
        self.layer_norm1 = nn.LayerNorm(dim)
        self.layer_norm2 = nn.LayerNorm(dim)
        self.layer_norm3 = nn.LayerNorm(dim)

    def forward(self, tokens: Tensor, memory: Tensor, memory_key: Tensor, time: Tensor, table: Tensor) -> Tensor:
        tokens = tokens + self._attend_self(self.layer_norm1(tokens), table)
        tokens = tokens + self._attend_memory(self.layer_norm2(tokens), memory, memory_key, time, table)
        update: Tensor = self.linear2(F.relu(self.linear1(self.layer_norm3(tokens))))
        return tokens + update

    def _attend_self(self, tokens: Tensor, table: Tensor) -> Tensor:
        part = self.self_attn
        query, key = rotate(part.q_proj(tokens), table), rotate(part.k_proj(tokens), table)
        out: Tensor = part.o_proj(self_attention(query, key, part.v_proj(tokens)))
        return out

    def _attend_memory(self, tokens: Tensor, memory: Tensor, memory_key: Tensor, time: Tensor, table: Tensor) -> Tensor:
        part = self.cross_attn
        query = rotate(part.q_proj(tokens), table)
        # Keys are not rotated, so a slot's temporal term reaches every score of the slot as the same q·shift.
        shift = F.linear(time, part.k_proj.weight)
        attended = slot_attention(query, part.k_proj(memory_key), part.v_proj(memory), shift)
        out: Tensor = part.o_proj(attended)
        return out


class MemoryAttention(nn.Module):
    """Conditions each scale of a frame on the bank's slots; the scales share all weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, memory = config.dim, config.memory
        self.dim = dim
        self.layers = nn.ModuleList(
            MemoryAttentionLayer(dim, memory.attention_feedforward_dim) for _ in range(memory.attention_layers)
        )
        self.layer_norm = nn.LayerNorm(dim)
        self.register_buffer("memory_position", sine_position(config.grids[0], dim).flatten(1).T, persistent=False)
        # Of all scales, those that look at the memory; slots hold these only, in this order.
        self.scales = tuple(SCALES.index(scale) for scale in memory.scales)
        for scale in self.scales:
            side = config.grids[scale]
            self.register_buffer(f"position_{scale}", sine_position(side, dim), persistent=False)
            self.register_buffer(f"rotary_{scale}", rotary_table(side, dim), persistent=False)

    def forward(self, features: tuple[Tensor, ...], memory: Tensor, frame_offsets: Tensor) -> tuple[Tensor, ...]:
        """features: pixel features low to high, each (1, D, h, w). memory: (slots, scales, slot tokens, D), live slots
        only, in any order. frame_offsets: (slots,) frames between now and each slot.

        Returns the conditioned features, shaped as the input; those of other scales as they are.
        """
        time = temporal_encoding(frame_offsets, self.dim).to(memory.dtype)
        conditioned = list(features)
        for place, scale in enumerate(self.scales):
            conditioned[scale] = self.forward_scale(scale, features[scale], memory[:, place], time)
        return tuple(conditioned)

    def forward_scale(self, scale: int, feature: Tensor, memory: Tensor, time: Tensor) -> Tensor:
        position: Tensor = getattr(self, f"position_{scale}")
        table: Tensor = getattr(self, f"rotary_{scale}")
        tokens = (feature[0] + POSITION_WEIGHT * position.to(feature.dtype)).flatten(1).T
        memory_key = memory + self.get_buffer("memory_position").to(memory.dtype)
        for layer in self.layers:
            tokens = layer(tokens, memory, memory_key, time, table)
        out: Tensor = self.layer_norm(tokens)
        return out.T.reshape(feature.shape)
