"""The engines that a prompt needs, called as the modules themselves are. Each call has buffers of its own, so that
sessions on several threads may ask at once."""

from __future__ import annotations

import torch
from torch import Tensor

from x2sam_rt.config import ModelConfig
from x2sam_rt.runtime.engines.engine import Engine


class VisionTowerEngine:
    """Takes and gives what `model.vision_encoder.VisionTower.forward` does."""

    def __init__(self, engine: Engine, config: ModelConfig) -> None:
        vision = config.language["vision_config"]
        self._engine, self._dim = engine, config.language_dim
        self._merge, self._levels = vision["spatial_merge_size"] ** 2, len(vision["deepstack_visual_indexes"])

    def __call__(
        self, patches: Tensor, indices: Tensor, weights: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        pairs, count, _ = patches.shape
        tokens = patches.new_empty(pairs, count // self._merge, self._dim)
        deepstack = patches.new_empty(self._levels, *tokens.shape)
        self._engine.run(
            {"patches": patches, "indices": indices, "weights": weights, "cos": cos, "sin": sin},
            {"vision_tokens": tokens, "deepstack": deepstack},
        )
        return tokens, deepstack


class RegionSourceEngine:
    """(1, 3, S, S) normalised pixels → (1, S/16, S/16, C), what the mask encoder's third stage makes of them."""

    def __init__(self, frame_encoder: Engine) -> None:
        self._engine = frame_encoder

    def __call__(self, pixels: Tensor) -> Tensor:
        outputs = {
            tensor.name: torch.empty([int(dim) for dim in tensor.shape], dtype=getattr(torch, tensor.dtype))
            for tensor in self._engine.spec.outputs
        }
        frame = pixels.to(outputs["region_source"].dtype).contiguous()
        self._engine.run({"frame": frame, "first": frame.new_zeros(1)}, outputs)  # the source is the same for both
        return outputs["region_source"]
