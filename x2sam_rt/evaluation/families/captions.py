"""Grounded captions: do the phrases a model writes have the masks of things that are so?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from x2sam_rt.data.example import Example
from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.families.selection import masks_by_label
from x2sam_rt.evaluation.figures import Figure
from x2sam_rt.evaluation.metrics import MaskIoU
from x2sam_rt.evaluation.prediction import Prediction
from x2sam_rt.media.types import BoolMask
from x2sam_rt.tasks.marks import link, parse_marks

_LINKED = 0.5  # IoU over the whole clip from which a mask is the object's
_ARTICLES = frozenset({"a", "an", "the"})


class CaptionFamily:
    """The true answer's phrases, one per target in the targets' order, hold the words that are true of each object.

    A phrase is right when its mask, over the whole clip, has an IoU of at least 0.5 with an object that every word of
    the phrase (articles aside) is true of. Every object is given away once, in the order the phrases were written, to
    the phrase it overlaps with.
    """

    def __init__(self) -> None:
        self._right = self._phrases = self._objects = self._captions = self._drawn = 0

    def add(self, example: Example, prediction: Prediction) -> None:
        if example.answer is None or len(true := link(parse_marks(example.answer)).phrases) != len(example.targets):
            raise example.bad("its answer is no caption with one phrase per target, so captions have no truth")
        phrases = prediction.text.phrases
        masks = masks_by_label(example, prediction, len(phrases))
        objects = [(_words(phrase), target.masks) for phrase, target in zip(true, example.targets, strict=True)]
        self._right += _right([_words(phrase) for phrase in phrases], masks, objects)
        self._phrases += len(phrases)
        self._objects += len(objects)
        self._captions += 1
        self._drawn += prediction.drew

    def figures(self) -> Iterator[Figure]:
        if not self._captions:
            raise DataError("Figures of no captions: no example was added.")
        precision = self._right / self._phrases if self._phrases else 0.0
        yield Figure("phrases with the right mask", precision, self._phrases, headline=True)
        yield Figure("objects named with the right mask", self._right / max(1, self._objects), self._objects)
        yield Figure("captions with masks", self._drawn / self._captions, self._captions)


def _right(
    phrases: Sequence[frozenset[str]], masks: BoolMask, objects: Sequence[tuple[frozenset[str], BoolMask]]
) -> int:
    """How many phrases are."""
    free = list(objects)
    for words, mask in zip(phrases, masks, strict=True):
        fits = [_iou(truth, mask) if words <= known and mask.any() else 0.0 for known, truth in free]
        if fits and max(fits) >= _LINKED:
            free.pop(int(np.argmax(fits)))
    return len(objects) - len(free)


def _iou(truth: BoolMask, found: BoolMask) -> float:
    measure = MaskIoU()
    measure.add(truth, found)
    return measure.result().giou


def _words(phrase: str) -> frozenset[str]:
    return frozenset(phrase.lower().split()) - _ARTICLES
