"""J, F and J&F, gIoU and cIoU: against TrackEval, against loops over pixels, and at the edges of their definitions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from made_clips import SEEDS, SIZE, digest, object_clip

from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.metrics import JAndF, MaskIoU, boundary_measure, region_similarity
from x2sam_rt.evaluation.metrics.masks import grown, outline

Mask = npt.NDArray[np.bool_]
REFERENCE: dict[str, Any] = json.loads(Path(__file__).with_name("reference.json").read_text())
EMPTY = np.zeros((1, 9, 12), dtype=np.bool_)
DOT = EMPTY.copy()
DOT[0, 4, 5] = True


def test_the_reference_was_made_from_these_clips() -> None:
    assert digest() == REFERENCE["clips"], "run make_reference.py again"


@pytest.mark.parametrize("seed", SEEDS)
def test_one_object_as_trackeval_has_it(seed: int) -> None:
    metric = JAndF()
    metric.add(*object_clip(seed))
    result = metric.result()
    for name, wanted in REFERENCE["trackeval_j_and_f"][seed].items():
        assert getattr(result, name) == pytest.approx(wanted, abs=1e-12), name


def test_objects_weigh_the_same_however_long_they_are() -> None:
    metric = JAndF()
    for seed in SEEDS:
        truth, predicted = object_clip(seed)
        metric.add(truth[: seed + 1], predicted[: seed + 1])
    means = [region_similarity(*object_clip(seed))[: seed + 1].mean() for seed in SEEDS]
    assert metric.result().j == pytest.approx(np.mean(means), abs=1e-12)
    assert metric.result().objects == len(SEEDS)


def test_over_frames_long_clips_weigh_more() -> None:
    metric, each = JAndF(), []
    for seed in SEEDS:
        truth, predicted = object_clip(seed)
        metric.add(truth[: seed + 1], predicted[: seed + 1])
        each += region_similarity(truth[: seed + 1], predicted[: seed + 1]).tolist()
    result = metric.result()
    assert (result.j_over_frames, result.frames) == (pytest.approx(np.mean(each), abs=1e-12), len(each))
    assert result.over_frames == pytest.approx((result.j_over_frames + result.f_over_frames) / 2, abs=1e-12)
    assert result.over_frames != pytest.approx(result.j_and_f, abs=1e-4)


def test_frames_of_one_key_are_one_object() -> None:
    truth, predicted = object_clip(3)
    chunks, at_once, kept = JAndF(), JAndF(), JAndF()
    at_once.add(truth, predicted)
    for part in (slice(0, 3), slice(3, None)):
        chunks.add(truth[part], predicted[part], key="the dog")
    kept.merge(json.loads(json.dumps(chunks.state())))
    assert chunks.result() == at_once.result() == kept.result()


def test_first_and_last_frame_can_be_left_out() -> None:
    truth, predicted = object_clip(1)
    inner, whole = JAndF(inner_frames_only=True), JAndF()
    inner.add(truth, predicted)
    whole.add(truth[1:-1], predicted[1:-1])
    assert inner.result() == whole.result()
    with pytest.raises(DataError, match="without a frame"):
        inner.add(truth[:2], predicted[:2])


def test_ignored_pixels_do_not_count() -> None:
    truth, predicted = object_clip(2)
    ignored = truth ^ predicted
    metric = JAndF()
    metric.add(truth, predicted, ignored)
    assert metric.result().j_and_f == 1.0


@pytest.mark.parametrize(
    ("truth", "predicted", "wanted"),
    [(EMPTY, EMPTY, 1.0), (EMPTY, DOT, 0.0), (DOT, EMPTY, 0.0), (DOT, DOT, 1.0), (~EMPTY, ~EMPTY, 1.0)],
    ids=["both-empty", "invented", "missed", "found", "everything"],
)
def test_empty_masks(truth: Mask, predicted: Mask, wanted: float) -> None:
    assert region_similarity(truth, predicted) == [wanted]
    assert boundary_measure(truth, predicted) == [wanted]


def test_a_full_frame_has_no_outline() -> None:
    assert boundary_measure(~EMPTY, EMPTY) == [1.0]
    assert region_similarity(~EMPTY, EMPTY) == [0.0]


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (8, 1), (11, 6)], ids=str)
def test_outline_as_a_loop_finds_it(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(size).random(size) < 0.4
    for row, column in np.ndindex(size):
        below, right = min(row + 1, size[0] - 1), min(column + 1, size[1] - 1)
        around = (mask[row, right], mask[below, column], mask[below, right])
        assert outline(mask)[row, column] == any(mask[row, column] != one for one in around)


@pytest.mark.parametrize("reach", [0, 1, 2, 5, 40])
def test_growth_is_a_disc(reach: int) -> None:
    mask = np.random.default_rng(reach).random((13, 17)) < 0.03
    mask[6, 2] = True
    rows, columns = np.nonzero(mask)
    for row, column in np.ndindex(mask.shape):
        nearest = min((row - rows) ** 2 + (column - columns) ** 2)
        assert grown(mask, reach)[row, column] == (nearest <= reach * reach)


def test_boundary_measure_as_a_loop_finds_it() -> None:
    truth, predicted = object_clip(4)
    tolerance = 0.06
    reach = math.ceil(tolerance * math.hypot(*SIZE[1:]))
    for frame in (0, 2, 6):
        edges = [np.argwhere(outline(mask)) for mask in (truth[frame], predicted[frame])]
        distances = np.linalg.norm(edges[0][:, None] - edges[1][None], axis=-1)
        recall, precision = (distances.min(axis=1) <= reach).mean(), (distances.min(axis=0) <= reach).mean()
        wanted = 2 * precision * recall / (precision + recall)
        got = boundary_measure(truth[frame : frame + 1], predicted[frame : frame + 1], tolerance=tolerance)
        assert got[0] == pytest.approx(wanted, abs=1e-12)


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
    assert (metric.result().n_acc, metric.result().without_target) == (0.5, 2)
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


def test_refusals() -> None:
    with pytest.raises(DataError, match="no object was added"):
        JAndF().result()
    with pytest.raises(DataError, match=r"\(1, 9, 12\), predicted \(1, 9, 11\)"):
        region_similarity(EMPTY, EMPTY[..., :-1])
    with pytest.raises(DataError, match="uint8"):
        boundary_measure(EMPTY, EMPTY.astype(np.uint8))  # type: ignore[arg-type]
