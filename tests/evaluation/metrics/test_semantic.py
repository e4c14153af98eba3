"""mIoU and mVC against loops, with their conventions for what is empty or ignored."""

from __future__ import annotations

import json

import numpy as np
import pytest

from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.metrics import MeanIoU, VideoConsistency


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
    true = [wanted[category] for category in range(5) if any(t == category for t, _ in pairs)]
    assert result.miou_true == pytest.approx(np.mean(true))
    weights = [sum(t == category for t, _ in pairs) / len(pairs) for category in range(5)]
    assert result.frequency_weighted == pytest.approx(
        sum(w * (one or 0) for w, one in zip(weights, wanted, strict=True))
    )
    assert result.pixel_accuracy == pytest.approx(np.mean([t == p for t, p in pairs]))


def test_a_category_only_predicted_counts_as_zero() -> None:
    metric = MeanIoU(3)
    metric.add(np.zeros((2, 2), dtype=np.int32), np.array([[0, 0], [0, 2]]))
    assert metric.result().per_category == (0.75, None, 0.0)
    assert metric.result().miou == 0.375
    assert metric.result().miou_true == 0.75


def test_mean_iou_refusals() -> None:
    metric = MeanIoU(3)
    with pytest.raises(DataError, match="no labelled pixel"):
        metric.result()
    with pytest.raises(DataError, match="wanted 0 to 2, or 255"):
        metric.add(np.array([[3]]), np.array([[0]]))
    with pytest.raises(DataError, match="one size"):
        metric.add(np.zeros((2, 3), dtype=np.int32), np.zeros((3, 2), dtype=np.int32))


def test_what_was_counted_adds_up() -> None:
    random = np.random.default_rng(3)
    together, parts = MeanIoU(4), MeanIoU(4)
    for _ in range(3):
        truth, predicted = random.integers(0, 4, (2, 5, 6))
        alone = MeanIoU(4)
        for metric in (together, alone):
            metric.add(truth, predicted)
        parts.merge(json.loads(json.dumps(alone.state())))
    assert parts.result() == together.result()


def test_consistency_as_a_loop_finds_it() -> None:
    """Videos of 2 to 7 frames, windows of 2 and 3: one fewer than fit."""
    random, total = np.random.default_rng(4), VideoConsistency((2, 3))
    wanted: dict[int, list[float]] = {2: [], 3: []}
    for frames in range(2, 8):
        truth, predicted = random.choice([0, 0, 0, 1], size=(2, frames, 3, 5))
        metric = VideoConsistency((2, 3))
        for one, other in zip(truth, predicted, strict=True):
            metric.add(one, other)
        total.merge(json.loads(json.dumps(metric.state())))
        for length, values in wanted.items():
            for start in range(frames - length):
                window = slice(start, start + length)
                steady, kept = ((side[window] == side[start]).all(axis=0) for side in (truth, predicted))
                values.append(np.count_nonzero(steady & kept) / (np.count_nonzero(steady) + 1e-6))
    result = total.result()
    assert result.windows == {2: 15, 3: 10}
    assert result.mvc == pytest.approx({length: np.mean(values) for length, values in wanted.items()})


def test_consistency_of_short_videos_and_of_several_sizes() -> None:
    metric = VideoConsistency((8,))
    metric.add(np.zeros((2, 3), dtype=np.int64), np.zeros((2, 3), dtype=np.int64))
    assert metric.result().mvc == {8: None}
    with pytest.raises(DataError, match="one size a video"):
        metric.add(np.zeros((3, 2), dtype=np.int64), np.zeros((3, 2), dtype=np.int64))
    with pytest.raises(DataError, match="one size"):
        metric.add(np.zeros((3, 2), dtype=np.int64), np.zeros((2, 3), dtype=np.int64))
