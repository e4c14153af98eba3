"""The sizes engines are built for: optimisation profiles, from the stages' contracts."""

from __future__ import annotations

from x2sam_rt.config import ModelConfig
from x2sam_rt.model.stage_contract import StageContract
from x2sam_rt.runtime.engines.tensorrt_build import SizeRange


def size_ranges(contract: StageContract, config: ModelConfig) -> dict[str, SizeRange]:
    """Of what varies in a stage, by name.

    conditions: phrases or categories and the background; 512 hold every closed vocabulary in use but LVIS's. merged:
    visual tokens of one frame pair, 2×2 patches of 16×16 pixels each; 4096 are 2048×2048 pixels. pairs: of the video
    frames that a question is asked on.
    """
    slots = config.memory.slots
    ranges = {
        "slots": SizeRange(1, slots, slots),
        "conditions": SizeRange(2, 16, 512),
        "tokens": SizeRange(1, 64, 4096),
        "pairs": SizeRange(1, 1, 16),
        "merged": SizeRange(1, 1024, 4096),
    }
    return {name: ranges[name] for name in sorted(contract.varying)}
