"""The mask decoder, optimised for CPUs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_rt.config import NUM_SCALES
from x2sam_rt.kernels.mask_fusion import attention_mask
from x2sam_rt.model.cpu.layers import FeedForward, PackedLinear, typed_children
from x2sam_rt.model.mask_decoder import MaskDecoder, MaskDecoderLayer, MaskPredictor, PackedAttention, QueryAttention
from x2sam_rt.model.precision import fp32_copy
from x2sam_rt.model.stages import MaskDecoderStage


class CpuMaskDecoder(nn.Module):
    """The stage `MaskDecoderStage` with products of the given dtype; everything between them is float32."""

    def __init__(self, plain: MaskDecoderStage, dtype: torch.dtype) -> None:
        super().__init__()
        decoder: MaskDecoder = plain.decoder
        position = decoder.queries_embedder.weight.float()
        layers = typed_children(decoder.decoder.layers, MaskDecoderLayer)
        self.layers = nn.ModuleList(_Layer(layer, position, dtype) for layer in layers)
        self.norm, self.mlp = fp32_copy(decoder.decoder.layernorm), _mask_mlp(decoder.decoder.mask_predictor, dtype)
        self.class_predictor = fp32_copy(plain.class_predictor)
        self._queries, self._dtype = decoder.queries_features.weight.float(), dtype
        self._levels = decoder.level_embed.weight.float()
        self._positions = [decoder.get_buffer(f"position_{scale}") for scale in range(NUM_SCALES)]

    def forward(
        self,
        low: Tensor,
        middle: Tensor,
        high: Tensor,
        mask_features: Tensor,
        seg: Tensor,
        conditions: Tensor,
        condition_mask: Tensor,
        tokens: Tensor,
        token_mask: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        features = (low, middle, high)
        values = [f[0].flatten(1).T.contiguous() + level for f, level in zip(features, self._levels, strict=True)]
        keys = [(v + place).to(self._dtype) for v, place in zip(values, self._positions, strict=True)]
        values, tokens = [value.to(self._dtype) for value in values], tokens.to(self._dtype)
        resized = [_resize(mask_features[0], feature.shape[-1]).to(self._dtype) for feature in features]
        hidden = self._queries + seg
        for index, layer in enumerate(self.layers):
            scale = index % NUM_SCALES
            masks, _ = self._predict(hidden, resized[scale])
            allowed = attention_mask(masks, (masks.shape[-2], masks.shape[-1]))
            hidden = layer(hidden, keys[scale], values[scale], allowed, tokens, token_mask)
        masks, states = self._predict(hidden, mask_features[0].to(self._dtype))
        return masks, self.class_predictor(states, conditions.float(), condition_mask), states

    def _predict(self, hidden: Tensor, mask_features: Tensor) -> tuple[Tensor, Tensor]:
        """hidden: (Q, D). mask_features: (D, h, w). Returns mask logits (Q, h, w) and query states, float32."""
        states = self.norm(hidden)
        masks = self.mlp(states) @ mask_features.flatten(1)
        return masks.float().view(-1, *mask_features.shape[1:]), states


class _Layer(nn.Module):
    def __init__(self, plain: MaskDecoderLayer, position: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.cross, self.text = _CrossAttention(plain.cross_attn, dtype), _CrossAttention(plain.text_cross_attn, dtype)
        self.own = _SelfAttention(plain.self_attn, position, dtype)
        self.feed_forward = FeedForward(plain.fc1, plain.fc2, "relu", dtype)
        norms = (
            plain.cross_attn_layer_norm,
            plain.text_cross_attn_layer_norm,
            plain.self_attn_layer_norm,
            plain.final_layer_norm,
        )
        self.norms = nn.ModuleList(fp32_copy(norm) for norm in norms)
        self._position = position

    def forward(
        self, hidden: Tensor, key: Tensor, value: Tensor, allowed: Tensor, tokens: Tensor, token_mask: Tensor
    ) -> Tensor:
        after_image, after_text, after_queries, last = self.norms
        hidden = after_image(hidden + self.cross(hidden + self._position, key, value, allowed))
        hidden = after_text(hidden + self.text(hidden + self._position, tokens, tokens, token_mask[None]))
        hidden = after_queries(hidden + self.own(hidden))
        out: Tensor = last(hidden + self.feed_forward(hidden))
        return out


class _CrossAttention(nn.Module):
    def __init__(self, plain: PackedAttention, dtype: torch.dtype) -> None:
        super().__init__()
        weights, biases = plain.in_proj_weight.chunk(3), plain.in_proj_bias.chunk(3)
        self.query, self.key, self.value = (
            PackedLinear(weight, bias, dtype) for weight, bias in zip(weights, biases, strict=True)
        )
        self.output, self._heads = PackedLinear.of(plain.out_proj, dtype), plain.heads

    def forward(self, query: Tensor, key: Tensor, value: Tensor, allowed: Tensor) -> Tensor:
        attended = _attend(self.query(query), self.key(key), self.value(value), self._heads, allowed)
        out: Tensor = self.output(attended)
        return out


class _SelfAttention(nn.Module):
    """Among the queries. What their positions, which are constant, give to queries and keys is a table."""

    def __init__(self, plain: QueryAttention, position: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        query, key, value = (fp32_copy(part) for part in (plain.q_proj, plain.k_proj, plain.v_proj))
        self.project = PackedLinear(torch.cat((query.weight, key.weight, value.weight)), None, dtype)
        self._table = torch.cat((query(position), key(position), value(torch.zeros_like(position))), dim=-1)
        self.output, self._heads, self._dtype = PackedLinear.of(plain.out_proj, dtype), plain.heads, dtype

    def forward(self, hidden: Tensor) -> Tensor:
        query, key, value = (self.project(hidden) + self._table).to(self._dtype).chunk(3, dim=-1)
        out: Tensor = self.output(_attend(query, key, value, self._heads))
        return out


def _resize(maps: Tensor, side: int) -> Tensor:
    """Bilinear, (D, h, h) to (D, side, side), of which h is an even multiple: the mean of the four middle places."""
    step = maps.shape[-1] // side
    if step == 1:
        return maps
    before, after = slice(step // 2 - 1, None, step), slice(step // 2, None, step)
    rows = maps[:, before].float() + maps[:, after]
    return (rows[..., before] + rows[..., after]) / 4


def _mask_mlp(plain: MaskPredictor, dtype: torch.dtype) -> nn.Sequential:
    *inner, last = (module for module in plain.modules() if isinstance(module, nn.Linear))
    return nn.Sequential(*(PackedLinear.of(linear, dtype, "relu") for linear in inner), PackedLinear.of(last, dtype))


def _attend(query: Tensor, key: Tensor, value: Tensor, heads: int, allowed: Tensor | None = None) -> Tensor:
    """query: (Q, D). key, value: (N, D). allowed: bool, (1 or Q, N)."""
    q, k, v = (part.view(1, len(part), heads, -1).transpose(1, 2) for part in (query, key, value))
    mask = None if allowed is None else allowed.expand(len(query), -1)[None, None]
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attended[0].transpose(0, 1).flatten(1)
