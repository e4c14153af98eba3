"""What of a trained model's sizes may be chosen anew: its weights fit every choice."""

from __future__ import annotations

from dataclasses import dataclass, replace

from x2sam_rt.config import ModelConfig, PixelBudget
from x2sam_rt.errors import ConfigError
from x2sam_rt.model.checkpoint.loading import Checkpoint


@dataclass(frozen=True)
class Sizes:
    """None leaves what the model was trained with. image_size: side of the segmentor's input, a multiple of 32. slots:
    frames the memory holds. vision_budget: most pixels of an image that the visual tower sees; a video's budget
    shrinks in proportion. The model runs as defined at every choice; how well was learnt at its own sizes only."""

    image_size: int | None = None
    slots: int | None = None
    vision_budget: int | None = None


def resized(checkpoint: Checkpoint, sizes: Sizes) -> Checkpoint:
    """The same weights under a configuration of other sizes. Raises ConfigError for a size the model cannot have."""
    return replace(checkpoint, config=with_sizes(checkpoint.config, sizes))


def with_sizes(config: ModelConfig, sizes: Sizes) -> ModelConfig:
    """Raises as `resized`."""
    if sizes.image_size is not None:
        config = replace(config, image_size=sizes.image_size)
    if sizes.slots is not None:
        config = replace(config, memory=replace(config.memory, slots=sizes.slots))
    return config if sizes.vision_budget is None else _with_budget(config, sizes.vision_budget)


def _with_budget(config: ModelConfig, pixels: int) -> ModelConfig:
    image, video = config.image_budget, config.video_budget
    if not image.min_pixels <= pixels <= image.max_pixels:
        raise ConfigError(
            f"A vision budget of {pixels} pixels; wanted {image.min_pixels} to {image.max_pixels}, as the model was "
            "published with."
        )
    share = pixels / image.max_pixels
    most = max(video.min_pixels, int(video.max_pixels * share))
    return replace(
        config,
        image_budget=PixelBudget(image.min_pixels, pixels),
        video_budget=PixelBudget(video.min_pixels, most),
    )
