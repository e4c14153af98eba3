"""COCO's masks in JSON against pycocotools, and what is no mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_files import packed, unpacked
from pycocotools import mask as coco_mask

from x2sam_rt.data.readers.segmentation import decode_segmentation

MASKS = {
    "noise": np.random.default_rng(3).random((17, 11)) < 0.5,
    "long-runs": np.arange(300 * 41).reshape(300, 41) % 5000 < 2500,
    "empty": np.zeros((4, 7), dtype=np.bool_),
    "full": np.ones((7, 4), dtype=np.bool_),
    "pixel": np.ones((1, 1), dtype=np.bool_),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())
def test_run_lengths(mask: Any) -> None:
    for written in (packed(mask), unpacked(mask)):
        np.testing.assert_array_equal(decode_segmentation(written, *mask.shape), mask)


def test_empty_runs_are_allowed() -> None:
    assert decode_segmentation({"size": [2, 2], "counts": [1, 0, 0, 2, 1]}, 2, 2).T.ravel().tolist() == [0, 1, 1, 0]


def test_nothing_is_an_empty_mask() -> None:
    empty: list[object] = []
    for nothing in (None, empty):
        assert decode_segmentation(nothing, 3, 5).shape == (3, 5)
        assert not decode_segmentation(nothing, 3, 5).any()


def test_polygons() -> None:
    triangles = [[1, 1, 8, 1, 1, 8], [10.5, 9.5, 3, 9, 10, 2.25]]
    wanted = coco_mask.decode(coco_mask.frPyObjects(triangles, 11, 12)).any(axis=2)
    np.testing.assert_array_equal(decode_segmentation(triangles, 11, 12), wanted)
    assert wanted.any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": [3, 4], "counts": [12]}, r"size \[3, 4\]; wanted \[4, 3\]"),
        ({"size": [4, 3], "counts": [3, 4]}, "cover 7 pixels; wanted 12"),
        ({"size": [4, 3], "counts": [13, -1]}, "run lengths that cover"),
        ({"size": [4, 3], "counts": [10**30]}, "run lengths that cover"),
        ({"size": [4, 3], "counts": ""}, "cover 0 pixels"),
        ({"size": [4, 3], "counts": "04"}, "cover 4 pixels"),
        ({"size": [4, 3], "counts": "0é"}, "'é' in packed run lengths"),
        ({"size": [4, 3], "counts": "0o"}, "break off"),
        ({"size": [4, 3]}, "counts"),
        ({"size": [4, 3], "counts": [6.5, 5.5]}, "reshape"),
        ([[1, 2, 3, 4]], "at least three"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three"),
        ([1, 2, 3, 4, 5, 6], "at least three"),
        ([[1, 2, 3, 4, 5, 1e9]], "far outside"),
        ([[1, 2, 3, 4, 5, float("nan")]], "far outside"),
        ([[1, 2, 3, 4, 5, "6"]], "not supported"),
        ("0", "indices"),
        (7, "subscriptable"),
    ],
)
def test_what_is_no_mask(wrong: Any, message: str) -> None:
    with pytest.raises((ValueError, KeyError, TypeError), match=message):
        decode_segmentation(wrong, 4, 3)
