"""The pixel decoder: Mask2Former's multi-scale deformable attention and one pyramid level on top."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import Mask2FormerPixelDecoder

from x2sam_rt.config import NUM_SCALES, ModelConfig
from x2sam_rt.kernels.deformable_attention import deformable_attention
from x2sam_rt.model.position import sine_position


class PixelDecoder(Mask2FormerPixelDecoder):  # type: ignore[misc]
    """transformers' parameters under a forward of our own.

    Identical in numbers to the parent. It differs in what it leaves out (padding masks and valid ratios, which are
    constant for a square input) and in calling our deformable attention, which exports as one node.
    """

    def __init__(self, config: ModelConfig) -> None:
        decoder = config.pixel_decoder
        parent = Mask2FormerConfig(
            feature_size=config.dim,
            mask_feature_size=config.dim,
            hidden_dim=config.dim,
            encoder_feedforward_dim=decoder.feedforward_dim,
            encoder_layers=decoder.layers,
            num_attention_heads=decoder.heads,
        )
        super().__init__(parent, feature_channels=[config.dim] * NUM_SCALES)
        # The parent leaves this one to whatever memory it got.
        nn.init.normal_(self.level_embed)
        self.shapes = [(side, side) for side in config.grids]
        self._sizes = [side * side for side in config.grids]
        positions = [sine_position(side, config.dim).flatten(1).T for side in config.grids]
        self.register_buffer("positions", torch.cat(positions), persistent=False)
        # Offsets are in cells of their level.
        self.register_buffer("cell", torch.tensor([(1 / w, 1 / h) for h, w in self.shapes]), persistent=False)
        self.register_buffer("reference", torch.cat([_cell_centres(side) for side in config.grids]), persistent=False)

    def forward(self, pyramid: tuple[Tensor, Tensor, Tensor]) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """pyramid: high to low resolution, each (B, D, h, w).

        Returns pixel features, low to high resolution, each (B, D, h, w), and mask features (B, D, S/4, S/4).
        """
        levels = list(reversed(pyramid))
        tokens = torch.cat([self._project(i, level) for i, level in enumerate(levels)], dim=1)
        position = self.positions.to(tokens.dtype) + self._level_embedding()
        for layer in self.encoder.layers:
            tokens = self._encoder_layer(layer, tokens, position)
        maps = [
            part.mT.reshape(len(part), -1, height, width)
            for part, (height, width) in zip(torch.split(tokens, self._sizes, dim=1), self.shapes, strict=True)
        ]
        return (maps[0], maps[1], maps[2]), self.mask_projection(self._finest(pyramid[0], maps[-1]))

    def _project(self, level: int, features: Tensor) -> Tensor:
        projected: Tensor = self.input_projections[level](features)
        return projected.flatten(2).transpose(1, 2)

    def _level_embedding(self) -> Tensor:
        """(tokens, D): each token's level."""
        return torch.cat([row.expand(size, -1) for row, size in zip(self.level_embed, self._sizes, strict=True)])

    def _encoder_layer(self, layer: Any, tokens: Tensor, position: Tensor) -> Tensor:
        tokens = layer.self_attn_layer_norm(tokens + self._attend(layer.self_attn, tokens, position))
        update = layer.fc2(F.relu(layer.fc1(tokens)))
        out: Tensor = layer.final_layer_norm(tokens + update)
        return out

    def _attend(self, attention: Any, tokens: Tensor, position: Tensor) -> Tensor:
        batch, count, _ = tokens.shape
        heads, levels, points = attention.n_heads, attention.n_levels, attention.n_points
        query = tokens + position
        value = attention.value_proj(tokens).view(batch, count, heads, -1)
        offsets = attention.sampling_offsets(query).view(batch, count, heads, levels, points, 2)
        weights = attention.attention_weights(query).view(batch, count, heads, levels * points).softmax(-1)
        locations = self.reference[None, :, None, None, None] + offsets * self.cell[:, None]
        weights = weights.view(batch, count, heads, levels, points)
        # Places between pixels need fp32, whatever the model's precision.
        sampled = deformable_attention(value.float(), self.shapes, locations.float(), weights.float())
        out: Tensor = attention.output_proj(sampled.to(tokens.dtype))
        return out

    def _finest(self, lateral: Tensor, coarse: Tensor) -> Tensor:
        lateral = self.adapter_1(lateral)
        out: Tensor = self.layer_1(
            lateral + F.interpolate(coarse, size=lateral.shape[-2:], mode="bilinear", align_corners=False)
        )
        return out


def _cell_centres(side: int) -> Tensor:
    """Centres of a square grid's cells, (side², 2), x then y, 0…1."""
    centre = (torch.arange(side, dtype=torch.float32) + 0.5) / side
    rows, columns = torch.meshgrid(centre, centre, indexing="ij")
    return torch.stack((columns, rows), dim=-1).view(-1, 2)
