"""From logits to segments: a rule per kind of task, all working tile by tile at the frame's full size."""

from __future__ import annotations

import torch
from torch import Tensor

from x2sam_rt.runtime.device import CPU
from x2sam_rt.runtime.postprocess.instance import InstancePostProcessor
from x2sam_rt.runtime.postprocess.on_device import on_device
from x2sam_rt.runtime.postprocess.panoptic import PanopticPostProcessor
from x2sam_rt.runtime.postprocess.phrases import PhrasePostProcessor
from x2sam_rt.runtime.postprocess.prompted import InteractivePostProcessor, ObjectPostProcessor
from x2sam_rt.runtime.postprocess.rule import FrameLogits, OneThread, PostProcessor, one_mask
from x2sam_rt.runtime.postprocess.semantic import SemanticPostProcessor
from x2sam_rt.tasks.instruction import PostProcessOptions
from x2sam_rt.tasks.table import Conditions, Rule

FIRST_ON_TOP: frozenset[Rule] = frozenset({"instance", "grounded"})  # of maps whose segments overlap

__all__ = ["FIRST_ON_TOP", "FrameLogits", "PostProcessor", "make_postprocessor"]


def make_postprocessor(
    rule: Rule,
    conditions: Conditions,
    options: PostProcessOptions,
    prompt_masks: Tensor | None = None,
    device: torch.device = CPU,
) -> PostProcessor:
    """A rule with a state of its own: one per session and instruction.

    device: where the frames' logits are. On a GPU masks stay there until they are asked for.

    conditions: of the answer. options: with a threshold. prompt_masks: (regions, S, S), bool or any numbers (non-zero =
    inside), in the segmentor's input grid; needed by the rules that compare results with the prompt, ignored by the
    others.
    """
    if device.type == "cuda":
        return on_device(rule, conditions, options, prompt_masks)
    return OneThread(_by_name(rule, conditions, options, prompt_masks))


def _by_name(
    rule: Rule, conditions: Conditions, options: PostProcessOptions, prompt_masks: Tensor | None
) -> PostProcessor:
    match rule:
        case "panoptic":
            return PanopticPostProcessor(conditions, options)
        case "semantic":
            return SemanticPostProcessor(conditions)
        case "instance":
            return InstancePostProcessor(conditions, options, empty=-1)
        case "grounded":
            return InstancePostProcessor(conditions, options, empty=255)
        case "phrases":
            return PhrasePostProcessor(conditions, options)
        case "interactive":
            return InteractivePostProcessor(conditions, options, one_mask(prompt_masks))
        case "object":
            return ObjectPostProcessor(conditions, options, one_mask(prompt_masks))
