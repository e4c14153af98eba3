"""AP of instances in images (COCO), in the frames of videos and of tracks through them (YouTube-VIS)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.metrics.state import State
from x2sam_rt.media.rle import RunLengths, encode_mask
from x2sam_rt.media.types import BoolMask

Key = int | str | None
_LARGEST = 1e5**2  # COCO's "no upper limit"
_THRESHOLDS = 10  # IoU 0.5, 0.55, …, 0.95
_MOST = 100  # detections of an image and category that count (COCO)


@dataclass(frozen=True)
class AreaLimits:
    """Pixels up to which an object is small, and up to which it is medium."""

    small: float
    medium: float


COCO_AREAS = AreaLimits(32**2, 96**2)
YOUTUBE_VIS_AREAS = AreaLimits(128**2, 256**2)


@dataclass(frozen=True, eq=False)
class TrueInstance:
    """masks: (T, H, W) bool; T = 1 for an image. crowd: a group under one mask, neither right nor wrong to find."""

    masks: BoolMask
    category: int
    crowd: bool = False


@dataclass(frozen=True, eq=False)
class FoundInstance:
    """masks: (T, H, W) bool, empty where the object is not seen. score: any range, higher = surer."""

    masks: BoolMask
    category: int
    score: float


@dataclass(frozen=True)
class AveragePrecisionResult:
    """ap: mean over IoU 0.5, 0.55, …, 0.95 and over categories. small, medium, large: ap by the objects' area. ar1,
    ar10, ar100: recall with that many instances per example. All 0…1; None where there is no such object.
    per_category: ap by category, of those that occur."""

    ap: float
    ap50: float
    ap75: float
    small: float | None
    medium: float | None
    large: float | None
    ar1: float
    ar10: float
    ar100: float
    per_category: dict[int, float]


class _Entry(TypedDict):
    """An annotation as pycocotools wants it; score is 0 for true ones."""

    id: int
    image_id: int
    category_id: int
    segmentation: RunLengths
    area: float
    iscrowd: int
    score: float


@dataclass(frozen=True, eq=False)
class _Matches:
    """What pycocotools found for a category in an image, in one range of areas. scores: (D,). found, ignored: (IoU
    thresholds, D) bool: who found a true instance, and who does not count. true_ignored: (G,) bool."""

    category: int
    area: int
    scores: list[float]
    found: npt.NDArray[np.bool_]
    ignored: npt.NDArray[np.bool_]
    true_ignored: npt.NDArray[np.bool_]

    def state(self) -> State:
        bits = [_bits(flags) for flags in (self.found, self.ignored, self.true_ignored)]
        return [self.category, self.area, self.scores, *bits]

    @classmethod
    def of(cls, state: State) -> _Matches:
        category, area, scores, found, ignored, true_ignored = state
        shape = (_THRESHOLDS, len(scores))
        return cls(
            category, area, scores, _flags(found).reshape(shape), _flags(ignored).reshape(shape), _flags(true_ignored)
        )


class AveragePrecision:
    """COCO's AP over masks, by pycocotools. Images are matched as they come, so no mask is kept.

    A clip is handed over as one wide image, its frames side by side: the IoU of such images is the IoU of the tracks
    over space and time, which YouTube-VIS is measured by. For AP of single frames, add each as an image.

    limits: what is small and medium. The area of a track is its mean over the frames that show it (YouTube-VIS).
    pooled: images (T = 1) are matched at the end, those that were added with one key together: the true instances of
    each may be found by detections of another, if their sizes are the same. Masks are kept as run lengths.
    Sources: Lin et al., "Microsoft COCO", ECCV 2014; Yang et al., "Video Instance Segmentation", ICCV 2019.
    """

    def __init__(self, limits: AreaLimits = COCO_AREAS, *, pooled: bool = False) -> None:
        self._limits = limits
        self._pools: dict[Key, tuple[list[_Entry], list[_Entry]]] | None = {} if pooled else None
        self._matches: list[list[_Matches]] = []

    def add(self, truth: Sequence[TrueInstance], found: Sequence[FoundInstance], *, key: Key = None) -> None:
        """Adds one image or clip. Raises DataError where the masks are not all of one (T, H, W)."""
        shapes = {one.masks.shape for one in truth} | {one.masks.shape for one in found}
        if len(shapes) > 1 or any(len(shape) != 3 for shape in shapes):
            raise DataError(f"Masks of the shapes {sorted(shapes)} in one example; wanted one (T, H, W) for all.")
        true = [_entry(one.masks, one.category, one.crowd, 0.0) for one in truth]
        seen = [_entry(one.masks, one.category, False, one.score) for one in found]
        self._add(true, seen, key)

    def state(self) -> State:
        """[[category, area, scores, bits …], …] per image; pooled: [[key, true entries, found entries], …]."""
        if self._pools is None:
            return [[one.state() for one in image] for image in self._matches]
        return [[key, _packed(true), _packed(_countable(found))] for key, (true, found) in self._pools.items()]

    def merge(self, state: State) -> None:
        if self._pools is None:
            self._matches += [[_Matches.of(one) for one in image] for image in state]
            return
        for key, true, found in state:
            self._add([_unpacked(one) for one in true], [_unpacked(one) for one in found], key)

    def result(self) -> AveragePrecisionResult:
        """Raises DataError if no true instance that is no crowd was added."""
        matches = self._matches + [_match(*pool, self._limits) for pool in (self._pools or {}).values()]
        if not any((~one.true_ignored).any() for image in matches for one in image if one.area == 0):
            raise DataError("AP of nothing: no true instance was added.")
        return _summary(matches)

    def _add(self, true: list[_Entry], found: list[_Entry], key: Key) -> None:
        if self._pools is None:
            self._matches.append(_match(true, found, self._limits))
            return
        pool = self._pools.setdefault(key, ([], []))
        pool[0].extend(true)
        pool[1].extend(found)


def _entry(masks: BoolMask, category: int, crowd: bool, score: float) -> _Entry:
    areas = np.count_nonzero(masks, axis=(1, 2))
    return _Entry(
        id=0,
        image_id=0,
        category_id=category,
        segmentation=encode_mask(_side_by_side(masks)),
        area=float(areas.sum() / max(1, np.count_nonzero(areas))),
        iscrowd=int(crowd),
        score=float(score),
    )


def _match(true: list[_Entry], found: list[_Entry], limits: AreaLimits) -> list[_Matches]:
    """One image, or what is taken for one."""
    if not true and not found:
        return []
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
        evaluation = COCOeval(_as_coco(true, true + found), _as_coco(found, true + found), "segm")
        evaluation.params.areaRng = _area_ranges(limits)
        evaluation.evaluate()
    ranges = evaluation.params.areaRng
    return [
        _Matches(
            int(one["category_id"]),
            ranges.index(one["aRng"]),
            [float(score) for score in one["dtScores"]],
            np.asarray(one["dtMatches"]) > 0,
            np.asarray(one["dtIgnore"], dtype=np.bool_),
            np.asarray(one["gtIgnore"], dtype=np.bool_),
        )
        for one in evaluation.evalImgs
        if one is not None
    ]


def _summary(matches: Sequence[Sequence[_Matches]]) -> AveragePrecisionResult:
    """pycocotools's own sums over what was matched image by image."""
    evaluation = COCOeval(iouType="segm")
    categories = sorted({one.category for image in matches for one in image})
    parameters = evaluation.params
    parameters.catIds, parameters.imgIds = categories, list(range(len(matches)))
    place = {category: number for number, category in enumerate(categories)}
    table = np.full((len(categories), len(parameters.areaRng), len(matches)), None, dtype=object)
    for image, found in enumerate(matches):
        for one in found:
            table[place[one.category], one.area, image] = {
                "dtScores": one.scores,
                "dtMatches": one.found,
                "dtIgnore": one.ignored,
                "gtIgnore": one.true_ignored,
            }
    evaluation.evalImgs, evaluation._paramsEval = table.ravel().tolist(), parameters
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation.accumulate()
        evaluation.summarize()
    ap, ap50, ap75, small, medium, large, ar1, ar10, ar100 = (float(figure) for figure in evaluation.stats[:9])
    return AveragePrecisionResult(
        ap,
        ap50,
        ap75,
        small=_if_any(small),
        medium=_if_any(medium),
        large=_if_any(large),
        ar1=ar1,
        ar10=ar10,
        ar100=ar100,
        per_category=_per_category(evaluation.eval["precision"], categories),
    )


