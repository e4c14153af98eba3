"""The assembly: segmentor, vision-language model and the projectors between them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.mask_decoder import ClassPredictor, MaskDecoder
from x2sam_rt.model.mask_encoder import MaskEncoder
from x2sam_rt.model.memory_attention import MemoryAttention
from x2sam_rt.model.memory_encoder import MemoryEncoder
from x2sam_rt.model.pixel_decoder import PixelDecoder


class X2SAM(nn.Module):
    """All weights of a model, named as a single-file checkpoint names them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.segmentor: Segmentor = Segmentor(config)
        self.vlm: Qwen3VLForConditionalGeneration = Qwen3VLForConditionalGeneration(language_config(config))
        self.extra_projector = Projector(4 * config.mask_encoder.region_dim, config.language_dim)
        self.mlm_projector = Projector(config.language_dim, config.dim)
        self.bg_embeds = nn.Embedding(1, config.dim)


def language_config(config: ModelConfig) -> Qwen3VLConfig:
    # transformers completes and rewrites the dictionaries it is given.
    return Qwen3VLConfig(**copy.deepcopy(dict(config.language)))


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


class Projector(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Linear(dim_in, dim_out), nn.GELU(), nn.Linear(dim_out, dim_out))

    def forward(self, states: Tensor) -> Tensor:
        out: Tensor = self.model(states)
        return out
