"""The published sizes, configurations in the published code's own form, and the visual tower's pixel budgets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from x2sam_rt.config import (
    MaskDecoderConfig,
    MaskEncoderConfig,
    MemoryConfig,
    ModelConfig,
    PixelBudget,
    PixelDecoderConfig,
)
from x2sam_rt.documents import read_json, shown
from x2sam_rt.errors import ConfigError

# What the architecture fixes; a configuration that says otherwise describes another model.
_FIXED = {
    ("sam2", "use_mask_guidance"): True,
    ("sam2", "use_class_guidance"): True,
    ("sam2", "feature_downsampler_scale_strides"): [1, 2, 4],
    ("sam2", "mask_downsampler_scale_strides"): [4],
    ("mask2former", "num_feature_levels"): 3,
    ("mask2former", "use_text_cross_attn"): True,
}
_FUSER_LAYERS = 2


def is_published_config(data: Mapping[str, Any]) -> bool:
    parts = data.get("config", data)
    return isinstance(parts, Mapping) and "sam2" in parts


def read_published_config(data: Mapping[str, Any]) -> ModelConfig:
    """data: `{"config": {"sam2", "mask2former", "vlm"}, "image_size", "num_maskmem", "lora"?}`.

    Raises ConfigError when a part is missing or no number it should be, or a fixed part of the architecture differs.
    """
    parts = _part(data, "config")
    sam2, m2f = _part(parts, "sam2"), _part(parts, "mask2former")
    for (name, key), wanted in _FIXED.items():
        found = _part(parts, name).get(key, wanted)
        if found != wanted:
            raise ConfigError(f"{name}.{key} is {shown(found)}; this runtime computes {wanted!r} only.")
    return ModelConfig.from_json(_in_our_form(data, sam2, m2f))


def _in_our_form(data: Mapping[str, Any], sam2: Mapping[str, Any], m2f: Mapping[str, Any]) -> dict[str, Any]:
    vision = _part(sam2, "vision_config")
    return {
        "image_size": _value(data, "image_size"),
        "dim": _value(vision, "fpn_hidden_size"),
        "mask_encoder": _mask_encoder(_part(vision, "backbone_config")),
        "pixel_decoder": {
            "layers": _value(m2f, "encoder_layers"),
            "heads": _value(m2f, "num_attention_heads"),
            "feedforward_dim": _value(m2f, "encoder_feedforward_dim"),
        },
        "mask_decoder": {
            "layers": _less_one(_value(m2f, "decoder_layers")),  # upstream counts the first prediction as a layer
            "heads": _value(m2f, "num_attention_heads"),
            "feedforward_dim": _value(m2f, "dim_feedforward"),
            "queries": _value(m2f, "num_queries"),
        },
        "memory": {
            "slots": _value(data, "num_maskmem"),
            "attention_layers": _value(sam2, "memory_attention_num_layers"),
            "attention_feedforward_dim": _value(sam2, "memory_attention_feed_forward_hidden_size"),
            "fuser_layers": sam2.get("memory_fuser_num_layers", _FUSER_LAYERS),
            "fuser_feedforward_dim": _value(sam2, "memory_fuser_intermediate_dim"),
        },
        "language": _part(_part(data, "config"), "vlm"),
        **({} if data.get("lora") is None else {"lora_scale": _lora_scale(_part(data, "lora"))}),
    }


def _mask_encoder(backbone: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "embed_dims": _value(backbone, "embed_dim_per_stage"),
        "blocks": _value(backbone, "blocks_per_stage"),
        "heads": _value(backbone, "num_attention_heads_per_stage"),
        "windows": _value(backbone, "window_size_per_stage"),
        "global_blocks": _value(backbone, "global_attention_blocks"),
        "window_grid": _value(backbone, "window_positional_embedding_background_size"),
    }


def _lora_scale(lora: Mapping[str, Any]) -> float:
    alpha, rank = _value(lora, "alpha"), _value(lora, "r")
    numbers = all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in (alpha, rank))
    if not numbers or rank < 1:
        raise ConfigError(f"The training configuration's lora is {shown(dict(lora))}; wanted numbers alpha and r > 0.")
    return float(alpha) / float(rank)


def _less_one(layers: Any) -> Any:
    """What is no number is refused with the others."""
    return layers - 1 if isinstance(layers, int) else layers


def _value(data: Mapping[str, Any], key: str) -> Any:
    if key not in data:
        raise ConfigError(f"The training configuration lacks {key!r}; pass the whole file with --config.")
    return data[key]


def _part(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = _value(data, key)
    if not isinstance(part, Mapping):
        raise ConfigError(f"The training configuration's {key} is {shown(part)}; wanted an object.")
    return part


# Qwen3-VL-4B-Instruct, as its config.json says; a base folder's own file takes precedence.
_QWEN3_VL_4B: dict[str, Any] = {
    "text_config": {
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rope_theta": 5000000,
        "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": True},
        "tie_word_embeddings": True,
    },
    "vision_config": {
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "patch_size": 16,
        "temporal_patch_size": 2,
        "spatial_merge_size": 2,
        "out_hidden_size": 2560,
        "num_position_embeddings": 2304,
        "deepstack_visual_indexes": [5, 11, 17],
    },
    "tie_word_embeddings": True,
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}

PUBLISHED = ModelConfig(
    image_size=1024,
    dim=256,
    mask_encoder=MaskEncoderConfig(
        embed_dims=(144, 288, 576, 1152),
        blocks=(2, 6, 36, 4),
        heads=(2, 4, 8, 16),
        windows=(8, 4, 16, 8),
        global_blocks=(23, 33, 43),
    ),
    pixel_decoder=PixelDecoderConfig(layers=6, heads=8, feedforward_dim=1024),
    mask_decoder=MaskDecoderConfig(layers=9, heads=8, feedforward_dim=2048, queries=200),
    memory=MemoryConfig(
        slots=5,
        attention_layers=4,
        attention_feedforward_dim=2048,
        fuser_layers=2,
        fuser_feedforward_dim=1024,
    ),
    language=_QWEN3_VL_4B,
)


_CELL = 32 * 32  # pixels of one visual token
_PAIR = 2  # frames that share their tokens
_IMAGE_FILE, _VIDEO_FILE = "preprocessor_config.json", "video_preprocessor_config.json"


def read_budgets(config: ModelConfig, base: Path) -> ModelConfig:
    """Takes the budgets from the base model's processor files, where it has them."""
    image, video = base / _IMAGE_FILE, base / _VIDEO_FILE
    if image.is_file():
        config = replace(config, image_budget=_read_budget(image, config.image_budget))
    if video.is_file():
        config = replace(config, video_budget=_read_budget(video, config.video_budget))
    return config


def fit_budgets(config: ModelConfig) -> ModelConfig:
    """Lowers the budgets so that visual tokens take at most half of the language model's context.

    Qwen3-VL's own contexts are so long that this changes nothing there; a small model would otherwise refuse the
    first large video.
    """
    tokens = config.language["text_config"]["max_position_embeddings"] // 2
    return replace(
        config,
        image_budget=_at_most(config.image_budget, tokens * _CELL),
        video_budget=_at_most(config.video_budget, tokens * _CELL * _PAIR),
    )


def _read_budget(path: Path, default: PixelBudget) -> PixelBudget:
    size = read_json(path).get("size", {})
    if not isinstance(size, Mapping):
        raise ConfigError(f"{path}: size is {shown(size)}; wanted an object with shortest_edge and longest_edge.")
    return PixelBudget(size.get("shortest_edge", default.min_pixels), size.get("longest_edge", default.max_pixels))


def _at_most(budget: PixelBudget, pixels: int) -> PixelBudget:
    return PixelBudget(min(budget.min_pixels, pixels), min(budget.max_pixels, pixels))
