"""Mask decoder: queries become masks, and their classes among the prompt's conditions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_rt.config import NUM_SCALES, ModelConfig
from x2sam_rt.kernels.mask_fusion import attention_mask
from x2sam_rt.model.position import sine_position


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, allowed: Tensor | None = None) -> Tensor:
    """Multi-head attention. query: (…, Q, D); key, value: (…, N, D); allowed: bool, broadcastable to (…, Q, N)."""
    q, k, v = (_split_heads(t, heads) for t in (query, key, value))
    # One axis for the heads and one for the batch: exporters and fused attention want exactly four.
    mask = None if allowed is None else allowed.reshape(-1, 1, *allowed.shape[-2:]).expand(-1, -1, q.shape[-2], -1)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attended.transpose(-3, -2).reshape(query.shape)


def _split_heads(tokens: Tensor, heads: int) -> Tensor:
    """(…, N, D) to (batch, heads, N, D / heads)."""
    return tokens.reshape(-1, tokens.shape[-2], heads, tokens.shape[-1] // heads).transpose(1, 2)


class PackedAttention(nn.Module):
    """Attention whose q, k and v weights are stored as one matrix (nn.MultiheadAttention's layout)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (F.linear(t, w, b) for t, w, b in zip((query, key, value), weights, biases, strict=True))
        out: Tensor = self.out_proj(_attend(q, k, v, self.heads, allowed))
        return out


class QueryAttention(nn.Module):
    """Self-attention among the queries; their positions enter the queries and keys, not the values."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, hidden: Tensor, position: Tensor) -> Tensor:
        placed = hidden + position
        attended = _attend(self.q_proj(placed), self.k_proj(placed), self.v_proj(hidden), self.heads)
        out: Tensor = self.out_proj(attended)
        return out


class MaskDecoderLayer(nn.Module):
    """Masked attention to the image, attention to the condition tokens, self-attention, MLP; post-norm."""

    def __init__(self, dim: int, heads: int, feedforward_dim: int) -> None:
        super().__init__()
        self.cross_attn = PackedAttention(dim, heads)
        self.cross_attn_layer_norm = nn.LayerNorm(dim)
        self.text_cross_attn = PackedAttention(dim, heads)
        self.text_cross_attn_layer_norm = nn.LayerNorm(dim)
        self.self_attn = QueryAttention(dim, heads)
        self.self_attn_layer_norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, feedforward_dim)
        self.fc2 = nn.Linear(feedforward_dim, dim)
        self.final_layer_norm = nn.LayerNorm(dim)

    def forward(
        self,
        hidden: Tensor,
        position: Tensor,
        key: Tensor,
        value: Tensor,
        allowed: Tensor,
        tokens: Tensor,
        token_mask: Tensor,
    ) -> Tensor:
        hidden = self.cross_attn_layer_norm(hidden + self.cross_attn(hidden + position, key, value, allowed))
        words = self.text_cross_attn(hidden + position, tokens, tokens, token_mask.unsqueeze(-2))
        hidden = self.text_cross_attn_layer_norm(hidden + words)
        hidden = self.self_attn_layer_norm(hidden + self.self_attn(hidden, position))
        update = self.fc2(F.relu(self.fc1(hidden)))
        out: Tensor = self.final_layer_norm(hidden + update)
        return out


class MaskPredictor(nn.Module):
    """Query → mask: a three-layer MLP, then a dot product with the mask features."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mask_embedder = nn.Sequential(
            nn.Sequential(nn.Linear(dim, dim), nn.ReLU()),
            nn.Sequential(nn.Linear(dim, dim), nn.ReLU()),
            nn.Sequential(nn.Linear(dim, dim), nn.Identity()),
        )

    def forward(self, queries: Tensor, mask_features: Tensor) -> Tensor:
        """queries: (Q, D) and mask_features (1, D, h, w), or both with a batch in front. Returns (…, Q, h, w)."""
        masks: Tensor = self.mask_embedder(queries) @ mask_features.flatten(2)
        return masks.view(*queries.shape[:-1], *mask_features.shape[-2:])


