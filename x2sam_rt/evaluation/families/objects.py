"""J&F of what was asked for, object by object: referring, reasoning and visual prompts in videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from x2sam_rt.data.example import Example
from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.families.selection import ignored_pixels, labelled_frames, masks_by_label
from x2sam_rt.evaluation.figures import Figure
from x2sam_rt.evaluation.metrics import JAndF, JAndFResult, region_similarity
from x2sam_rt.evaluation.prediction import Prediction
from x2sam_rt.media.types import BoolMask


@dataclass(frozen=True)
class _Measured:
    """hidden: mean J over the hidden frames that show something of the object; None where there is no such frame."""

    tags: frozenset[str]
    overall: JAndFResult
    hidden: float | None


class ObjectFamily:
    """Every condition of an instruction is one object: a phrase, a question or a region. Segments of one condition
    count together. Figures for a tag come from the objects of the examples that have it; a tag all have gets none.
    """

    def __init__(self) -> None:
        self._objects: list[_Measured] = []

    def add(self, example: Example, prediction: Prediction) -> None:
        frames, ignored = labelled_frames(example), ignored_pixels(example)
        masks = masks_by_label(example, prediction, example.conditions)
        for condition in range(example.conditions):
            truth, found = example.masks_of(condition), masks[condition]
            if ignored is not None:
                truth, found = truth & ~ignored, found & ~ignored
            measure = JAndF()
            measure.add(truth[frames], found[frames])
            self._objects.append(_Measured(example.tags, measure.result(), _hidden(example, frames, truth, found)))

    def figures(self) -> Iterator[Figure]:
        if not self._objects:
            raise DataError("J&F of nothing: no object was asked for.")
        yield self._mean("J&F", self._objects, lambda one: one.overall.j_and_f, headline=True)
        yield self._mean("J", self._objects, lambda one: one.overall.j)
        yield self._mean("F", self._objects, lambda one: one.overall.f)
        if hidden := [one for one in self._objects if one.hidden is not None]:
            yield self._mean("J, hidden frames", hidden, lambda one: one.hidden)
        for tag in sorted(frozenset().union(*(one.tags for one in self._objects))):
            tagged = [one for one in self._objects if tag in one.tags]
            if len(tagged) < len(self._objects):
                yield self._mean(f"J&F, {tag}", tagged, lambda one: one.overall.j_and_f)

    @staticmethod
    def _mean(
        name: str, objects: list[_Measured], of: Callable[[_Measured], float | None], headline: bool = False
    ) -> Figure:
        values = [value for one in objects if (value := of(one)) is not None]
        return Figure(name, float(np.mean(values)), len(values), headline)


def _hidden(example: Example, frames: BoolMask, truth: BoolMask, found: BoolMask) -> float | None:
    if example.hidden is None:
        return None
    chosen = frames & example.hidden & truth.any(axis=(1, 2))
    return float(region_similarity(truth[chosen], found[chosen]).mean()) if chosen.any() else None
