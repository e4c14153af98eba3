"""Instance segmentation, and segmentation by several visual prompts: every good (query, condition) pair."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from x2sam_rt.runtime.postprocess.instance_tracker import InstanceTracker, MaskHistory
from x2sam_rt.runtime.postprocess.masks import Candidate, candidates, greatest_confidence, paint_map
from x2sam_rt.runtime.postprocess.rule import FrameLogits, PostProcessor
from x2sam_rt.runtime.postprocess.state import RuleState
from x2sam_rt.runtime.results import Segment, Segmentation
from x2sam_rt.tasks.instruction import PostProcessOptions
from x2sam_rt.tasks.table import Conditions


@dataclass(frozen=True, eq=False)
class _Found:
    candidate: Candidate
    label: int
    score: float


class InstancePostProcessor(PostProcessor):
    """X2SAM's instance rule; score = class probability · mean sigmoid inside the mask, mask = logit > 0.

    The `num_queries` most probable pairs of all conditions compete, and only then stuff is left out. Segments come by
    descending score, the best painted on top; ids from 0 stay with their object over a stream.
    empty: the map's value where there is nothing (published: −1 for instances, 255 for visual prompts).
    """

    def __init__(self, conditions: Conditions, options: PostProcessOptions, empty: int) -> None:
        self._conditions, self._options, self._empty = conditions, options, empty
        self._ids = InstanceTracker(first=0, reserved=empty)
        self._history = MaskHistory()

    def __call__(self, frame: FrameLogits) -> Segmentation:
        found = sorted(self._find(frame), key=lambda one: -one.score)
        labels = [one.label for one in found]
        queries = torch.tensor([one.candidate.query for one in found], dtype=torch.int64, device=frame.device)
        overlaps = self._history.overlaps(frame.mask_logits[queries] > 0)
        ids = self._ids.assign(labels, [True] * len(found), overlaps)
        segments = tuple(
            Segment(one.candidate.mask, self._conditions.labels[one.label], one.label, one.score, segment_id)
            for one, segment_id in zip(found, ids, strict=True)
        )
        return Segmentation(segments, paint_map(segments[::-1], frame.original_size, self._empty), self._empty)

    def state(self) -> RuleState:
        return RuleState(self._ids.state(), self._history.state())

    def restore(self, state: RuleState, logits: torch.Size) -> None:
        self._ids.restore(state.numbering())
        self._history.restore(state.grid_masks((logits[1], logits[2])))

    def _find(self, frame: FrameLogits) -> list[_Found]:
        pairs = self._pairs(frame)
        queries = torch.tensor(sorted(pairs), dtype=torch.int64, device=frame.device)
        return [
            _Found(candidate, label, probability * candidate.confidence)
            for candidate in candidates(frame, queries)
            for label, probability in pairs[candidate.query]
            if candidate.confidence > 0 and probability * candidate.confidence >= self._options.least_score
        ]

    def _pairs(self, frame: FrameLogits) -> dict[int, list[tuple[int, float]]]:
        """The (label, probability) pairs of each query that can still reach the threshold."""
        probabilities = frame.probabilities(len(self._conditions))
        queries, labels = probabilities.shape
        top, flat = probabilities.flatten().topk(queries, sorted=False)
        query, label = flat // labels, flat % labels
        countable = torch.tensor(self._conditions.is_thing, device=top.device)[label]
        reachable = top * greatest_confidence(frame.mask_logits)[query] >= self._options.least_score
        keep = countable & reachable
        pairs: dict[int, list[tuple[int, float]]] = {}
        for q, c, p in zip(query[keep].tolist(), label[keep].tolist(), top[keep].tolist(), strict=True):
            pairs.setdefault(q, []).append((c, p))
        return pairs
