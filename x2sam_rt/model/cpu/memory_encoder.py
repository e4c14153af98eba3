"""The memory encoder, optimised for CPUs: channels last throughout, the scales one batch once they are of a size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_rt.kernels.mask_fusion import mask_fusion
from x2sam_rt.model.cpu.layers import Convolution3x3, PackedLinear, channels_last, typed_children
from x2sam_rt.model.memory_encoder import (
    MASK_BIAS,
    MASK_SCALE,
    Downsampler,
    FuserLayer,
    HalvingLayer,
    MemoryEncoder,
)
from x2sam_rt.model.precision import fp32_copy


class CpuMemoryEncoder(nn.Module):
    """The stage `MemoryEncoderStage` with products of the given dtype; everything between them is float32."""

    def __init__(self, plain: MemoryEncoder, dtype: torch.dtype) -> None:
        super().__init__()
        downsamplers = list(typed_children(plain.vision_downsampler, Downsampler))
        self.vision_downsampler = nn.ModuleList(_Downsampler(downsamplers[scale], dtype) for scale in plain.scales)
        self._scales = plain.scales
        self.mask_downsampler = _Downsampler(plain.mask_downsampler, torch.float32)  # small: nothing to win
        self.fuser = nn.Sequential(
            *(_FuserLayer(layer, dtype) for layer in typed_children(plain.memory_fuser.layers, FuserLayer))
        )
        self.projection = PackedLinear.pointwise(plain.projection, dtype)

    def forward(self, low: Tensor, middle: Tensor, high: Tensor, mask_logits: Tensor, class_logits: Tensor) -> Tensor:
        fused = mask_fusion(class_logits.float(), mask_logits.float())
        mask = self.mask_downsampler(fused[..., None] * MASK_SCALE + MASK_BIAS)
        features = [(low, middle, high)[scale][0].permute(1, 2, 0) for scale in self._scales]
        pairs = zip(self.vision_downsampler, features, strict=True)
        maps = torch.stack([downsampler(feature) for downsampler, feature in pairs]) + mask
        slots: Tensor = self.projection(self.fuser(maps))
        return slots.flatten(1, 2)


class _Downsampler(nn.Module):
    def __init__(self, plain: Downsampler, dtype: torch.dtype) -> None:
        super().__init__()
        self.halvings = nn.Sequential(*(_Halving(layer, dtype) for layer in typed_children(plain.layers, HalvingLayer)))
        self.final = PackedLinear.pointwise(plain.final_conv, dtype)

    def forward(self, maps: Tensor) -> Tensor:
        """maps: (h, w, C). Returns (S/16, S/16, D) float32."""
        out: Tensor = self.final(self.halvings(maps)).float()
        return out


class _Halving(nn.Module):
    def __init__(self, plain: HalvingLayer, dtype: torch.dtype) -> None:
        super().__init__()
        self.convolution, self.norm = Convolution3x3(plain.conv, dtype), fp32_copy(plain.layer_norm)

    def forward(self, maps: Tensor) -> Tensor:
        return F.gelu(self.norm(self.convolution(maps).float()))


class _FuserLayer(nn.Module):
    def __init__(self, plain: FuserLayer, dtype: torch.dtype) -> None:
        super().__init__()
        self.depthwise = channels_last(plain.depthwise_conv)
        self.norm = fp32_copy(plain.layer_norm)
        self.first = PackedLinear.of(plain.pointwise_conv1, dtype, "gelu")
        # The residual's scale is part of the second layer.
        scale, second = plain.scale.float(), plain.pointwise_conv2
        self.second = PackedLinear(scale[:, None] * second.weight, scale * second.bias, dtype)

    def forward(self, maps: Tensor) -> Tensor:
        """maps: (scales, h, w, D) float32."""
        around = self.depthwise(maps.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        out: Tensor = maps + self.second(self.first(self.norm(around)))
        return out
