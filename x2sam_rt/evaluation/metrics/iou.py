"""Intersection over union: by category (mIoU), and of one mask per example (gIoU and cIoU)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from x2sam_rt.errors import DataError
from x2sam_rt.media.types import BoolMask

IGNORED = 255
Categories = npt.NDArray[np.integer]


@dataclass(frozen=True)
class MeanIoUResult:
    """miou: mean over the categories that are true or were predicted somewhere. per_category: by index; None where
    the category never occurred. pixel_accuracy: the part of labelled pixels that is right. All 0…1."""

    miou: float
    per_category: tuple[float | None, ...]
    pixel_accuracy: float


class MeanIoU:
    """Semantic segmentation: one confusion matrix over all pixels of all examples.

    categories: how many there are. Pixels whose truth is `ignored` do not count; a prediction of `ignored` (or of any
    number that is no category) on a labelled pixel is a miss.
    Source: the PASCAL VOC definition, Everingham et al., IJCV 2015.
    """

    def __init__(self, categories: int, *, ignored: int = IGNORED) -> None:
        self._categories = categories
        self._ignored = ignored
        self._confusion = np.zeros((categories, categories + 1), dtype=np.int64)  # the last column: no category

    def add(self, truth: Categories, predicted: Categories) -> None:
        """truth, predicted: integers of one shape, (H, W) or (T, H, W): the category of each pixel, from 0.

        Raises DataError for two shapes, and for a truth that is neither a category nor `ignored`.
        """
        if truth.shape != predicted.shape:
            raise DataError(f"True categories {truth.shape}, predicted {predicted.shape}: they must be of one size.")
        labelled = truth != self._ignored
        true, found = truth[labelled].astype(np.int64), predicted[labelled].astype(np.int64)
        if true.size and not 0 <= true.min() <= true.max() < self._categories:
            raise DataError(
                f"True categories from {true.min()} to {true.max()}; wanted 0 to {self._categories - 1}, "
                f"or {self._ignored} for pixels without a label."
            )
        found = np.where((found >= 0) & (found < self._categories), found, self._categories)
        pairs = np.bincount(true * (self._categories + 1) + found, minlength=self._confusion.size)
        self._confusion += pairs.reshape(self._confusion.shape)

    def result(self) -> MeanIoUResult:
        """Raises DataError if no labelled pixel was added."""
        right = self._confusion.diagonal()
        union = self._confusion.sum(axis=1) + self._confusion.sum(axis=0)[:-1] - right
        if not self._confusion.any():
            raise DataError("mIoU of nothing: no labelled pixel was added.")
        met = union > 0
        figures = right / np.maximum(union, 1)
        return MeanIoUResult(
            miou=float(figures[met].mean()),
            per_category=tuple(float(f) if m else None for f, m in zip(figures, met, strict=True)),
            pixel_accuracy=float(right.sum() / self._confusion.sum()),
        )


@dataclass(frozen=True)
class MaskIoUResult:
    """giou: mean of the examples' IoU. ciou: all intersections over all unions, so large masks weigh more (RefCOCO's
    "oIoU"). Both 0…1."""

    giou: float
    ciou: float
    examples: int


class MaskIoU:
    """One mask per example, as referring and reasoning segmentation measure it.

    An example without a target is worth 1 if nothing was predicted and 0 otherwise; what was predicted there enlarges
    the union of cIoU. Sources: ReasonSeg (Lai et al., arXiv 2308.00692), gRefCOCO (Liu et al., arXiv 2306.00968).
    """

    def __init__(self) -> None:
        self._each: list[float] = []
        self._together = 0
        self._either = 0

    def add(self, truth: BoolMask, predicted: BoolMask, ignored: BoolMask | None = None) -> None:
        """truth, predicted: bool of one shape, (H, W) or (T, H, W). ignored: bool of that shape, pixels that do not
        count. Raises DataError for other shapes."""
        if ignored is not None:
            if ignored.shape != truth.shape:
                raise DataError(f"Ignored pixels {ignored.shape}, masks {truth.shape}: they must be of one size.")
            truth, predicted = truth & ~ignored, predicted & ~ignored
        if truth.shape != predicted.shape:
            raise DataError(f"True mask {truth.shape}, predicted {predicted.shape}: they must be of one size.")
        together, either = int(np.count_nonzero(truth & predicted)), int(np.count_nonzero(truth | predicted))
        self._each.append(together / either if either else 1.0)
        self._together += together
        self._either += either

    def result(self) -> MaskIoUResult:
        """Raises DataError if no example was added."""
        if not self._each:
            raise DataError("IoU of nothing: no example was added.")
        ciou = self._together / self._either if self._either else 1.0
        return MaskIoUResult(float(np.mean(self._each)), ciou, len(self._each))
