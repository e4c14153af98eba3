"""One mask against one mask: gIoU and cIoU of images, J&F of objects in videos."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.metrics.state import State
from x2sam_rt.media.types import BoolMask

BOUNDARY_TOLERANCE = 0.008  # of the frame's diagonal (DAVIS)
_FOUND = 0.5  # DAVIS: a frame counts as recalled above this
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MaskIoUResult:
    """giou: mean of the examples' IoU. ciou: all intersections over all unions, so large masks weigh more (RefCOCO's
    "oIoU"). Both 0…1. n_acc: the part of the examples without a target for which nothing was predicted (gRefCOCO);
    None where every example had one."""

    giou: float
    ciou: float
    examples: int
    n_acc: float | None
    without_target: int


class MaskIoU:
    """One mask per example, as referring and reasoning segmentation measure it.

    An example without a target is worth 1 if nothing was predicted and 0 otherwise; what was predicted there enlarges
    the union of cIoU. Sources: ReasonSeg (Lai et al., arXiv 2308.00692), gRefCOCO (Liu et al., arXiv 2306.00968).
    """

    def __init__(self) -> None:
        self._overlaps: list[tuple[int, int, int]] = []  # intersection, union, true pixels

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
        self._overlaps.append((together, either, int(np.count_nonzero(truth))))

    def state(self) -> State:
        """[[intersection, union, true pixels], …], one per example."""
        return [list(overlap) for overlap in self._overlaps]

    def merge(self, state: State) -> None:
        self._overlaps += [(together, either, true) for together, either, true in state]

    def result(self) -> MaskIoUResult:
        """Raises DataError if no example was added."""
        if not self._overlaps:
            raise DataError("IoU of nothing: no example was added.")
        each = [_iou(together, either) for together, either, _ in self._overlaps]
        silent = [either == 0 for _, either, true in self._overlaps if true == 0]
        return MaskIoUResult(
            giou=float(np.mean(each)),
            ciou=_iou(sum(together for together, _, _ in self._overlaps), sum(one for _, one, _ in self._overlaps)),
            examples=len(each),
            n_acc=float(np.mean(silent)) if silent else None,
            without_target=len(silent),
        )


def _iou(together: int, either: int) -> float:
    return together / either if either else 1.0


def region_similarity(truth: BoolMask, predicted: BoolMask) -> Values:
    """(T,) float64: J of each frame, 0…1, its intersection over union; 1 where both masks are empty.

    truth, predicted: (T, H, W) bool. Raises DataError where they are not of one shape.
    Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016.
    """
    _require_same_clips(truth, predicted)
    together = np.count_nonzero(truth & predicted, axis=(1, 2))
    either = np.count_nonzero(truth | predicted, axis=(1, 2))
    return np.where(either > 0, together / np.maximum(either, 1), 1.0)


def boundary_measure(truth: BoolMask, predicted: BoolMask, *, tolerance: float = BOUNDARY_TOLERANCE) -> Values:
    """(T,) float64: F of each frame, 0…1, the harmonic mean of precision and recall of the outlines; 1 where neither
    mask has an outline, 0 where only one has.

    truth, predicted: (T, H, W) bool. tolerance: how far apart two outlines may lie and still agree, as a part of the
    frame's diagonal; rounded up to whole pixels. Raises DataError where the masks are not of one shape.
    Source: as for J; the conventions are those of the DAVIS 2017 evaluation.
    """
    _require_same_clips(truth, predicted)
    reach = math.ceil(tolerance * math.hypot(*truth.shape[1:]))
    frames = zip(truth, predicted, strict=True)
    return np.array([_frame_measure(one, other, reach) for one, other in frames], dtype=np.float64)


def outline(mask: BoolMask) -> BoolMask:
    """(H, W) bool: pixels that differ from their neighbour to the right, below or diagonally below; so an outline has
    one pixel of width, and the frame's own edge is none."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here, right, below, diagonal = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    edge: BoolMask = (here != right) | (here != below) | (here != diagonal)
    return edge


def grown(mask: BoolMask, reach: int) -> BoolMask:
    """(H, W) bool: every pixel at most `reach` pixels (Euclidean) from one of the mask."""
    off = _rows_off(mask, reach)
    near: BoolMask = off <= reach
    width = mask.shape[1]
    for aside in range(1, min(reach, width - 1) + 1):
        within = off <= math.isqrt(reach * reach - aside * aside)
        near[:, aside:] |= within[:, :-aside]
        near[:, :-aside] |= within[:, aside:]
    return near


@dataclass(frozen=True)
class JAndFResult:
    """0…1. j_and_f, j, f: means over an object's frames, then over objects, as DAVIS and Ref-YouTube-VOS have it; the
    recalls: the part of an object's frames whose value is over 0.5. over_frames: (j + f) / 2 of j_over_frames and
    f_over_frames, means over all frames of all objects, where long clips weigh more: X2SAM's published figures."""

    j_and_f: float
    j: float
    f: float
    j_recall: float
    f_recall: float
    objects: int
    over_frames: float
    j_over_frames: float
    f_over_frames: float
    frames: int


