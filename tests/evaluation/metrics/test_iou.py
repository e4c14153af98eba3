"""mIoU, gIoU and cIoU against loops, with their conventions for what is empty or ignored."""

from __future__ import annotations

import numpy as np
import pytest

from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.metrics import MaskIoU, MeanIoU


def test_mean_iou_as_a_loop_finds_it() -> None:
    random = np.random.default_rng(7)
    metric = MeanIoU(5)
    pairs = []
    for height, width in [(3, 5), (1, 1), (8, 2)]:
        truth = random.choice([0, 1, 2, 4, 255], size=(height, width)).astype(np.uint8)
        predicted = random.choice([0, 1, 2, 4, 255, 77], size=(height, width)).astype(np.int32)
        metric.add(truth, predicted)
        pairs += [(int(t), int(p)) for t, p in zip(truth.ravel(), predicted.ravel(), strict=True) if t != 255]
    result = metric.result()
    wanted = []
    for category in range(5):
        union = sum(category in pair for pair in pairs)
        wanted.append(pairs.count((category, category)) / union if union else None)
    assert result.per_category == pytest.approx(wanted)
    assert wanted[3] is None
    assert result.miou == pytest.approx(np.mean([one for one in wanted if one is not None]))
    assert result.pixel_accuracy == pytest.approx(np.mean([t == p for t, p in pairs]))


def test_a_category_only_predicted_counts_as_zero() -> None:
    metric = MeanIoU(3)
    metric.add(np.zeros((2, 2), dtype=np.int32), np.array([[0, 0], [0, 2]]))
    assert metric.result().per_category == (0.75, None, 0.0)
    assert metric.result().miou == 0.375


def test_mean_iou_refusals() -> None:
    metric = MeanIoU(3)
    with pytest.raises(DataError, match="no labelled pixel"):
        metric.result()
    with pytest.raises(DataError, match="wanted 0 to 2, or 255"):
        metric.add(np.array([[3]]), np.array([[0]]))
    with pytest.raises(DataError, match="one size"):
        metric.add(np.zeros((2, 3), dtype=np.int32), np.zeros((3, 2), dtype=np.int32))


def test_mask_iou_over_examples() -> None:
    metric = MaskIoU()
    truth, predicted = np.zeros((2, 4, 5), dtype=np.bool_)
    truth[:2], predicted[1:3] = True, True  # 5 of 15
    metric.add(truth, predicted)
    metric.add(truth, truth)  # 10 of 10
    assert metric.result().giou == pytest.approx((1 / 3 + 1) / 2)
    assert metric.result().ciou == pytest.approx(15 / 25)
    assert metric.result().examples == 2


def test_without_a_target() -> None:
    nothing, something = np.zeros((2, 3, 4), dtype=np.bool_)
    something[0] = True
    metric = MaskIoU()
    metric.add(nothing, nothing)
    assert (metric.result().giou, metric.result().ciou) == (1.0, 1.0)
    metric.add(nothing, something)
    metric.add(something, something)
    assert metric.result().giou == pytest.approx(2 / 3)
    assert metric.result().ciou == pytest.approx(4 / 8)


def test_ignored_pixels_count_on_neither_side() -> None:
    truth, predicted, ignored = np.zeros((3, 3, 4), dtype=np.bool_)
    truth[0], predicted[1], ignored[0] = True, True, True
    metric = MaskIoU()
    metric.add(truth, predicted, ignored)
    metric.add(truth, truth, ignored)
    assert metric.result().giou == 0.5
    with pytest.raises(DataError, match="one size"):
        metric.add(truth, predicted, ignored[:2])


def test_mask_iou_refusals() -> None:
    with pytest.raises(DataError, match="no example"):
        MaskIoU().result()
    with pytest.raises(DataError, match="one size"):
        MaskIoU().add(np.zeros((2, 3), dtype=np.bool_), np.zeros((3, 2), dtype=np.bool_))
