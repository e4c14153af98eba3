"""The pixel decoder, optimised for CPUs: channels last, sampling places and weights out of one product."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from x2sam_rt.kernels.deformable_attention import deformable_attention
from x2sam_rt.model.cpu.layers import Convolution3x3, FeedForward, PackedLinear, row_chunks
from x2sam_rt.model.pixel_decoder import PixelDecoder
from x2sam_rt.model.precision import fp32_copy


class CpuPixelDecoder(nn.Module):
    """`PixelDecoder` with products of the given dtype, but for those of the mask features."""

    def __init__(self, plain: PixelDecoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(_NormedProjection(part, dtype) for part in plain.input_projections)
        self.layers = nn.ModuleList(_Layer(layer, plain, dtype) for layer in plain.encoder.layers)
        # Inside and outside of a mask differ by the sign of a sum: what leads to the mask features alone is float32.
        self.lateral = _NormedProjection(plain.adapter_1, torch.float32)
        self.smooth, self.smooth_norm = Convolution3x3(plain.layer_1[0], torch.float32), fp32_copy(plain.layer_1[1])
        self.mask_projection = PackedLinear.pointwise(plain.mask_projection, torch.float32)
        self._shapes, self._sizes = plain.shapes, [height * width for height, width in plain.shapes]
        levels = [row.expand(size, -1) for row, size in zip(plain.level_embed.float(), self._sizes, strict=True)]
        self._position = plain.positions + torch.cat(levels)
        # Places as the sampling product lays them out: adding them is one pass over whole rows.
        self._reference = plain.reference.repeat(1, self.layers[0].cells)

    def forward(self, pyramid: list[Tensor]) -> tuple[Tensor, ...]:
        """pyramid: low to high resolution, each (h, w, D) float32.

        Returns pixel features, low to high resolution, and mask features, each (1, D, h, w).
        """
        tokens = torch.cat([project(maps).flatten(0, 1) for project, maps in zip(self.inputs, pyramid, strict=True)])
        for layer in self.layers:
            layer(tokens, self._position, self._reference, self._shapes)
        features = [
            part.view(*shape, -1) for part, shape in zip(torch.split(tokens, self._sizes), self._shapes, strict=True)
        ]
        # The finest features are of the lateral's size already: nothing to resize.
        finest = self.smooth(self.lateral(pyramid[-1]) + features[-1])
        masks = self.mask_projection(channels_last_group_norm(self.smooth_norm, finest).relu_())
        return tuple(maps.permute(2, 0, 1)[None] for maps in (*features, masks))


class _NormedProjection(nn.Module):
    """1×1 convolution and group norm."""

    def __init__(self, plain: Any, dtype: torch.dtype) -> None:
        """plain: nn.Sequential of the two."""
        super().__init__()
        self.product, self.norm = PackedLinear.pointwise(plain[0], dtype), fp32_copy(plain[1])

    def forward(self, maps: Tensor) -> Tensor:
        return channels_last_group_norm(self.norm, self.product(maps).float())


class _Layer(nn.Module):
    """Deformable attention and MLP; post-norm."""

    def __init__(self, plain: Any, decoder: PixelDecoder, dtype: torch.dtype) -> None:
        """plain: transformers' encoder layer of `decoder`."""
        super().__init__()
        attention = plain.self_attn
        self._heads, self._levels, self._points = attention.n_heads, attention.n_levels, attention.n_points
        self.cells = self._heads * self._levels * self._points
        self.value = PackedLinear.of(attention.value_proj, dtype)
        self.sample = _sampling(attention, decoder.cell, dtype)
        self.output = PackedLinear.of(attention.output_proj, dtype)
        self.feed_forward = FeedForward(plain.fc1, plain.fc2, "relu", dtype)
        self.norm1, self.norm2 = fp32_copy(plain.self_attn_layer_norm), fp32_copy(plain.final_layer_norm)

    def forward(self, tokens: Tensor, position: Tensor, reference: Tensor, shapes: list[tuple[int, int]]) -> None:
        """tokens: (N, D) float32, changed in place. position: (N, D). reference: (N, 2 · cells)."""
        sampled = self._attend(tokens, position, reference, shapes)
        for chunk, samples in row_chunks(tokens, sampled):
            attended = self.norm1(chunk + self.output(samples))
            chunk.copy_(self.norm2(attended + self.feed_forward(attended)))

    def _attend(self, tokens: Tensor, position: Tensor, reference: Tensor, shapes: list[tuple[int, int]]) -> Tensor:
        count = len(tokens)
        value, locations = tokens.new_empty(tokens.shape), tokens.new_empty(reference.shape)
        weights = tokens.new_empty(count, self._heads, self._levels * self._points)
        for chunk, place, start, value_out, location_out, weight_out in row_chunks(
            tokens, position, reference, value, locations, weights
        ):
            value_out.copy_(self.value(chunk))
            offsets, scores = self.sample(chunk + place).tensor_split((2 * self.cells,), dim=-1)
            torch.add(offsets, start, out=location_out)
            weight_out.copy_(_softmax(scores.float().view(weight_out.shape)))
        cells = (1, count, self._heads, self._levels, self._points)
        value, locations = value.view(1, count, self._heads, -1), locations.view(*cells, 2)
        return deformable_attention(value, shapes, locations, weights.view(cells))[0]


def _sampling(attention: Any, cell: Tensor, dtype: torch.dtype) -> PackedLinear:
    """Offsets, scaled to shares of their level's extent, and then weights."""
    offsets, weights = attention.sampling_offsets, attention.attention_weights
    scale = cell[None, :, None].expand(attention.n_heads, -1, attention.n_points, -1).flatten()
    weight = torch.cat((scale[:, None] * offsets.weight, weights.weight.float()))
    return PackedLinear(weight, torch.cat((scale * offsets.bias, weights.bias.float())), dtype)


def _softmax(scores: Tensor) -> Tensor:
    """Over the last axis. PyTorch's own takes six times as long for rows as short as these."""
    weights = (scores - scores.amax(-1, keepdim=True)).exp_()
    return weights.div_(weights.sum(-1, keepdim=True))


def channels_last_group_norm(norm: nn.GroupNorm, maps: Tensor) -> Tensor:
    """maps: (h, w, C).

    For channels-last maps PyTorch computes E[x²] − E[x]², which is only exact where the mean is small: it is taken out
    first.
    """
    means = maps.mean((0, 1)).view(norm.num_groups, -1).mean(1)
    centred = maps - means.repeat_interleave(maps.shape[-1] // norm.num_groups)
    out: Tensor = norm(centred.permute(2, 0, 1)[None])
    return out[0].permute(1, 2, 0)
