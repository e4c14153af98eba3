"""Stages as a CPU runs them fastest: the same numbers from weights that are laid out, joined and folded once."""

from __future__ import annotations

import torch
from torch import nn

from x2sam_rt.model.prepared.frame_encoder import PreparedFrameEncoder
from x2sam_rt.model.prepared.mask_decoder import PreparedMaskDecoder
from x2sam_rt.model.prepared.memory_attention import PreparedMemoryAttention
from x2sam_rt.model.prepared.memory_encoder import PreparedMemoryEncoder
from x2sam_rt.model.stages import FrameEncoder, MaskDecoderStage, MemoryAttentionStage, MemoryEncoderStage


@torch.no_grad()
def prepare(stage: nn.Module) -> nn.Module:
    """A stage for inference on a CPU, with products in the dtype of its weights; a stage without a prepared twin as it
    is. The stage's weights may be dropped afterwards.

    For bfloat16 only the products are: what they add up to, norms, softmax and residuals are float32, and so is all
    that leads to the mask features alone. What that does to masks: `benchmarks/bench_frame.py --precision bf16`.
    """
    dtype = next(stage.parameters()).dtype
    if isinstance(stage, FrameEncoder):
        return PreparedFrameEncoder(stage, dtype)
    if isinstance(stage, MemoryAttentionStage):
        return PreparedMemoryAttention(stage.memory_attention, dtype)
    if isinstance(stage, MaskDecoderStage):
        return PreparedMaskDecoder(stage, dtype)
    if isinstance(stage, MemoryEncoderStage):
        return PreparedMemoryEncoder(stage.memory_encoder, dtype)
    return stage
