"""The category of every pixel: mIoU, and whether a video's categories stay where they should (mVC)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.metrics.state import State

IGNORED = 255
VSPW_WINDOWS = (8, 16)  # frames
_NO_STEADY_PIXEL = 1e-6  # VSPW: what keeps a window without a steady pixel from dividing by zero
Categories = npt.NDArray[np.integer]


@dataclass(frozen=True)
class MeanIoUResult:
    """miou: mean over the categories that are true or were predicted somewhere. miou_true: over those that are true
    somewhere, as detectron2 and with it X2SAM's figures have it. frequency_weighted: the IoUs weighed by how many
    pixels have the category; mean_accuracy: mean over true categories of the part of their pixels that is right;
    pixel_accuracy: the part of labelled pixels that is right. per_category: by index; None where the category never
    occurred. All 0…1."""

    miou: float
    miou_true: float
    frequency_weighted: float
    mean_accuracy: float
    pixel_accuracy: float
    per_category: tuple[float | None, ...]


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

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """(true categories, predicted categories + 1): pixels; the last column is what was given no category."""
        return self._confusion

    def state(self) -> State:
        """[[place in the flat confusion matrix, pixels], …]."""
        flat = self._confusion.ravel()
        return [[int(place), int(flat[place])] for place in np.flatnonzero(flat)]

    def merge(self, state: State) -> None:
        for place, pixels in state:
            self._confusion.flat[place] += pixels

    def result(self) -> MeanIoUResult:
        """Raises DataError if no labelled pixel was added."""
        if not self._confusion.any():
            raise DataError("mIoU of nothing: no labelled pixel was added.")
        right, true = self._confusion.diagonal(), self._confusion.sum(axis=1)
        union = true + self._confusion.sum(axis=0)[:-1] - right
        iou = right / np.maximum(union, 1)
        return MeanIoUResult(
            miou=float(iou[union > 0].mean()),
            miou_true=float(iou[true > 0].mean()),
            frequency_weighted=float((iou * true).sum() / true.sum()),
            mean_accuracy=float((right / np.maximum(true, 1))[true > 0].mean()),
            pixel_accuracy=float(right.sum() / true.sum()),
            per_category=tuple(float(one) if met else None for one, met in zip(iou, union > 0, strict=True)),
        )


@dataclass(frozen=True)
class ConsistencyResult:
    """By the window's length in frames. mvc: 0…1; None where no video was longer. windows: how many it is the mean
    of."""

    mvc: Mapping[int, float | None]
    windows: Mapping[int, int]


class VideoConsistency:
    """mVC of one video, frame by frame, or of several by `merge`: of the pixels whose true label does not change
    within n frames, the part whose predicted label does not either. It need not be the right one.

    As published a video of T frames has T − n windows, one fewer than fit. Only counters of the video's size are held.
    Source: Miao et al., "VSPW: A Large-scale Dataset for Video Scene Parsing in the Wild", CVPR 2021.
    """

    def __init__(self, windows: Sequence[int] = VSPW_WINDOWS) -> None:
        self._sums = dict.fromkeys(windows, 0.0)
        self._counts = dict.fromkeys(windows, 0)
        self._true, self._found = _Steadiness(), _Steadiness()
        self._frames = 0

    def add(self, truth: Categories, predicted: Categories) -> None:
        """The next frame, in the video's order. truth, predicted: (H, W) integers; in the truth every label counts,
        void too. Raises DataError for two shapes, and for frames of several sizes."""
        if truth.shape != predicted.shape:
            raise DataError(f"True categories {truth.shape}, predicted {predicted.shape}: they must be of one size.")
        self._close_window()  # only now is it known that the frame before was not the last
        self._true.add(truth)
        self._found.add(predicted)
        self._frames += 1

    def state(self) -> State:
        """[[frames of a window, sum, windows], …]."""
        return [[length, self._sums[length], self._counts[length]] for length in self._sums]

    def merge(self, state: State) -> None:
        for length, total, count in state:
            self._sums[length] += total
            self._counts[length] += count

    def result(self) -> ConsistencyResult:
        means = {n: self._sums[n] / count if count else None for n, count in self._counts.items()}
        return ConsistencyResult(means, dict(self._counts))

    def _close_window(self) -> None:
        for length in self._sums:
            if self._frames >= length:
                steady = self._true.runs >= length
                kept = np.count_nonzero(steady & (self._found.runs >= length))
                self._sums[length] += float(kept / (np.count_nonzero(steady) + _NO_STEADY_PIXEL))
                self._counts[length] += 1


class _Steadiness:
    """For how many frames, up to the last, each pixel has had the label it has."""

    def __init__(self) -> None:
        self.runs = np.zeros((0, 0), dtype=np.int32)
        self._before: Categories | None = None

    def add(self, labels: Categories) -> None:
        if self._before is None:
            self.runs = np.ones(labels.shape, dtype=np.int32)
        elif self._before.shape != labels.shape:
            raise DataError(f"A frame of {labels.shape} after one of {self._before.shape}; wanted one size a video.")
        else:
            self.runs = np.where(self._before == labels, self.runs + 1, 1).astype(np.int32)
        self._before = labels.copy()
