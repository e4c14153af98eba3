"""J, the region similarity of DAVIS: intersection over union."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from x2sam_rt.errors import DataError
from x2sam_rt.media.types import BoolMask

Figures = npt.NDArray[np.float64]


def region_similarity(truth: BoolMask, predicted: BoolMask) -> Figures:
    """(T,) float64: J of each frame, 0…1; 1 where both masks are empty.

    truth, predicted: (T, H, W) bool. Raises DataError where they are not of one shape.
    Source: Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016.
    """
    require_same_clips(truth, predicted)
    together = np.count_nonzero(truth & predicted, axis=(1, 2))
    either = np.count_nonzero(truth | predicted, axis=(1, 2))
    return np.where(either > 0, together / np.maximum(either, 1), 1.0)


def require_same_clips(truth: BoolMask, predicted: BoolMask) -> None:
    """Raises DataError unless both are (T, H, W) bool of one shape."""
    for name, masks in (("true", truth), ("predicted", predicted)):
        if masks.ndim != 3 or masks.dtype != np.bool_:
            raise DataError(f"The {name} masks are {masks.shape} {masks.dtype}; wanted (T, H, W) bool.")
    if truth.shape != predicted.shape:
        raise DataError(f"True masks {truth.shape}, predicted {predicted.shape}: frames and sizes must be the same.")
