"""PQ, VPQ and STQ against panopticapi, torchmetrics, VIPSeg's and DeepLab2's code, and against loops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_clips import IS_THING, SEEDS, SIZE, PanopticClip, panoptic_clip

from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.metrics import (
    PanopticFrame,
    PanopticOverlaps,
    PanopticQuality,
    PanopticResult,
    SegmentationTrackingQuality,
    Tube,
    VideoPanopticQuality,
)

REFERENCE: dict[str, Any] = json.loads(Path(__file__).with_name("reference.json").read_text())
Tubes = list[tuple[int, bool]]  # category, crowd


def overlaps(truth: Any, predicted: Any, true_tubes: Tubes, found_tubes: Tubes) -> PanopticOverlaps:
    """truth, predicted: (T, H, W), the number of a tube in its list, from 1; 0 is void."""
    clip = PanopticOverlaps()
    sides = [
        {number: Tube(category, number, crowd) for number, (category, crowd) in enumerate(tubes, start=1)}
        for tubes in (true_tubes, found_tubes)
    ]
    for one, other in zip(truth, predicted, strict=True):
        clip.add(PanopticFrame(one, sides[0]), PanopticFrame(other, sides[1]))
    return clip


def whole(clip: PanopticClip) -> PanopticOverlaps:
    return overlaps(clip.truth, clip.predicted, clip.true_tubes, clip.found_tubes)


def frame(clip: PanopticClip, index: int) -> PanopticOverlaps:
    one = slice(index, index + 1)
    return overlaps(clip.truth[one], clip.predicted[one], clip.true_tubes, clip.found_tubes)


def tiny(truth: list[int], predicted: list[int], true_tubes: Tubes, found_tubes: Tubes) -> PanopticOverlaps:
    """One frame of one row."""
    return overlaps(*(np.array([[row]], dtype=np.int32) for row in (truth, predicted)), true_tubes, found_tubes)


def assert_same(result: PanopticResult, wanted: dict[str, Any]) -> None:
    for name in ("all", "things", "stuff"):
        quality = getattr(result, name)
        figures = (quality.pq, quality.sq, quality.rq, quality.categories)
        assert figures == pytest.approx([wanted[name][key] for key in ("pq", "sq", "rq", "n")], abs=1e-12)
    for found, figures in zip(result.per_category, wanted["per_category"], strict=True):
        assert found == pytest.approx(figures, abs=1e-12)


def test_images_as_panopticapi_has_them() -> None:
    metric = PanopticQuality(IS_THING)
    for seed in SEEDS:
        for index in range(SIZE[0]):
            metric.add(frame(panoptic_clip(seed), index))
    assert_same(metric.result(), REFERENCE["panopticapi"])


def test_images_as_torchmetrics_has_them() -> None:
    metric = PanopticQuality(IS_THING)
    for seed in SEEDS:
        for index in range(SIZE[0]):
            metric.add(frame(panoptic_clip(seed, plain=True), index))
    for found, wanted in zip(metric.result().per_category, REFERENCE["torchmetrics"], strict=True):
        assert found == pytest.approx(wanted, abs=1e-6)  # torchmetrics counts in float32


@pytest.mark.parametrize("window", [1, 2, 4, 6])
def test_windows_as_vipseg_has_them(window: int) -> None:
    metric = PanopticQuality(IS_THING, window=window)
    for seed in SEEDS:
        metric.add(whole(panoptic_clip(seed)))
    assert_same(metric.result(), REFERENCE["vipseg"][str(window)])


def test_vpq_is_the_mean_of_its_windows() -> None:
    metric = VideoPanopticQuality(IS_THING)
    for seed in SEEDS:
        metric.add(whole(panoptic_clip(seed)))
    result = metric.result()
    for name, figure in (("all", result.vpq), ("things", result.things), ("stuff", result.stuff)):
        assert figure == pytest.approx(np.mean([one[name]["pq"] for one in REFERENCE["vipseg"].values()]), abs=1e-12)
    assert len(result.windows) == 4


def test_one_frame_as_a_loop_finds_it() -> None:
    """The definition itself, on frames without void and crowds."""
    ious: list[float] = []
    found, missed, metric = 0, 0, PanopticQuality([True])
    for seed in SEEDS:
        truth, predicted = np.random.default_rng(seed).integers(1, 4, size=(2, 1, 4, 4)).astype(np.int32)
        predicted[0, :3] = truth[0, :3]
        metric.add(overlaps(truth, predicted, [(0, False)] * 3, [(0, False)] * 3))
        found, missed = found + len(np.unique(predicted)), missed + len(np.unique(truth))
        for one in np.unique(truth):
            for other in np.unique(predicted):
                pixels = list(zip((truth == one).ravel(), (predicted == other).ravel(), strict=True))
                iou = sum(a and b for a, b in pixels) / sum(a or b for a, b in pixels)
                if iou > 0.5:
                    ious.append(iou)
    missed, extra = missed - len(ious), found - len(ious)
    assert len(ious) > 5
    assert metric.result().all.pq == pytest.approx(sum(ious) / (len(ious) + missed / 2 + extra / 2))


def test_a_match_needs_more_than_half() -> None:
    metric = PanopticQuality([True])
    metric.add(tiny([1, 1, 1, 0], [1, 1, 0, 0], [(0, False)], [(0, False)]))
    assert metric.result().all.pq == pytest.approx(2 / 3)
    metric = PanopticQuality([True, True])
    metric.add(tiny([1, 1, 2, 2], [1, 2, 2, 2], [(0, False), (1, False)], [(0, False), (1, False)]))
    assert metric.result().per_category == ((0.0, 0.0, 0.0), (pytest.approx(2 / 3), pytest.approx(2 / 3), 1.0))


def test_a_prediction_on_void_is_excused_from_more_than_half() -> None:
    true = [(0, False)]
    metric = PanopticQuality([True, True])
    metric.add(tiny([0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0], true, [(1, False)]))
    assert metric.result().per_category == ((0.0, 0.0, 0.0), None)
    metric.add(tiny([0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], true, [(1, False)]))
    assert metric.result().per_category == ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


def test_crowds_are_neither_missed_nor_found() -> None:
    metric = PanopticQuality([True, True])
    true = [(0, False), (1, True)]
    metric.add(tiny([1, 1, 2, 2], [1, 1, 2, 2], true, [(0, False), (1, False)]))
    assert metric.result().per_category == ((1.0, 1.0, 1.0), None)
    metric.add(tiny([1, 1, 2, 2], [0, 0, 1, 1], true, [(0, False)]))  # another category's crowd is no excuse
    assert metric.result().all.rq == pytest.approx(0.5)


def test_clips_shorter_than_a_window_add_nothing() -> None:
    clip = panoptic_clip(0)
    metric = PanopticQuality(IS_THING, window=SIZE[0])
    metric.add(whole(clip))
    before = metric.result()
    metric.add(frame(clip, 0))
    assert metric.result() == before
    longer = VideoPanopticQuality(IS_THING, windows=(1, SIZE[0] + 1))
    longer.add(whole(clip))
    with pytest.raises(DataError, match="at least 8 frames"):
        longer.result()


def test_kinds_that_did_not_occur() -> None:
    metric = PanopticQuality([True, False])
    metric.add(tiny([1, 0], [1, 1], [(0, False)], [(0, False)]))
    assert metric.result().stuff is None
    assert metric.result().things == metric.result().all
    video = VideoPanopticQuality([True, False], windows=(1,))
    video.add(tiny([1, 0], [1, 1], [(0, False)], [(0, False)]))
    assert (video.result().things, video.result().stuff) == (1.0, None)


def test_stq_as_deeplab2_has_it() -> None:
    metric = SegmentationTrackingQuality(IS_THING)
    for seed in SEEDS:
        metric.add(whole(panoptic_clip(seed)))
    result = metric.result()
    assert (result.stq, result.aq, result.sq) == pytest.approx(
        [REFERENCE["deeplab2"][name] for name in ("stq", "aq", "sq")], abs=1e-6
    )  # DeepLab2 counts in float32
    assert result.tracks > 10


def test_stq_by_hand() -> None:
    """A track of 4 pixels: 3 of it under number 1, which has 2 pixels more; 1 predicted as void. Another is unseen."""
    pair = tiny([1, 1, 1, 1, 2, 2, 0], [1, 1, 1, 0, 1, 1, 0], [(0, False), (1, False), (0, False)], [(0, False)])
    metric = SegmentationTrackingQuality([True, False])
    metric.add(pair)
    aq = 1 / 4 * 3 * 3 / 6
    assert metric.result().aq == pytest.approx(aq)
    assert metric.result().sq == pytest.approx((3 / 6 + 0 + 0) / 3)
    strict = SegmentationTrackingQuality([True, False], void_is_a_category=False)
    strict.add(pair)
    assert strict.result().sq == pytest.approx((3 / 6 + 0) / 2)
    assert strict.result().stq == pytest.approx(math.sqrt(aq * 0.25))


def test_as_x2sam_the_first_tube_is_a_crowd_and_void_no_size() -> None:
    """A first track of 2 pixels and a second of 3, found whole by one prediction that has 4 pixels more."""
    clip = tiny([1, 1, 2, 2, 2, 0, 0], [1, 1, 1, 1, 1, 1, 1], [(0, False), (0, False)], [(0, False)])
    usual, published = (SegmentationTrackingQuality([True], as_x2sam=flag) for flag in (False, True))
    usual.add(clip)
    published.add(clip)
    assert usual.result().aq == pytest.approx((1 / 2 * 2 * 2 / 7 + 1 / 3 * 3 * 3 / 7) / 2)
    assert (published.result().aq, published.result().tracks) == (1.0, 1)


def test_of_two_crowds_the_last_one_excuses() -> None:
    metric = PanopticQuality([True])
    metric.add(tiny([1, 1, 2, 2, 2], [1, 1, 0, 0, 0], [(0, True), (0, True)], [(0, False)]))
    assert metric.result().all.rq == 0  # on the first crowd: a mistake
    metric = PanopticQuality([True])
    metric.add(tiny([1, 1, 2, 2, 2], [0, 0, 1, 1, 1], [(0, True), (0, True)], [(0, False)]))
    with pytest.raises(DataError, match="no clip"):
        metric.result()


def test_what_was_counted_adds_up() -> None:
    together, parts = VideoPanopticQuality(IS_THING), VideoPanopticQuality(IS_THING)
    tracking, kept = SegmentationTrackingQuality(IS_THING), SegmentationTrackingQuality(IS_THING)
    for seed in SEEDS:
        alone, alone_tracking = VideoPanopticQuality(IS_THING), SegmentationTrackingQuality(IS_THING)
        for metric in (together, alone):
            metric.add(whole(panoptic_clip(seed)))
        for metric in (tracking, alone_tracking):
            metric.add(whole(panoptic_clip(seed)))
        parts.merge(json.loads(json.dumps(alone.state())))
        kept.merge(json.loads(json.dumps(alone_tracking.state())))
    assert parts.result().vpq == pytest.approx(together.result().vpq, abs=1e-12)
    assert kept.result() == tracking.result()


def test_pieces_of_stuff_are_one_tube() -> None:
    """Two ids of one frame that are one tube, and a tube that has another id in the next frame."""
    clip, sky = PanopticOverlaps(), Tube(0, -1)
    rows = [np.array([[5, 5, 7, 9]]), np.array([[8, 8, 8, 9]])]
    for row, ids in zip(rows, ((5, 7), (8,)), strict=True):
        clip.add(PanopticFrame(row, {3: sky, **dict.fromkeys(ids, sky)}), PanopticFrame(row, dict.fromkeys(ids, sky)))
    assert clip.true == clip.found == (sky,)
    assert clip.shared().tolist() == [[[1, 0], [0, 3]], [[1, 0], [0, 3]]]


def test_refusals() -> None:
    for metric in (PanopticQuality([True]), SegmentationTrackingQuality([True])):
        with pytest.raises(DataError, match=r"no (clip|thing)"):
            metric.result()
        with pytest.raises(DataError, match=r"categories \[1\]; there are 1"):
            metric.add(tiny([1], [1], [(1, False)], [(0, False)]))
    with pytest.raises(DataError, match="one size"):
        PanopticOverlaps().add(
            PanopticFrame(np.zeros((1, 2), np.int32), {}), PanopticFrame(np.zeros((2, 1), np.int32), {})
        )
    with pytest.raises(DataError, match="window of 0"):
        PanopticQuality([True], window=0)
    with pytest.raises(DataError, match="without windows"):
        VideoPanopticQuality([True], windows=())
