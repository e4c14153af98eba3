"""COCO's masks in JSON against pycocotools, and what is no mask."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_files import packed, unpacked
from pycocotools import mask as coco_mask

from x2sam_rt.data.readers.masks import PackedMasks, decode_segmentation

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
        ({"size": [4, 3], "counts": [6.5, 5.5]}, "no whole numbers"),
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


def test_several_run_lengths_of_one_mask_count_together() -> None:
    first, second = np.eye(4, 3, dtype=np.bool_), np.ones((4, 3), dtype=np.bool_)
    second[:, 1:] = False
    np.testing.assert_array_equal(decode_segmentation([packed(first), unpacked(second)], 4, 3), first | second)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (3, 8), (9, 13)], ids=str)
def test_packed_masks_are_indexed_as_arrays_are(size: tuple[int, int]) -> None:
    wanted = np.random.default_rng(1).random((6, *size)) < 0.5
    masks = PackedMasks.of(wanted)
    assert (masks.shape, masks.dtype) == (wanted.shape, np.bool_)
    assert masks.bits.nbytes <= 6 * (size[0] * size[1] / 8 + 1)
    chosen = np.array([True, False, True, True, False, False])
    for key in (0, -1, np.int64(2), slice(None), slice(1, 4), chosen, [4, 0, 4], (3, 0), (slice(2), 0, 0), (1, ..., 0)):
        np.testing.assert_array_equal(masks[key], wanted[key])
    np.testing.assert_array_equal(np.asarray(masks), wanted)
    assert np.asarray(masks).dtype == np.bool_
    with pytest.raises(IndexError):
        masks[6]
