"""The one table of exported stages: names, shapes and types of everything that crosses a stage's border."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from x2sam_rt.config import NUM_SCALES, ModelConfig
from x2sam_rt.runtime.bundle import StageSpec, TensorSpec

# Sizes used when a stage is traced or checked alone: larger than 1 and different from each other, so that no
# varying dimension is mistaken for a constant or for another one.
EXAMPLE_SIZES: Mapping[str, int] = {"slots": 2, "conditions": 4, "tokens": 7, "pairs": 3, "patches": 24, "merged": 6}


def stage_specs(config: ModelConfig, dtype: str, file: str) -> tuple[StageSpec, ...]:
    """Every stage of a model, in the order a frame meets them. dtype: of the floating tensors. file: where an
    engine lies in its bundle, with `{stage}` for the stage's name."""
    low, middle, high = config.grids
    dim, queries = config.dim, config.mask_decoder.queries
    vision = config.language["vision_config"]
    merge, levels = vision["spatial_merge_size"] ** 2, len(vision["deepstack_visual_indexes"])
    patch_dim = 3 * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    head_dim = vision["hidden_size"] // vision["num_heads"]
    assert merge == EXAMPLE_SIZES["patches"] // EXAMPLE_SIZES["merged"]

    def floats(name: str, *shape: int | str) -> TensorSpec:
        return TensorSpec(name, shape, dtype)

    def scales(prefix: str) -> tuple[TensorSpec, ...]:
        names = ("low", "middle", "high")
        return tuple(floats(prefix + n, 1, dim, side, side) for n, side in zip(names, (low, middle, high), strict=True))

    features = scales("")
    mask_features = floats("mask_features", 1, dim, high, high)
    region_source = floats("region_source", 1, low, low, config.mask_encoder.region_dim)
    mask_logits = floats("mask_logits", queries, high, high)
    class_logits = floats("class_logits", queries, "conditions")
    slot_shape = (NUM_SCALES, config.slot_tokens, dim)

    def stage(name: str, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> StageSpec:
        return StageSpec(name, file.format(stage=name), inputs, outputs)

    return (
        stage(
            "frame_encoder",
            (floats("frame", 1, 3, config.image_size, config.image_size), floats("first", 1)),
            (*features, mask_features, region_source),
        ),
        stage(
            "memory_attention",
            (*features, floats("memory", "slots", *slot_shape), TensorSpec("gaps", ("slots",), "float32")),
            scales("conditioned_"),
        ),
        stage(
            "mask_decoder",
            (
                *features,
                mask_features,
                floats("seg", 1, dim),
                floats("conditions", "conditions", dim),
                TensorSpec("condition_mask", ("conditions",), "bool"),
                floats("tokens", "tokens", dim),
                TensorSpec("token_mask", ("tokens",), "bool"),
            ),
            (mask_logits, class_logits, floats("query_states", queries, dim)),
        ),
        stage("memory_encoder", (*features, mask_logits, class_logits), (floats("slot", *slot_shape),)),
        stage(
            "vision_encoder",
            (
                floats("patches", "pairs", "patches", patch_dim),
                TensorSpec("indices", ("patches", 4), "int64"),
                TensorSpec("weights", ("patches", 4), "float32"),
                TensorSpec("cos", ("patches", head_dim), "float32"),
                TensorSpec("sin", ("patches", head_dim), "float32"),
            ),
            (
                floats("vision_tokens", "pairs", "merged", config.language_dim),
                floats("deepstack", levels, "pairs", "merged", config.language_dim),
            ),
        ),
    )


def example_tensors(tensors: tuple[TensorSpec, ...], sizes: Mapping[str, int], stage: str) -> dict[str, Tensor]:
    """Reproducible random tensors that fit a contract; `sizes` gives the varying dimensions."""
    return {tensor.name: _example(tensor, sizes, stage) for tensor in tensors}


def empty_tensors(tensors: tuple[TensorSpec, ...], sizes: Mapping[str, int]) -> dict[str, Tensor]:
    """Buffers that fit a contract, filled with NaN so that an unwritten value cannot pass for a result."""
    return {
        tensor.name: torch.full(_shape(tensor, sizes), float("nan"), dtype=getattr(torch, tensor.dtype))
        for tensor in tensors
    }


def _example(tensor: TensorSpec, sizes: Mapping[str, int], stage: str) -> Tensor:
    shape = _shape(tensor, sizes)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{stage}.{tensor.name}.{shape}".encode()))
    if tensor.dtype == "bool":
        return torch.ones(shape, dtype=torch.bool)
    if tensor.dtype == "int64":
        return torch.randint(0, 4, shape, generator=generator)
    if tensor.name == "gaps":
        return torch.arange(1, shape[0] + 1, dtype=torch.float32)
    values = torch.randn(shape, generator=generator)
    if tensor.name == "first":
        values = values.sign().clamp_min(0)
    return values.to(getattr(torch, tensor.dtype))


def _shape(tensor: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(dim if isinstance(dim, int) else sizes[dim] for dim in tensor.shape)
