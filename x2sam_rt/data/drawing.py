"""Lines, discs and polygons on pixel grids, pixel by pixel as the data sets' own tools draw them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from x2sam_rt.media.types import BoolMask

Integers = npt.NDArray[np.signedinteger[Any]]


def line(row: int, column: int, to_row: int, to_column: int) -> tuple[Integers, Integers]:
    """Rows and columns of a straight line, both ends included (Bresenham)."""
    across, down = abs(to_column - column), abs(to_row - row)
    step_across, step_down = (1 if to_column > column else -1), (1 if to_row > row else -1)
    if steep := down > across:
        row, column, across, down = column, row, down, across
        step_across, step_down = step_down, step_across
    rows, columns, error = [], [], 2 * down - across
    for _ in range(across):
        rows.append(row)
        columns.append(column)
        while error >= 0:
            row, error = row + step_down, error - 2 * across
        column, error = column + step_across, error + 2 * down
    ends = (to_column, to_row) if steep else (to_row, to_column)
    first, second = np.array([*rows, ends[0]]), np.array([*columns, ends[1]])
    return (second, first) if steep else (first, second)


def discs(rows: Integers, columns: Integers, radius: int, height: int, width: int) -> BoolMask:
    """(height, width) bool: every pixel at most `radius` away from one of the given, which lie inside."""
    reach = np.arange(-radius, radius + 1)
    disc = reach[:, None] ** 2 + reach**2 <= radius**2
    grown = np.zeros((height + 2 * radius, width + 2 * radius), dtype=np.bool_)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        grown[row : row + 2 * radius + 1, column : column + 2 * radius + 1] |= disc
    return grown[radius : radius + height, radius : radius + width]


def polygon(points: Sequence[tuple[int, int]], height: int, width: int) -> BoolMask:
    """(height, width) bool: the inside of an outline by even-odd rule, with the outline itself. points: x, y.

    OpenCV's fillPoly with polylines of width 1, but for one pixel in a thousand where lines round the other way.
    """
    mask = np.zeros((height, width), dtype=np.bool_)
    rows, crossings = [], []
    for (x, y), (to_x, to_y) in zip(points, (*points[1:], points[0]), strict=True):
        down, across = line(y, x, to_y, to_x)
        inside = (down >= 0) & (down < height) & (across >= 0) & (across < width)
        mask[down[inside], across[inside]] = True
        if y != to_y:
            crossed = np.arange(max(0, min(y, to_y)), min(height, max(y, to_y)))
            rows.append(crossed)
            crossings.append(x + (crossed - y) * ((to_x - x) / (to_y - y)))
    if rows:
        _fill(mask, np.concatenate(rows), np.concatenate(crossings))
    return mask


_SLACK = 1e-9  # columns that a crossing meets but for rounding


def _fill(mask: BoolMask, rows: Integers, crossings: npt.NDArray[np.float64]) -> None:
    """Between every first and second crossing of a row."""
    order = np.lexsort((crossings, rows))
    rows, crossings = rows[order], crossings[order]
    starts, ends = crossings[::2], crossings[1::2]
    assert (rows[::2] == rows[1::2]).all(), "a closed outline crosses each row an even number of times"
    for row, start, end in zip(rows[::2].tolist(), starts.tolist(), ends.tolist(), strict=True):
        first, last = int(np.ceil(start - _SLACK)), int(np.floor(end + _SLACK))
        mask[row, max(0, first) : max(0, last + 1)] = True
