"""Answers in words, and captions whose phrases have masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from x2sam_rt.data.example import Example
from x2sam_rt.data.readers import CaptionedExample
from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.evaluators.score import Piece, Score
from x2sam_rt.evaluation.evaluators.truth import measured_results
from x2sam_rt.evaluation.metrics import (
    AveragePrecision,
    BertSimilarity,
    CaptionQuality,
    FoundInstance,
    GroundedMeanIoU,
    Mergeable,
    PhraseRecall,
    State,
    TrueInstance,
    caption_of,
    mask_ious,
)
from x2sam_rt.evaluation.segmenter import Prediction
from x2sam_rt.media.types import BoolMask
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.tasks.marks import link, parse_marks

_LINKED = 0.5  # IoU over the whole clip from which a mask is the object's
_ARTICLES = frozenset({"a", "an", "the"})


class AnswerEvaluator:
    """An answer is right when it is the true one, word for word; upper and lower case and spaces do not matter."""

    def measure(self, pieces: Iterable[Piece]) -> State:
        """[right answers, answers]."""
        right = asked = 0
        for example, prediction in pieces:
            if example.answer is None:
                raise example.bad("it has no answer to compare with")
            right += _plain(prediction.text.text) == _plain(example.answer)
            asked += 1
        return [right, asked]

    def scores(self, states: Iterable[State]) -> Iterator[Score]:
        counts = list(states)
        asked = sum(count for _, count in counts)
        if not asked:
            raise DataError("Right answers of none: no example was added.")
        yield Score("right answers", sum(right for right, _ in counts) / asked, asked, headline=True)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


class LinkingEvaluator:
    """Do the phrases of a caption have the masks of things that are so? The true answer's phrases, one per target in
    the targets' order, hold the words that are true of each object.

    A phrase is right when its mask, over the whole clip, has an IoU of at least 0.5 with an object that every word of
    the phrase (articles aside) is true of. Every object is given away once, in the order the phrases were written, to
    the phrase it overlaps with.
    """

    def measure(self, pieces: Iterable[Piece]) -> State:
        """[right phrases, phrases, objects, captions, captions with masks]."""
        counts = np.zeros(5, dtype=np.int64)
        for example, prediction in pieces:
            if example.answer is None or len(true := link(parse_marks(example.answer)).phrases) != len(example.targets):
                raise example.bad("its answer is no caption with one phrase per target, so captions have no truth")
            phrases = prediction.text.phrases
            masks = _masks_by_label(example, prediction, len(phrases))
            objects = [(_words(phrase), target.masks[:]) for phrase, target in zip(true, example.targets, strict=True)]
            right = _right([_words(phrase) for phrase in phrases], masks, objects)
            counts += (right, len(phrases), len(objects), 1, int(prediction.has_seg))
        return counts.tolist()

    def scores(self, states: Iterable[State]) -> Iterator[Score]:
        right, phrases, objects, captions, drawn = np.sum([(0,) * 5, *states], axis=0).tolist()
        if not captions:
            raise DataError("Scores of no captions: no example was added.")
        yield Score("phrases with the right mask", right / phrases if phrases else 0.0, phrases, headline=True)
        yield Score("objects named with the right mask", right / max(1, objects), objects)
        yield Score("captions with masks", drawn / captions, captions)


class CaptionEvaluator:
    """GCG as X2SAM's figures have it: mIoU of the masks, recall of the phrases, AP50 of an image's masks, METEOR and
    CIDEr of the words. Samples for which no mask was drawn have no part in any of them.

    bert: a folder with bert-base-uncased, which tells whether two phrases mean the same; without it there is no recall.
    """

    def __init__(self, *, video: bool, bert: Path | None = None) -> None:
        self._video, self._bert = video, bert

    def measure(self, pieces: Iterable[Piece]) -> State:
        """The states of mIoU, recall, captions and AP, and how many pieces drew masks."""
        miou, recall, words, precision, drawn = *self._metrics(), 0
        for example, prediction in pieces:
            if not isinstance(example, CaptionedExample):
                raise example.bad("it has no caption to compare with")
            results = [_Painted.of(result) for result in measured_results(example, prediction)]
            if not any(one.phrases for one in results):
                continue
            drawn += 1
            phrases = prediction.text.phrases
            overlap = np.zeros((2, len(example.labels), len(phrases)))
            for one in results:
                truth = _true_masks(example, one.frame)
                visible = truth[truth.any(axis=(1, 2))]
                miou.add(mask_ious(visible, one.masks))
                overlap += _shared(truth, one.of_phrases(len(phrases)))
                if not self._video:
                    precision.add([TrueInstance(mask[None], 0) for mask in visible], one.instances())
            true = sorted(example.labels) if self._video else example.labels  # a quirk of the published figures
            recall.add(overlap[0] / np.maximum(overlap[1], 1), true, phrases)
            words.add(example.caption, caption_of(prediction.answer))
        return [miou.state(), recall.state(), words.state(), precision.state(), drawn]

    def scores(self, states: Iterable[State]) -> Iterator[Score]:
        miou, recall, words, precision = self._metrics()
        metrics: tuple[Mergeable, ...] = (miou, recall, words, precision)
        drawn = samples = 0
        for *parts, pieces in states:
            samples, drawn = samples + 1, drawn + pieces
            for metric, state in zip(metrics, parts, strict=True):
                metric.merge(state)
        yield Score("mIoU of masks", miou.result() if drawn else 0.0, len(miou.values), headline=True)
        yield Score("captions with masks", min(1.0, drawn / max(1, samples)), samples)
        if not drawn:
            return
        if not self._video:
            yield Score("AP50 of masks", precision.result().ap50, drawn)
        if self._bert is not None:
            yield Score("recall of phrases", recall.result(BertSimilarity(self._bert)), drawn)
        if CaptionQuality.missing() is None:
            result = words.result()
            yield Score("METEOR", result.meteor, result.captions)
            yield Score("CIDEr", result.cider, result.captions, percent=False)

    def missing(self) -> list[str]:
        """Scores that cannot be had here, and what they need."""
        needs = [] if self._bert is not None else ["recall of phrases needs --bert FOLDER with bert-base-uncased"]
        return needs + [problem for problem in (CaptionQuality.missing(),) if problem]

    @staticmethod
    def _metrics() -> tuple[GroundedMeanIoU, PhraseRecall, CaptionQuality, AveragePrecision]:
        return GroundedMeanIoU(), PhraseRecall(), CaptionQuality(), AveragePrecision()


class _Painted:
    """A frame's masks as they are to be seen in its map, where later phrases hide earlier ones."""

    def __init__(self, frame: int, phrases: list[int], scores: list[float], masks: BoolMask) -> None:
        self.frame, self.phrases, self.scores, self.masks = frame, phrases, scores, masks

    @classmethod
    def of(cls, result: FrameResult) -> _Painted:
        segments, map = result.segments, result.segmentation.map
        masks = np.array([map == one.id for one in segments], dtype=np.bool_).reshape(len(segments), *map.shape)
        return cls(result.index, [one.label_id for one in segments], [one.score for one in segments], masks)

    def of_phrases(self, count: int) -> BoolMask:
        """(phrases, H, W) bool."""
        masks = np.zeros((count, *self.masks.shape[1:]), dtype=np.bool_)
        for phrase, mask in zip(self.phrases, self.masks, strict=True):
            masks[phrase] |= mask
        return masks

    def instances(self) -> list[FoundInstance]:
        return [FoundInstance(mask[None], 0, score) for mask, score in zip(self.masks, self.scores, strict=True)]


def _true_masks(example: Example, frame: int) -> BoolMask:
    """(targets, H, W) bool."""
    masks = [target.masks[frame] for target in example.targets]
    return np.array(masks, dtype=np.bool_).reshape(len(masks), *example.frames.shape[1:3])


def _shared(true: BoolMask, found: BoolMask) -> np.ndarray[tuple[int, int, int], np.dtype[np.float64]]:
    """(2, true, found): pixels in common, and in either."""
    pairs = [[(np.count_nonzero(a & b), np.count_nonzero(a | b)) for b in found] for a in true]
    return np.array(pairs, dtype=np.float64).reshape(len(true), len(found), 2).transpose(2, 0, 1)


def _masks_by_label(example: Example, prediction: Prediction, labels: int) -> BoolMask:
    """(labels, T, H, W) bool: all segments of a label together."""
    masks = np.zeros((labels, *example.frames.shape[:3]), dtype=np.bool_)
    for result in prediction.frames:
        for segment in result.segments:
            masks[segment.label_id, result.index] |= segment.mask
    return masks


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
    return float(np.nan_to_num(mask_ious(truth[None], found[None]))[0, 0])


def _words(phrase: str) -> frozenset[str]:
    return frozenset(phrase.lower().split()) - _ARTICLES
