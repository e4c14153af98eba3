"""Lines, discs and polygons."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw

from x2sam_rt.data.drawing import discs, line, polygon


@pytest.mark.parametrize("ends", [(0, 0, 0, 0), (2, 1, 2, 9), (7, 3, 1, 3), (0, 0, 5, 5), (8, 9, 1, 2), (1, 9, 8, 2)])
def test_a_line_has_both_ends_and_no_gap(ends: tuple[int, int, int, int]) -> None:
    row, column, to_row, to_column = ends
    rows, columns = line(*ends)
    assert (rows[0], columns[0], rows[-1], columns[-1]) == ends[:2] + ends[2:]
    assert len(rows) == max(abs(to_row - row), abs(to_column - column)) + 1
    steps = np.abs(np.diff(rows)), np.abs(np.diff(columns))
    assert all((step <= 1).all() for step in steps)
    straight = (rows - row) * (to_column - column) - (columns - column) * (to_row - row)
    assert np.abs(straight).max() <= max(abs(to_row - row), abs(to_column - column)) / 2


def test_discs_are_cut_at_the_edge() -> None:
    mask = discs(np.array([0, 5]), np.array([1, 6]), 2, 9, 8)
    rows, columns = np.mgrid[:9, :8]
    near = [(rows - row) ** 2 + (columns - column) ** 2 <= 4 for row, column in ((0, 1), (5, 6))]
    np.testing.assert_array_equal(mask, near[0] | near[1])
    assert not discs(np.array([], dtype=int), np.array([], dtype=int), 3, 4, 5).any()


def test_polygons_have_their_outline_and_every_inner_pixel() -> None:
    """Pixels surely inside and surely outside, by a picture eight times as large."""
    rng = np.random.default_rng(2)
    for _ in range(20):
        points = [(int(x), int(y)) for x, y in rng.integers(2, 38, size=(rng.integers(3, 9), 2))]
        large = Image.new("L", (320, 320))
        centres = [(8 * x + 4, 8 * y + 4) for x, y in points]
        ImageDraw.Draw(large).polygon(centres, fill=1)
        shares = np.array(large).reshape(40, 8, 40, 8).mean(axis=(1, 3))
        drawn = polygon(points, 40, 40)
        assert drawn[shares == 1].all()
        for (x, y), (to_x, to_y) in zip(points, [*points[1:], points[0]], strict=True):
            assert drawn[line(y, x, to_y, to_x)].all()
        grown = np.array(Image.fromarray((shares > 0).astype(np.uint8)).resize((40, 40)))
        rows, columns = np.nonzero(drawn & (grown == 0))
        edges = [line(y, x, v, u) for (x, y), (u, v) in zip(points, [*points[1:], points[0]], strict=True)]
        outline = {(int(r), int(c)) for rs, cs in edges for r, c in zip(rs, cs, strict=True)}
        assert set(zip(rows.tolist(), columns.tolist(), strict=True)) <= outline


def test_a_star_that_crosses_itself_is_hollow() -> None:
    """Even-odd rule, as OpenCV fills."""
    star = [(30, 4), (46, 54), (4, 22), (56, 22), (14, 54)]
    drawn = polygon(star, 60, 60)
    assert not drawn[30, 30]
    assert drawn[15, 30]


def test_polygons_may_leave_the_picture() -> None:
    drawn = polygon([(-5, -5), (20, -5), (20, 6), (-5, 6)], 9, 13)
    np.testing.assert_array_equal(drawn, (np.arange(9) <= 6)[:, None] & np.ones(13, dtype=bool))
