"""How many pixels the visual tower may see: the base model's own budget, within the language model's context."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from x2sam_rt.config import ModelConfig, PixelBudget, read_json

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
    return PixelBudget(size.get("shortest_edge", default.min_pixels), size.get("longest_edge", default.max_pixels))


def _at_most(budget: PixelBudget, pixels: int) -> PixelBudget:
    return PixelBudget(min(budget.min_pixels, pixels), min(budget.max_pixels, pixels))
