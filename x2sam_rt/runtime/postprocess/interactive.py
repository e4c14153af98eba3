"""Interactive segmentation of an image: of the good masks, the one that fits the visual prompt best."""

from __future__ import annotations

from torch import Tensor

from x2sam_rt.runtime.postprocess.candidates import Candidate, candidates, greatest_confidence
from x2sam_rt.runtime.postprocess.conditions import Conditions
from x2sam_rt.runtime.postprocess.frame import FrameLogits
from x2sam_rt.runtime.postprocess.masks import mask_iou, paint_map, prompt_at_frame_size
from x2sam_rt.runtime.postprocess.options import PostProcessOptions
from x2sam_rt.runtime.results import Segment, Segmentation

EMPTY, OBJECT = 255, 1


class InteractivePostProcessor:
    """Of the queries whose instance score reaches the threshold, or else the one with the highest, that whose mask
    overlaps the prompt most. prompt: (S, S) bool in the segmentor's input grid. A generated answer may name the
    object by several phrases; they count as one."""

    def __init__(self, conditions: Conditions, options: PostProcessOptions, prompt: Tensor) -> None:
        self._conditions, self._options, self._prompt = conditions, options, prompt

    def __call__(self, frame: FrameLogits) -> Segmentation:
        probability = frame.probabilities(len(self._conditions)).amax(1)
        bound = probability * greatest_confidence(frame.mask_logits)
        best, score = self._fitting(frame, probability, bound) or _highest(frame, probability, bound)
        segments = (Segment(best.mask, self._conditions.labels[0], 0, score, OBJECT),) if best.confidence else ()
        return Segmentation(segments, paint_map(segments, frame.original_size, EMPTY), EMPTY)

    def _fitting(self, frame: FrameLogits, probability: Tensor, bound: Tensor) -> tuple[Candidate, float] | None:
        prompt = prompt_at_frame_size(self._prompt, frame)
        chosen, most = None, -1.0
        for one in candidates(frame, (bound >= self._options.least_score).nonzero().flatten()):
            score = float(probability[one.query]) * one.confidence
            if score >= self._options.least_score and (iou := mask_iou(one.mask, prompt)) > most:
                chosen, most = (one, score), iou
        return chosen


def _highest(frame: FrameLogits, probability: Tensor, bound: Tensor) -> tuple[Candidate, float]:
    """The candidate with the highest score: few are computed, since the bounds are close and taken in their order."""
    order = bound.argsort(descending=True)
    best: tuple[Candidate, float] | None = None
    for position, one in enumerate(candidates(frame, order)):
        score = float(probability[one.query]) * one.confidence
        if best is None or score > best[1]:
            best = one, score
        if position + 1 < len(order) and float(bound[order[position + 1]]) < best[1]:
            break
    assert best is not None, "a frame has queries"
    return best