def _as_coco(entries: Sequence[_Entry], together: Sequence[_Entry]) -> COCO:
    height, width = together[0]["segmentation"]["size"]
    coco = COCO()
    coco.dataset = {
        "images": [{"id": 0, "height": height, "width": width}],
        # Numbered from 1, as pycocotools takes 0 for "not matched"; copied, as it writes into them.
        "annotations": [{**entry, "id": number} for number, entry in enumerate(entries, start=1)],
        "categories": [{"id": category} for category in sorted({entry["category_id"] for entry in together})],
    }
    coco.createIndex()
    return coco


def _area_ranges(limits: AreaLimits) -> list[list[float]]:
    return [[0, _LARGEST], [0, limits.small], [limits.small, limits.medium], [limits.medium, _LARGEST]]


def _packed(entries: Sequence[_Entry]) -> State:
    """As short lists."""
    return [
        [one["category_id"], one["segmentation"]["size"], one["segmentation"]["counts"], one["iscrowd"], one["score"]]
        for one in entries
    ]


def _countable(found: Sequence[_Entry]) -> list[_Entry]:
    """Those that count, whatever other images they are matched with."""
    by_category: dict[int, list[_Entry]] = {}
    for entry in sorted(found, key=lambda one: -one["score"]):
        by_category.setdefault(entry["category_id"], []).append(entry)
    return [entry for entries in by_category.values() for entry in entries[:_MOST]]


def _unpacked(state: State) -> _Entry:
    category, size, counts, crowd, score = state
    return _Entry(
        id=0,
        image_id=0,
        category_id=category,
        segmentation=RunLengths(size=size, counts=counts),
        area=float(coco_mask.area({"size": size, "counts": counts})),
        iscrowd=crowd,
        score=score,
    )


def _bits(flags: npt.NDArray[np.bool_]) -> str:
    return "".join("1" if flag else "0" for flag in flags.ravel())


def _flags(bits: str) -> npt.NDArray[np.bool_]:
    flags: npt.NDArray[np.bool_] = np.frombuffer(bits.encode(), dtype=np.uint8) == ord("1")
    return flags


def _side_by_side(masks: BoolMask) -> BoolMask:
    """(T, H, W) as (H, T·W)."""
    frames, height, width = masks.shape
    return masks.transpose(1, 0, 2).reshape(height, frames * width)


def _if_any(figure: float) -> float | None:
    """pycocotools writes −1 where there was nothing to measure."""
    return None if figure < 0 else figure


def _per_category(precision: npt.NDArray[np.float64], categories: Sequence[int]) -> dict[int, float]:
    """precision: (IoU, recall, category, area, instances), −1 where a category has no true instance."""
    means = {}
    for place, category in enumerate(categories):
        figures = precision[:, :, place, 0, -1]
        if (figures > -1).any():
            means[int(category)] = float(figures[figures > -1].mean())
    return means
