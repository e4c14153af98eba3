"""The mask encoder: SAM 2.1's Hiera trunk and feature pyramid."""

from __future__ import annotations

from typing import cast

from torch import Tensor
from transformers import Sam2HieraDetConfig, Sam2VisionConfig, Sam2VisionModel

from x2sam_rt.config import ModelConfig


class MaskEncoder(Sam2VisionModel):  # type: ignore[misc]
    """transformers' Sam2VisionModel (its parameters and parts), without the position maps nobody reads here."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(_vision_config(config))

    def forward(self, frame: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """frame: (1, 3, S, S) normalised RGB.

        Returns the pyramid, high to low resolution (strides 4, 8, 16), each (1, D, h, w), and the region source: the
        third stage's output (1, S/16, S/16, C), channels last.
        """
        stages = self.backbone(frame).intermediate_hidden_states
        pyramid, _ = self.neck(stages)
        low, middle, high = pyramid[-3:]
        return cast(tuple[Tensor, Tensor, Tensor], (high, middle, low)), stages[2]


def _vision_config(config: ModelConfig) -> Sam2VisionConfig:
    encoder, size = config.mask_encoder, config.image_size
    trunk = Sam2HieraDetConfig(
        hidden_size=encoder.embed_dims[0],
        num_attention_heads=encoder.heads[0],
        image_size=[size, size],
        blocks_per_stage=list(encoder.blocks),
        embed_dim_per_stage=list(encoder.embed_dims),
        num_attention_heads_per_stage=list(encoder.heads),
        window_size_per_stage=list(encoder.windows),
        global_attention_blocks=list(encoder.global_blocks),
        window_positional_embedding_background_size=list(encoder.window_grid),
    )
    return Sam2VisionConfig(
        backbone_config=trunk,
        backbone_channel_list=list(reversed(encoder.embed_dims)),
        backbone_feature_sizes=[[side, side] for side in reversed(config.grids)],
        fpn_hidden_size=config.dim,
    )
