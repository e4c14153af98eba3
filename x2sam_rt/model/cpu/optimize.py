"""Stages as a CPU runs them fastest: the same numbers from weights that are laid out, joined and folded once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from x2sam_rt.model.cpu.mask_decoder import CpuMaskDecoder
from x2sam_rt.model.cpu.mask_encoder import CpuMaskEncoder
from x2sam_rt.model.cpu.memory_attention import CpuMemoryAttention
from x2sam_rt.model.cpu.memory_encoder import CpuMemoryEncoder
from x2sam_rt.model.cpu.pixel_decoder import CpuPixelDecoder
from x2sam_rt.model.stages import FrameEncoder, MaskDecoderStage, MemoryAttentionStage, MemoryEncoderStage


@torch.no_grad()
def optimize_for_cpu(stage: nn.Module) -> nn.Module:
    """A stage for inference on a CPU, with products in the dtype of its weights; a stage without a CPU twin as it
    is. The stage's weights may be dropped afterwards.

    For bfloat16 only the products are: what they add up to, norms, softmax and residuals are float32, and so is all
    that leads to the mask features alone. What that does to masks: `benchmarks/bench_frame.py --precision bf16`.
    """
    dtype = next(stage.parameters()).dtype
    if isinstance(stage, FrameEncoder):
        return CpuFrameEncoder(stage, dtype)
    if isinstance(stage, MemoryAttentionStage):
        return CpuMemoryAttention(stage.memory_attention, dtype)
    if isinstance(stage, MaskDecoderStage):
        return CpuMaskDecoder(stage, dtype)
    if isinstance(stage, MemoryEncoderStage):
        return CpuMemoryEncoder(stage.memory_encoder, dtype)
    return stage


class CpuFrameEncoder(nn.Module):
    """The stage `FrameEncoder` with products of the given dtype; everything between them is float32."""

    def __init__(self, plain: FrameEncoder, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoder = CpuMaskEncoder(plain.encoder, dtype)
        self.pixel_decoder = CpuPixelDecoder(plain.pixel_decoder, dtype)
        self._no_memory = plain.no_memory_embedding[0, 0].float()

    def forward(self, frame: Tensor, first: Tensor) -> tuple[Tensor, ...]:
        pyramid, region_source = self.encoder(frame.float())
        no_memory = first.float() * self._no_memory
        return *self.pixel_decoder([maps + no_memory for maps in pyramid]), region_source