class MaskDecoderTrunk(nn.Module):
    """The layers with their shared norm and predictor, named as checkpoints name them (`decoder.decoder`)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        decoder = config.mask_decoder
        self.layers = nn.ModuleList(
            MaskDecoderLayer(config.dim, decoder.heads, decoder.feedforward_dim) for _ in range(decoder.layers)
        )
        self.layernorm = nn.LayerNorm(config.dim)
        self.mask_predictor = MaskPredictor(config.dim)


class MaskDecoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        queries, dim = config.mask_decoder.queries, config.dim
        self.queries_embedder = nn.Embedding(queries, dim)
        self.queries_features = nn.Embedding(queries, dim)
        self.level_embed = nn.Embedding(NUM_SCALES, dim)
        self.decoder = MaskDecoderTrunk(config)
        for scale, side in enumerate(config.grids):
            position = sine_position(side, dim).flatten(1).T
            self.register_buffer(f"position_{scale}", position, persistent=False)

    def forward(
        self,
        features: tuple[Tensor, ...],
        mask_features: Tensor,
        seg_embed: Tensor,
        tokens: Tensor,
        token_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """features: conditioned features low to high, each (1, D, h, w). mask_features: (1, D, S/4, S/4). seg_embed:
        (1, D), the projected state at `<SEG>`. tokens: (T, D) condition tokens; token_mask: (T,) bool, False = padding.

        Returns mask logits (Q, S/4, S/4) and query states (Q, D), the normalised queries. For a batch of B frames all
        of these, `seg_embed` (B, 1, D) among them, have B in front.
        """
        return self.predict(self.queries(features, mask_features, seg_embed, tokens, token_mask)[-1], mask_features)

    def queries(
        self,
        features: tuple[Tensor, ...],
        mask_features: Tensor,
        seg_embed: Tensor,
        tokens: Tensor,
        token_mask: Tensor,
    ) -> list[Tensor]:
        """The queries before the first layer and after each, (Q, D); training learns from all. Arguments: `forward`."""
        values = [f.flatten(2).mT + self.level_embed.weight[s] for s, f in enumerate(features)]
        keys = [value + self.get_buffer(f"position_{s}").to(value.dtype) for s, value in enumerate(values)]
        # A layer only asks where a resized mask is positive. Resizing is linear, as is the product with the mask
        # features, so these are resized once, instead of every query's mask before every layer.
        resized = [_resize(mask_features, feature.shape[-2:]) for feature in features]
        hidden = [self.queries_features.weight + seg_embed]
        for index, layer in enumerate(self.decoder.layers):
            scale = index % NUM_SCALES
            allowed = _may_attend(self.predict(hidden[-1], resized[scale])[0])
            hidden.append(
                layer(hidden[-1], self.queries_embedder.weight, keys[scale], values[scale], allowed, tokens, token_mask)
            )
        return hidden

    def predict(self, queries: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits and query states of queries (Q, D)."""
        states = self.decoder.layernorm(queries)
        return self.decoder.mask_predictor(states, mask_features), states


def _may_attend(masks: Tensor) -> Tensor:
    """Mask logits (…, Q, h, w) at a layer's grid. Returns (…, Q, h·w) bool, without gradient."""
    height, width = int(masks.shape[-2]), int(masks.shape[-1])
    allowed = attention_mask(masks.detach().float().flatten(0, -3), (height, width))
    return allowed.view(*masks.shape[:-2], -1)


def _resize(maps: Tensor, size: torch.Size) -> Tensor:
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


_LOGIT_LIMIT = 50.0
_PADDED = -1e6


class ClassPredictor(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.zeros(1))

    def forward(self, states: Tensor, conditions: Tensor, condition_mask: Tensor) -> Tensor:
        """states: (Q, D). conditions: (C + 1, D), background last. condition_mask: (C + 1,) bool, False = padding.

        Returns (Q, C + 1): exp(logit_scale) · cosine, clamped to ±50; −1e6 where padded.
        """
        cosine = F.normalize(states.float(), dim=-1) @ F.normalize(conditions.float(), dim=-1).mT
        logits = (self.logit_scale.float().exp() * cosine).clamp(-_LOGIT_LIMIT, _LOGIT_LIMIT)
        return logits.masked_fill(~condition_mask.unsqueeze(-2), _PADDED).to(states.dtype)
