"""gIoU and cIoU of one mask per example: referring and reasoning in images."""

from __future__ import annotations

from collections.abc import Iterator

from x2sam_rt.data.example import Example
from x2sam_rt.evaluation.families.selection import ignored_pixels, labelled_frames, masks_by_label
from x2sam_rt.evaluation.figures import Figure
from x2sam_rt.evaluation.metrics import MaskIoU
from x2sam_rt.evaluation.prediction import Prediction


class OverlapFamily:
    """Every condition of an instruction has one mask; segments of one condition count together."""

    def __init__(self) -> None:
        self._all = MaskIoU()
        self._tagged: dict[str, MaskIoU] = {}

    def add(self, example: Example, prediction: Prediction) -> None:
        frames, ignored = labelled_frames(example), ignored_pixels(example)
        masks = masks_by_label(example, prediction, example.conditions)
        left_out = None if ignored is None else ignored[frames]
        for condition in range(example.conditions):
            truth, found = example.masks_of(condition)[frames], masks[condition][frames]
            for measure in (self._all, *(self._tagged.setdefault(tag, MaskIoU()) for tag in sorted(example.tags))):
                measure.add(truth, found, left_out)

    def figures(self) -> Iterator[Figure]:
        overall = self._all.result()
        yield Figure("gIoU", overall.giou, overall.examples, headline=True)
        yield Figure("cIoU", overall.ciou, overall.examples)
        for tag, measure in sorted(self._tagged.items()):
            result = measure.result()
            if result.examples < overall.examples:
                yield Figure(f"gIoU, {tag}", result.giou, result.examples)
