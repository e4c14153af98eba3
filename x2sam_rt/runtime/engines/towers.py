"""The engines that a prompt needs, called as the modules themselves are. Each call has buffers of its own, so that
sessions on several threads may ask at once."""

from __future__ import annotations

from torch import Tensor

from x2sam_rt.runtime.engines.engine import Engine, run_once


class VisionTowerEngine:
    """Takes and gives what `model.vision_encoder.VisionTower.forward` does, in the type of the patches; the engine may
    compute in another."""

    def __init__(self, vision_encoder: Engine) -> None:
        self._engine = vision_encoder
        self._dtype = vision_encoder.contract.input("patches").torch_dtype

    def __call__(
        self, patches: Tensor, indices: Tensor, weights: Tensor, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor]:
        own = patches.to(self._dtype)
        inputs = {"patches": own, "indices": indices, "weights": weights, "cos": cos, "sin": sin}
        outputs = run_once(self._engine, inputs)
        return outputs["vision_tokens"].to(patches.dtype), outputs["deepstack"].to(patches.dtype)


class RegionSourceEngine:
    """(1, 3, S, S) normalised pixels → (1, S/16, S/16, C), what the mask encoder's third stage makes of them."""

    def __init__(self, frame_encoder: Engine) -> None:
        self._engine = frame_encoder

    def __call__(self, pixels: Tensor) -> Tensor:
        frame = pixels.to(self._engine.contract.input("frame").torch_dtype).contiguous()
        # The source is the same whether the frame is a clip's first or not.
        return run_once(self._engine, {"frame": frame, "first": frame.new_zeros(1)})["region_source"]
