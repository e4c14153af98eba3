"""The frame encoder, prepared for a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from x2sam_rt.model.prepared.mask_encoder import PreparedMaskEncoder
from x2sam_rt.model.prepared.pixel_decoder import PreparedPixelDecoder
from x2sam_rt.model.stages import FrameEncoder


class PreparedFrameEncoder(nn.Module):
    """The stage `FrameEncoder` with products of the given dtype; everything between them is float32."""

    def __init__(self, plain: FrameEncoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder = PreparedMaskEncoder(plain.encoder, dtype)
        self.pixel_decoder = PreparedPixelDecoder(plain.pixel_decoder, dtype)
        self._no_memory = plain.no_memory_embedding[0, 0].float()

    def forward(self, frame: Tensor, first: Tensor) -> tuple[Tensor, ...]:
        pyramid, region_source = self.encoder(frame.float())
        no_memory = first.float() * self._no_memory
        return *self.pixel_decoder([maps + no_memory for maps in pyramid]), region_source
