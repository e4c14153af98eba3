"""Arrays that frames and masks are handed around as."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # (H, W, 3), RGB
BoolMask = npt.NDArray[np.bool_]  # (H, W)
LabelMap = npt.NDArray[np.int32]  # (H, W), an id per pixel

MOST_PIXELS = 2 * 89_478_485  # of a frame: where Pillow refuses images too
