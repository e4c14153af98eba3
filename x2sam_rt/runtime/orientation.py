"""Turning frames upright by the display matrix that cameras store beside them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
DisplayMatrix = npt.NDArray[np.int32]


def upright(pixels: Pixels, matrix: DisplayMatrix) -> Pixels:
    """Applies a display matrix, taken to its nearest quarter turn (with or without a mirror).

    pixels: (H, W, 3) uint8 as stored. matrix: (3, 3) int32, FFmpeg's AV_FRAME_DATA_DISPLAYMATRIX: a stored
    point (x, y) is shown at x' = a·x + c·y, y' = b·x + d·y with ((a, b), (c, d)) its upper left part, y downwards.
    Returns (H, W, 3), or (W, H, 3) for an odd number of quarter turns; contiguous.
    """
    (a, b), (c, d) = matrix[:2, :2].tolist()
    if abs(b) > abs(a):
        pixels = pixels.transpose(1, 0, 2)
        flip_rows, flip_columns = b < 0, c < 0
    else:
        flip_rows, flip_columns = d < 0, a < 0
    return np.ascontiguousarray(pixels[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1])
