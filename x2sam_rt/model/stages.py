"""The stages of a frame as modules with tensors in and tensors out: what is run by name, exported and verified.

Beside each module stands what crosses its border, in the order of its arguments and results.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from x2sam_rt.config import SCALES, ModelConfig
from x2sam_rt.model.stage_contract import Sizes, StageContract, TensorSpec
from x2sam_rt.model.vision_encoder import VisionTower

if TYPE_CHECKING:  # a bundle's manifest is checked without the language model's libraries
    from x2sam_rt.model.x2sam import X2SAM, Segmentor

Signature = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]  # inputs, outputs


def pixel_features(config: ModelConfig, dtype: str, prefix: str = "") -> tuple[TensorSpec, ...]:
    """Feature maps from low to high resolution, strides 16, 8 and 4."""
    grids = zip(SCALES, config.grids, strict=True)
    return tuple(TensorSpec(prefix + scale, (1, config.dim, side, side), dtype) for scale, side in grids)


def mask_features(config: ModelConfig, dtype: str) -> TensorSpec:
    """What queries are multiplied with to become masks."""
    high = config.grids[-1]
    return TensorSpec("mask_features", (1, config.dim, high, high), dtype)


def predicted_logits(config: ModelConfig, dtype: str) -> tuple[TensorSpec, TensorSpec]:
    """What the mask decoder says of a frame and the memory keeps of it."""
    queries, high = config.mask_decoder.queries, config.grids[-1]
    masks = TensorSpec("mask_logits", (queries, high, high), dtype)
    return masks, TensorSpec("class_logits", (queries, "conditions"), dtype)


def slot_shape(config: ModelConfig) -> tuple[int, int, int]:
    """One slot of the bank: scales that look at it, tokens, channels."""
    return (len(config.memory.scales), config.slot_tokens, config.dim)


class FrameEncoder(nn.Module):
    """Mask encoder and pixel decoder: needs no memory, so the next frame's may run ahead."""

    def __init__(self, segmentor: Segmentor) -> None:
        super().__init__()
        self.encoder = segmentor.encoder
        self.no_memory_embedding = segmentor.no_memory_embedding
        self.pixel_decoder = segmentor.pixel_decoder

    @staticmethod
    def signature(config: ModelConfig, dtype: str) -> Signature:
        side, low = config.image_size, config.grids[0]
        region_source = TensorSpec("region_source", (1, low, low, config.mask_encoder.region_dim), dtype)
        return (
            (TensorSpec("frame", (1, 3, side, side), dtype), TensorSpec("first", (1,), dtype)),
            (*pixel_features(config, dtype), mask_features(config, dtype), region_source),
        )

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

    @staticmethod
    def signature(config: ModelConfig, dtype: str) -> Signature:
        memory = TensorSpec("memory", ("slots", *slot_shape(config)), dtype)
        frame_offsets = TensorSpec("frame_offsets", ("slots",), "float32")
        inputs = (*pixel_features(config, dtype), memory, frame_offsets)
        return inputs, pixel_features(config, dtype, "conditioned_")

    def forward(
        self, low: Tensor, middle: Tensor, high: Tensor, memory: Tensor, frame_offsets: Tensor
    ) -> tuple[Tensor, ...]:
        """memory: (slots, scales, (S/16)², D), the live slots of the scales that look at them. frame_offsets: (slots,)
        fp32, frames since each was written.

        Returns as the features.
        """
        out: tuple[Tensor, ...] = self.memory_attention((low, middle, high), memory, frame_offsets)
        return out


