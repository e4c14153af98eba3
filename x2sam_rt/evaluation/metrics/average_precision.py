"""AP of instances in images (COCO) and of tracks in videos (YouTube-VIS), both through pycocotools."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from x2sam_rt.errors import DataError
from x2sam_rt.media.rle import RunLengths, encode_mask
from x2sam_rt.media.types import BoolMask

_LARGEST = 1e5**2  # COCO's "no upper limit"


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


class AveragePrecision:
    """COCO's AP over masks. A clip is handed to pycocotools as one wide image, its frames side by side: the IoU of
    such images is the IoU of the tracks over space and time, which YouTube-VIS is measured by. Masks are kept as run
    lengths only.

    limits: what is small and medium. The area of a track is its mean over the frames that show it (YouTube-VIS).
    Sources: Lin et al., "Microsoft COCO", ECCV 2014; Yang et al., "Video Instance Segmentation", ICCV 2019.
    """

    def __init__(self, limits: AreaLimits = COCO_AREAS) -> None:
        self._limits = limits
        self._sizes: list[tuple[int, int]] = []
        self._true: list[_Entry] = []
        self._found: list[_Entry] = []

    def add(self, truth: Sequence[TrueInstance], found: Sequence[FoundInstance]) -> None:
        """Adds one image or clip. Raises DataError where the masks are not all of one (T, H, W)."""
        shapes = {one.masks.shape for one in truth} | {one.masks.shape for one in found}
        if len(shapes) > 1 or any(len(shape) != 3 for shape in shapes):
            raise DataError(f"Masks of the shapes {sorted(shapes)} in one example; wanted one (T, H, W) for all.")
        frames, height, width = shapes.pop() if shapes else (1, 1, 1)
        self._sizes.append((height, frames * width))
        for one in truth:
            self._true.append(self._entry(len(self._true), one.masks, one.category, one.crowd, 0.0))
        for other in found:
            self._found.append(self._entry(len(self._found), other.masks, other.category, False, other.score))

    def result(self) -> AveragePrecisionResult:
        """Raises DataError if no true instance that is no crowd was added."""
        if all(entry["iscrowd"] for entry in self._true):
            raise DataError("AP of nothing: no true instance was added.")
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress there
            evaluation = self._evaluation()
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        ap, ap50, ap75, small, medium, large, ar1, ar10, ar100 = (float(figure) for figure in evaluation.stats[:9])
        assert ap >= 0, "there are true instances"
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
            per_category=_per_category(evaluation.eval["precision"], evaluation.params.catIds),
        )

    def _entry(self, place: int, masks: BoolMask, category: int, crowd: bool, score: float) -> _Entry:
        areas = np.count_nonzero(masks, axis=(1, 2))
        return _Entry(
            id=place + 1,  # pycocotools takes 0 for "not matched"
            image_id=len(self._sizes),
            category_id=category,
            segmentation=encode_mask(_side_by_side(masks)),
            area=float(areas.sum() / max(1, np.count_nonzero(areas))),
            iscrowd=int(crowd),
            score=float(score),
        )

    def _evaluation(self) -> COCOeval:
        evaluation = COCOeval(self._as_coco(self._true), self._as_coco(self._found), "segm")
        small, medium = self._limits.small, self._limits.medium
        evaluation.params.areaRng = [[0, _LARGEST], [0, small], [small, medium], [medium, _LARGEST]]
        return evaluation

    def _as_coco(self, entries: Sequence[_Entry]) -> COCO:
        coco = COCO()
        categories = {entry["category_id"] for entry in (*self._true, *self._found)}
        coco.dataset = {
            "images": [{"id": n, "height": h, "width": w} for n, (h, w) in enumerate(self._sizes, start=1)],
            "annotations": [dict(entry) for entry in entries],  # pycocotools writes into them
            "categories": [{"id": category} for category in sorted(categories)],
        }
        coco.createIndex()
        return coco


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
