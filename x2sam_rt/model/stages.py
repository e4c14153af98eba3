"""The stages of a frame as modules with tensors in and tensors out: what is run by name, exported and verified."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from x2sam_rt.model.vision_encoder import VisionTower
from x2sam_rt.model.x2sam import X2SAM, Segmentor


class FrameEncoder(nn.Module):
    """Mask encoder and pixel decoder: needs no memory, so the next frame's may run ahead."""

    def __init__(self, segmentor: Segmentor) -> None:
        super().__init__()
        self.encoder = segmentor.encoder
        self.no_memory_embedding = segmentor.no_memory_embedding
        self.pixel_decoder = segmentor.pixel_decoder

    def forward(self, frame: Tensor, first: Tensor) -> tuple[Tensor, ...]:
        """frame: (1, 3, S, S) normalised. first: (1,), 1.0 for a clip's first frame, else 0.0. Both may be batches.

        Returns pixel features low to high (3 × (1, D, h, w)), mask features (1, D, S/4, S/4) and the region source
        (1, S/16, S/16, C).
        """
        pyramid, region_source = self.encoder(frame)
        low, middle, high, mask_features = self.decode(pyramid, first)
        return low, middle, high, mask_features, region_source

    def decode(self, pyramid: tuple[Tensor, Tensor, Tensor], first: Tensor) -> tuple[Tensor, ...]:
        no_memory = first.view(-1, 1, 1, 1) * self.no_memory_embedding[0, 0][None, :, None, None]
        high, middle, low = pyramid
        features, mask_features = self.pixel_decoder((high + no_memory, middle + no_memory, low + no_memory))
        return *features, mask_features


class MemoryAttentionStage(nn.Module):
    """Pixel features conditioned on the bank; from the second frame on."""

    def __init__(self, segmentor: Segmentor) -> None:
        super().__init__()
        self.memory_attention = segmentor.memory_attention

    def forward(self, low: Tensor, middle: Tensor, high: Tensor, memory: Tensor, gaps: Tensor) -> tuple[Tensor, ...]:
        """memory: (slots, 3, (S/16)², D), the live slots. gaps: (slots,) fp32 frames. Returns as the features."""
        out: tuple[Tensor, ...] = self.memory_attention((low, middle, high), memory, gaps)
        return out


class MaskDecoderStage(nn.Module):
    """Masks and their classes for one prompt."""

    def __init__(self, segmentor: Segmentor) -> None:
        super().__init__()
        self.decoder = segmentor.decoder
        self.class_predictor = segmentor.class_predictor

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
        """Masks of True mark real conditions (the background among them) and tokens; False is padding.

        Returns mask logits (Q, S/4, S/4), class logits (Q, C + 1) and query states (Q, D).
        """
        masks, states = self.decoder((low, middle, high), mask_features, seg, tokens, token_mask)
        return masks, self.class_predictor(states, conditions, condition_mask), states


class MemoryEncoderStage(nn.Module):
    """A decoded frame as one slot of the bank."""

    def __init__(self, segmentor: Segmentor) -> None:
        super().__init__()
        self.memory_encoder = segmentor.memory_encoder

    def forward(self, low: Tensor, middle: Tensor, high: Tensor, mask_logits: Tensor, class_logits: Tensor) -> Tensor:
        """Features are the frame's own, not the conditioned ones. Returns (3, (S/16)², D)."""
        out: Tensor = self.memory_encoder((low, middle, high), mask_logits, class_logits)
        return out


# Every stage a bundle holds, in the order a frame meets them.
STAGE_MODULES: dict[str, Callable[[X2SAM], nn.Module]] = {
    "frame_encoder": lambda model: FrameEncoder(model.segmentor),
    "memory_attention": lambda model: MemoryAttentionStage(model.segmentor),
    "mask_decoder": lambda model: MaskDecoderStage(model.segmentor),
    "memory_encoder": lambda model: MemoryEncoderStage(model.segmentor),
    "vision_encoder": lambda model: VisionTower(model.vlm.model.visual),
}


def stage_module(model: X2SAM, name: str) -> nn.Module:
    """The stage by name, in evaluation mode. Raises KeyError for an unknown name."""
    with torch.no_grad():
        return STAGE_MODULES[name](model).eval()
