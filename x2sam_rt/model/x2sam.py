"""The assembly: segmentor, vision-language model and the projectors between them."""

from __future__ import annotations

import copy

from torch import nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.projector import Projector
from x2sam_rt.model.segmentor import Segmentor


class X2SAM(nn.Module):
    """All weights of a model, named as a single-file checkpoint names them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.segmentor = Segmentor(config)
        self.vlm = Qwen3VLForConditionalGeneration(language_config(config))
        self.extra_projector = Projector(4 * config.mask_encoder.region_dim, config.language_dim)
        self.mlm_projector = Projector(config.language_dim, config.dim)
        self.bg_embeds = nn.Embedding(1, config.dim)


def language_config(config: ModelConfig) -> Qwen3VLConfig:
    # transformers completes and rewrites the dictionaries it is given.
    return Qwen3VLConfig(**copy.deepcopy(dict(config.language)))