class MaskDecoderStage(nn.Module):
    """Masks and their classes for one prompt."""

    def __init__(self, segmentor: Segmentor) -> None:
        super().__init__()
        self.decoder = segmentor.decoder
        self.class_predictor = segmentor.class_predictor

    @staticmethod
    def signature(config: ModelConfig, dtype: str) -> Signature:
        prompt = (
            TensorSpec("seg", (1, config.dim), dtype),
            TensorSpec("conditions", ("conditions", config.dim), dtype),
            TensorSpec("condition_mask", ("conditions",), "bool"),
            TensorSpec("tokens", ("tokens", config.dim), dtype),
            TensorSpec("token_mask", ("tokens",), "bool"),
        )
        query_states = TensorSpec("query_states", (config.mask_decoder.queries, config.dim), dtype)
        return (
            (*pixel_features(config, dtype), mask_features(config, dtype), *prompt),
            (*predicted_logits(config, dtype), query_states),
        )

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

    @staticmethod
    def signature(config: ModelConfig, dtype: str) -> Signature:
        inputs = (*pixel_features(config, dtype), *predicted_logits(config, dtype))
        return inputs, (TensorSpec("slot", slot_shape(config), dtype),)

    def forward(self, low: Tensor, middle: Tensor, high: Tensor, mask_logits: Tensor, class_logits: Tensor) -> Tensor:
        """Features are the frame's own, not the conditioned ones. Returns (scales, (S/16)², D)."""
        out: Tensor = self.memory_encoder((low, middle, high), mask_logits, class_logits)
        return out


@dataclass(frozen=True)
class Stage:
    """module: makes it from a model. signature: what it takes and gives, from the configuration and the dtype of its
    floating tensors."""

    module: Callable[[X2SAM], nn.Module]
    signature: Callable[[ModelConfig, str], Signature]


# Every stage a bundle holds, in the order a frame meets them.
STAGES: dict[str, Stage] = {
    "frame_encoder": Stage(lambda model: FrameEncoder(model.segmentor), FrameEncoder.signature),
    "memory_attention": Stage(lambda model: MemoryAttentionStage(model.segmentor), MemoryAttentionStage.signature),
    "mask_decoder": Stage(lambda model: MaskDecoderStage(model.segmentor), MaskDecoderStage.signature),
    "memory_encoder": Stage(lambda model: MemoryEncoderStage(model.segmentor), MemoryEncoderStage.signature),
    "vision_encoder": Stage(lambda model: VisionTower(model.vlm.model.visual), VisionTower.signature),
}


def stage_module(model: X2SAM, name: str) -> nn.Module:
    """The stage by name, in evaluation mode. Raises KeyError for an unknown name."""
    with torch.no_grad():
        return STAGES[name].module(model).eval()


def stage_weights(model: X2SAM, name: str) -> list[str]:
    """Names of the weights that a stage holds. Raises KeyError for an unknown stage."""
    held = {id(weight) for weight in stage_module(model, name).parameters()}
    return [key for key, weight in model.named_parameters(remove_duplicate=False) if id(weight) in held]


def stage_contract(name: str, config: ModelConfig, dtype: torch.dtype) -> StageContract:
    """What crosses a stage's border. dtype: of its floating tensors. Raises KeyError for an unknown name."""
    return StageContract(name, *STAGES[name].signature(config, str(dtype).removeprefix("torch.")))


def stage_contracts(config: ModelConfig, dtype: torch.dtype) -> tuple[StageContract, ...]:
    """Those of every stage, in the order a frame meets them."""
    return tuple(stage_contract(name, config, dtype) for name in STAGES)


# Sizes used when a stage is traced or checked alone: larger than 1 and different from each other, so that no
# varying dimension is mistaken for a constant or for another one.
EXAMPLE_SIZES: Sizes = {"slots": 2, "conditions": 4, "tokens": 7, "pairs": 3, "merged": 6}


def example_inputs(contract: StageContract, sizes: Sizes = EXAMPLE_SIZES) -> dict[str, Tensor]:
    """Reproducible random tensors that fit a contract; `sizes` gives the varying dimensions."""
    return {tensor.name: _example(tensor, tensor.sized(sizes), contract.name) for tensor in contract.inputs}


def _example(tensor: TensorSpec, shape: tuple[int, ...], stage: str) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{stage}.{tensor.name}.{shape}".encode()))
    if tensor.dtype == "bool":
        return torch.ones(shape, dtype=torch.bool)
    if tensor.dtype == "int64":
        return torch.randint(0, 4, shape, generator=generator)
    if tensor.name == "frame_offsets":
        return torch.arange(1, shape[0] + 1, dtype=torch.float32)
    values = torch.randn(shape, generator=generator)
    if tensor.name == "first":
        values = values.sign().clamp_min(0)
    return values.to(tensor.torch_dtype)
