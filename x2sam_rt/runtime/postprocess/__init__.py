"""From logits to segments: one file per rule, all working tile by tile at the frame's full size."""

from x2sam_rt.runtime.postprocess.rule import FrameLogits, PostProcessOptions, PostProcessor

__all__ = ["FrameLogits", "PostProcessOptions", "PostProcessor"]
