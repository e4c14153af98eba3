"""The memory encoder: a decoded frame becomes one slot of the memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from x2sam_rt.config import NUM_SCALES, SCALES, ModelConfig
from x2sam_rt.kernels.mask_fusion import mask_fusion

_NORM_EPS = 1e-6
_FUSER_KERNEL = 7
# SAM 2 feeds masks to its memory as logits in ±10.
MASK_SCALE, MASK_BIAS = 20.0, -10.0


def _channel_norm(norm: nn.LayerNorm, maps: Tensor) -> Tensor:
    """Layer norm over the channels of (1, C, H, W)."""
    out: Tensor = norm(maps.permute(0, 2, 3, 1))
    return out.permute(0, 3, 1, 2)


class HalvingLayer(nn.Module):
    """3×3 convolution of stride 2, channel norm, GELU."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel_size=3, stride=2, padding=1)
        self.layer_norm = nn.LayerNorm(channels_out, eps=_NORM_EPS)

    def forward(self, maps: Tensor) -> Tensor:
        return F.gelu(_channel_norm(self.layer_norm, self.conv(maps)))


class Downsampler(nn.Module):
    """Halves a map `halvings` times, four times the channels each, then projects to `dim`."""

    def __init__(self, channels: int, dim: int, halvings: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            HalvingLayer(channels * 4**step, channels * 4 ** (step + 1)) for step in range(halvings)
        )
        self.final_conv = nn.Conv2d(channels * 4**halvings, dim, kernel_size=1)

    def forward(self, maps: Tensor) -> Tensor:
        for layer in self.layers:
            maps = layer(maps)
        out: Tensor = self.final_conv(maps)
        return out


class FuserLayer(nn.Module):
    """ConvNeXt-style block with a learned residual scale."""

    def __init__(self, dim: int, feedforward_dim: int) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(dim, dim, _FUSER_KERNEL, padding=_FUSER_KERNEL // 2, groups=dim)
        self.layer_norm = nn.LayerNorm(dim, eps=_NORM_EPS)
        self.pointwise_conv1 = nn.Linear(dim, feedforward_dim)
        self.pointwise_conv2 = nn.Linear(feedforward_dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, maps: Tensor) -> Tensor:
        hidden = self.layer_norm(self.depthwise_conv(maps).permute(0, 2, 3, 1))
        hidden = self.scale * self.pointwise_conv2(F.gelu(self.pointwise_conv1(hidden)))
        out: Tensor = maps + hidden.permute(0, 3, 1, 2)
        return out


class MemoryFuser(nn.Module):
    def __init__(self, dim: int, feedforward_dim: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(FuserLayer(dim, feedforward_dim) for _ in range(layers))

    def forward(self, maps: Tensor) -> Tensor:
        for layer in self.layers:
            maps = layer(maps)
        return maps


class MemoryEncoder(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        dim, memory = config.dim, config.memory
        self.vision_downsampler = nn.ModuleList(Downsampler(dim, dim, halvings=s) for s in range(NUM_SCALES))
        self.mask_downsampler = Downsampler(1, dim, halvings=2)
        self.memory_fuser = MemoryFuser(dim, memory.fuser_feedforward_dim, memory.fuser_layers)
        self.projection = nn.Conv2d(dim, dim, kernel_size=1)
        self.scales = tuple(SCALES.index(scale) for scale in memory.scales)

    def forward(self, features: tuple[Tensor, ...], mask_logits: Tensor, class_logits: Tensor) -> Tensor:
        """features: the frame's own pixel features (not the conditioned ones), low to high, each (1, D, h, w).
        mask_logits: (Q, S/4, S/4). class_logits: (Q, C + 1).

        Returns one slot (scales, (S/16)², D).
        """
        fused = mask_fusion(class_logits.float(), mask_logits.float())
        return self.encode(features, fused[None].to(mask_logits.dtype))[0]

    def encode(self, features: tuple[Tensor, ...], fused: Tensor) -> Tensor:
        """features: as `forward`, a batch of B frames. fused: (B, S/4, S/4), 0…1: what each frame's masks say.

        Returns (B, scales, (S/16)², D).
        """
        mask = self.mask_downsampler(fused[:, None] * MASK_SCALE + MASK_BIAS)
        slots = [self._fuse(scale, features[scale], mask) for scale in self.scales]
        return torch.stack([slot.flatten(2).mT for slot in slots], dim=1)

    def _fuse(self, scale: int, feature: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self.projection(self.memory_fuser(self.vision_downsampler[scale](feature) + mask))
        return out
