"""The segmentor: every part of X2SAM that runs once per frame."""

from __future__ import annotations

import torch
from torch import nn

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.class_predictor import ClassPredictor
from x2sam_rt.model.mask_decoder import MaskDecoder
from x2sam_rt.model.mask_encoder import MaskEncoder
from x2sam_rt.model.memory_attention import MemoryAttention
from x2sam_rt.model.memory_encoder import MemoryEncoder
from x2sam_rt.model.pixel_decoder import PixelDecoder


class SharedImageEmbedding(nn.Module):
    """Stored by every checkpoint (SAM 2's prompt positions), read by nothing in X2SAM."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(2, dim // 2))


class Segmentor(nn.Module):
    """Holds the parts under the names checkpoints use; `stages` composes them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.encoder = MaskEncoder(config)
        self.no_memory_embedding = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.shared_image_embedding = SharedImageEmbedding(config.dim)
        self.pixel_decoder = PixelDecoder(config)
        self.decoder = MaskDecoder(config)
        self.memory_attention = MemoryAttention(config)
        self.memory_encoder = MemoryEncoder(config)
        self.class_predictor = ClassPredictor()
