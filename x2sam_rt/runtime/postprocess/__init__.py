"""From logits to segments: one file per rule, all working tile by tile at the frame's full size."""

from x2sam_rt.runtime.postprocess.frame import FrameLogits, PostProcessor
from x2sam_rt.runtime.postprocess.options import PostProcessOptions

__all__ = ["FrameLogits", "PostProcessOptions", "PostProcessor"]