class JAndF:
    """J and F of objects, or of what referring expressions mean.

    inner_frames_only: leave out the first frame, which is given, and the last, as the semi-supervised DAVIS evaluation
    does. Referring benchmarks (Ref-DAVIS17, Ref-YouTube-VOS) count all frames.
    Source: the DAVIS 2017 challenge, Pont-Tuset et al., arXiv 1704.00675.
    """

    def __init__(self, *, inner_frames_only: bool = False) -> None:
        self._frames = slice(1, -1) if inner_frames_only else slice(None)
        self._objects: dict[Hashable, tuple[list[float], list[float]]] = {}

    def add(
        self, truth: BoolMask, predicted: BoolMask, ignored: BoolMask | None = None, *, key: Hashable = None
    ) -> None:
        """Measures one object of a clip. truth, predicted: (T, H, W) bool. ignored: (T, H, W) bool, pixels that do not
        count (DAVIS's void). key: frames that come with one key are one object's; None: an object of its own.

        Raises DataError for other shapes, and where no frame is left to measure."""
        _require_same_clips(truth, predicted)
        if ignored is not None:
            _require_same_clips(truth, ignored)
            truth, predicted = truth & ~ignored, predicted & ~ignored
        truth, predicted = truth[self._frames], predicted[self._frames]
        if not len(truth):
            raise DataError("J&F without a frame to measure: without its first and last frame the clip is empty.")
        own = len(self._objects) if key is None else ("key", key)
        j, f = self._objects.setdefault(own, ([], []))
        j += region_similarity(truth, predicted).tolist()
        f += boundary_measure(truth, predicted).tolist()

    def state(self) -> State:
        """[[J of each frame, F of each frame], …], one per object."""
        return [[j, f] for j, f in self._objects.values()]

    def merge(self, state: State) -> None:
        for j, f in state:
            self._objects[len(self._objects)] = (list(j), list(f))

    def result(self) -> JAndFResult:
        """Raises DataError if no object was added."""
        if not self._objects:
            raise DataError("J&F of nothing: no object was added.")
        objects = [(np.array(j), np.array(f)) for j, f in self._objects.values()]
        each = [(j.mean(), f.mean(), (j > _FOUND).mean(), (f > _FOUND).mean()) for j, f in objects]
        j, f, j_recall, f_recall = (float(value) for value in np.mean(each, axis=0))
        j_frames, f_frames = (np.concatenate(frames) for frames in zip(*objects, strict=True))
        return JAndFResult(
            (j + f) / 2,
            j,
            f,
            j_recall,
            f_recall,
            objects=len(objects),
            over_frames=float(j_frames.mean() + f_frames.mean()) / 2,
            j_over_frames=float(j_frames.mean()),
            f_over_frames=float(f_frames.mean()),
            frames=len(j_frames),
        )


def _require_same_clips(truth: BoolMask, predicted: BoolMask) -> None:
    for name, masks in (("true", truth), ("predicted", predicted)):
        if masks.ndim != 3 or masks.dtype != np.bool_:
            raise DataError(f"The {name} masks are {masks.shape} {masks.dtype}; wanted (T, H, W) bool.")
    if truth.shape != predicted.shape:
        raise DataError(f"True masks {truth.shape}, predicted {predicted.shape}: frames and sizes must be the same.")


def _frame_measure(truth: BoolMask, predicted: BoolMask, reach: int) -> float:
    true_outline, found_outline = outline(truth), outline(predicted)
    if not true_outline.any() or not found_outline.any():
        return float(true_outline.any() == found_outline.any())
    box = _box_around(true_outline | found_outline)  # nothing outside is asked for
    true_outline, found_outline = true_outline[box], found_outline[box]
    precision = np.count_nonzero(found_outline & grown(true_outline, reach)) / np.count_nonzero(found_outline)
    recall = np.count_nonzero(true_outline & grown(found_outline, reach)) / np.count_nonzero(true_outline)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _rows_off(mask: BoolMask, reach: int) -> npt.NDArray[np.int32]:
    """(H, W) int32: rows to the next pixel of the mask in the same column; more than `reach` where there is none."""
    height = mask.shape[0]
    far = height + reach + 1
    rows = np.arange(height, dtype=np.int32)[:, None]
    above = np.maximum.accumulate(np.where(mask, rows, -far), axis=0)
    below = np.minimum.accumulate(np.where(mask, rows, height + far)[::-1], axis=0)[::-1]
    off: npt.NDArray[np.int32] = np.minimum(rows - above, below - rows)
    return off


def _box_around(mask: BoolMask) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
