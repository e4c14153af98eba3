"""The sizes engines are built for: optimisation profiles, from the stages' contracts."""

from __future__ import annotations

from x2sam_rt.config import ModelConfig
from x2sam_rt.runtime.engines.tensorrt_build import SizeRange


def size_ranges(config: ModelConfig) -> dict[str, SizeRange]:
    """By the dimension's name in the contracts.

    conditions: phrases or categories and the background; 512 holds every closed vocabulary in use but LVIS's. patches:
    of 16×16 pixels in one frame pair; 16384 are an image of 2048×2048. pairs: of video frames the question is asked on.
    """
    merge = int(config.language["vision_config"]["spatial_merge_size"]) ** 2
    patches = SizeRange(merge, 4096, 16384)
    return {
        "slots": SizeRange(1, config.memory.slots, config.memory.slots),
        "conditions": SizeRange(2, 16, 512),
        "tokens": SizeRange(1, 64, 4096),
        "pairs": SizeRange(1, 1, 16),
        "patches": patches,
        "merged": SizeRange(1, patches.best // merge, patches.most // merge),
    }
