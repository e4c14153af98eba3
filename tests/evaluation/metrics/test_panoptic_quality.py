"""PQ, VPQ and STQ against panopticapi, torchmetrics, VIPSeg's and DeepLab2's code, and against loops."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_clips import IS_THING, SEEDS, SIZE, PanopticClip, panoptic_clip

from x2sam_rt.data.example import Target
from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.metrics import (
    PanopticMap,
    PanopticQuality,
    PanopticResult,
    SegmentationTrackingQuality,
    Tube,
    VideoPanopticQuality,
)
from x2sam_rt.runtime.results import Segment, Segmentation

REFERENCE: dict[str, Any] = json.loads(Path(__file__).with_name("reference.json").read_text())
Pair = tuple[PanopticMap, PanopticMap]


def maps(clip: PanopticClip) -> Pair:
    return (
        PanopticMap(clip.truth, tuple(Tube(*tube) for tube in clip.true_tubes)),
        PanopticMap(clip.predicted, tuple(Tube(*tube) for tube in clip.found_tubes)),
    )


def frame(pair: Pair, index: int) -> Pair:
    truth, predicted = (PanopticMap(map.owners[index : index + 1], map.tubes) for map in pair)
    return truth, predicted


def tiny(truth: list[int], predicted: list[int], true_tubes: list[Tube], found_tubes: list[Tube]) -> Pair:
    """One frame of one row."""
    owners = (np.array([[row]], dtype=np.int32) for row in (truth, predicted))
    return PanopticMap(next(owners), tuple(true_tubes)), PanopticMap(next(owners), tuple(found_tubes))


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
            metric.add(*frame(maps(panoptic_clip(seed)), index))
    assert_same(metric.result(), REFERENCE["panopticapi"])


def test_images_as_torchmetrics_has_them() -> None:
    metric = PanopticQuality(IS_THING)
    for seed in SEEDS:
        for index in range(SIZE[0]):
            metric.add(*frame(maps(panoptic_clip(seed, plain=True)), index))
    for found, wanted in zip(metric.result().per_category, REFERENCE["torchmetrics"], strict=True):
        assert found == pytest.approx(wanted, abs=1e-6)  # torchmetrics counts in float32


@pytest.mark.parametrize("window", [1, 2, 4, 6])
def test_windows_as_vipseg_has_them(window: int) -> None:
    metric = PanopticQuality(IS_THING, window=window)
    for seed in SEEDS:
        metric.add(*maps(panoptic_clip(seed)))
    assert_same(metric.result(), REFERENCE["vipseg"][str(window)])


def test_vpq_is_the_mean_of_its_windows() -> None:
    metric = VideoPanopticQuality(IS_THING)
    for seed in SEEDS:
        metric.add(*maps(panoptic_clip(seed)))
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
        metric.add(*(PanopticMap(owners, (Tube(0), Tube(0), Tube(0))) for owners in (truth, predicted)))
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
    metric.add(*tiny([1, 1, 1, 0], [1, 1, 0, 0], [Tube(0)], [Tube(0)]))
    assert metric.result().all.pq == pytest.approx(2 / 3)
    metric = PanopticQuality([True, True])
    metric.add(*tiny([1, 1, 2, 2], [1, 2, 2, 2], [Tube(0), Tube(1)], [Tube(0), Tube(1)]))
    assert metric.result().per_category == ((0.0, 0.0, 0.0), (pytest.approx(2 / 3), pytest.approx(2 / 3), 1.0))


def test_a_prediction_on_void_is_excused_from_more_than_half() -> None:
    true = [Tube(0)]
    metric = PanopticQuality([True, True])
    metric.add(*tiny([0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0], true, [Tube(1)]))
    assert metric.result().per_category == ((0.0, 0.0, 0.0), None)
    metric.add(*tiny([0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], true, [Tube(1)]))
    assert metric.result().per_category == ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0))


def test_crowds_are_neither_missed_nor_found() -> None:
    metric = PanopticQuality([True, True])
    true = [Tube(0), Tube(1, crowd=True)]
    metric.add(*tiny([1, 1, 2, 2], [1, 1, 2, 2], true, [Tube(0), Tube(1)]))
    assert metric.result().per_category == ((1.0, 1.0, 1.0), None)
    metric.add(*tiny([1, 1, 2, 2], [0, 0, 1, 1], true, [Tube(0)]))  # another category's crowd is no excuse
    assert metric.result().all.rq == pytest.approx(0.5)


def test_clips_shorter_than_a_window_add_nothing() -> None:
    pair = maps(panoptic_clip(0))
    metric = PanopticQuality(IS_THING, window=SIZE[0])
    metric.add(*pair)
    before = metric.result()
    metric.add(*frame(pair, 0))
    assert metric.result() == before
    longer = VideoPanopticQuality(IS_THING, windows=(1, SIZE[0] + 1))
    longer.add(*pair)
    with pytest.raises(DataError, match="at least 8 frames"):
        longer.result()


def test_kinds_that_did_not_occur() -> None:
    metric = PanopticQuality([True, False])
    metric.add(*tiny([1, 0], [1, 1], [Tube(0)], [Tube(0)]))
    assert metric.result().stuff is None
    assert metric.result().things == metric.result().all
    video = VideoPanopticQuality([True, False], windows=(1,))
    video.add(*tiny([1, 0], [1, 1], [Tube(0)], [Tube(0)]))
    assert (video.result().things, video.result().stuff) == (1.0, None)


def test_stq_as_deeplab2_has_it() -> None:
    metric = SegmentationTrackingQuality(IS_THING)
    for seed in SEEDS:
        metric.add(*maps(panoptic_clip(seed)))
    result = metric.result()
    assert (result.stq, result.aq, result.sq) == pytest.approx(
        [REFERENCE["deeplab2"][name] for name in ("stq", "aq", "sq")], abs=1e-6
    )  # DeepLab2 counts in float32
    assert result.tracks > 10


def test_stq_by_hand() -> None:
    """A track of 4 pixels: 3 of it under number 1, which has 2 pixels more; 1 predicted as void. Another is unseen."""
    pair = tiny([1, 1, 1, 1, 2, 2, 0], [1, 1, 1, 0, 1, 1, 0], [Tube(0), Tube(1), Tube(0)], [Tube(0)])
    metric = SegmentationTrackingQuality([True, False])
    metric.add(*pair)
    aq = 1 / 4 * 3 * 3 / 6
    assert metric.result().aq == pytest.approx(aq)
    assert metric.result().sq == pytest.approx((3 / 6 + 0 + 0) / 3)
    strict = SegmentationTrackingQuality([True, False], void_is_a_category=False)
    strict.add(*pair)
    assert strict.result().sq == pytest.approx((3 / 6 + 0) / 2)
    assert strict.result().stq == pytest.approx(math.sqrt(aq * 0.25))


def test_refusals() -> None:
    for metric in (PanopticQuality([True]), SegmentationTrackingQuality([True])):
        with pytest.raises(DataError, match=r"no (clip|thing)"):
            metric.result()
        with pytest.raises(DataError, match=r"categories \[1\]; there are 1"):
            metric.add(*tiny([1], [1], [Tube(1)], [Tube(0)]))
        with pytest.raises(DataError, match="one size"):
            metric.add(tiny([1], [1], [Tube(0)], [Tube(0)])[0], tiny([1, 1], [1, 1], [Tube(0)], [Tube(0)])[1])
    with pytest.raises(DataError, match="window of 0"):
        PanopticQuality([True], window=0)
    with pytest.raises(DataError, match="without windows"):
        VideoPanopticQuality([True], windows=())
    with pytest.raises(DataError, match="from 0 to 2; wanted 0 to 1"):
        PanopticMap(np.array([[[0, 2]]], dtype=np.int32), (Tube(0),))
    with pytest.raises(DataError, match="int64"):
        PanopticMap(np.array([[[0, 1]]]), (Tube(0),))  # type: ignore[arg-type]


def test_a_map_of_targets() -> None:
    masks = np.zeros((3, 2, 1, 4), dtype=np.bool_)
    masks[0, 0, 0, :2], masks[1, 1, 0, 1], masks[2, :, 0, 3] = True, True, True
    targets = [Target(2, masks[0], 40), Target(0, masks[1], 7)]
    made = PanopticMap.of_targets((2, 1, 4), targets, [Target(1, masks[2], 9)])
    assert made.owners.tolist() == [[[1, 1, 0, 3]], [[0, 2, 0, 3]]]
    assert made.tubes == (Tube(2), Tube(0), Tube(1, crowd=True))
    with pytest.raises(DataError, match="target 40"):
        PanopticMap.of_targets((1, 1, 4), targets)


def test_a_map_of_results() -> None:
    """A number means one tube per label; segments that share it (stuff in pieces) are one tube."""
    rows = [[0, 5, 5, 6], [5, 5, 0, 6]]
    labels = [{5: 1, 6: 0}, {5: 2, 6: 0}]
    frames = []
    for row, label_of in zip(rows, labels, strict=True):
        map = np.array([row], dtype=np.int32)
        segments = [Segment(map == id, str(id), label, 1.0, id) for id, label in label_of.items()]
        frames.append(Segmentation((*segments, segments[0]), map, 0))
    made = PanopticMap.of_results(frames)
    five, six, other = (made.owners[0, 0, 1], made.owners[0, 0, 3], made.owners[1, 0, 0])
    assert made.owners.tolist() == [[[0, five, five, six]], [[other, other, 0, six]]]
    assert {int(n): made.tubes[n - 1] for n in (five, six, other)} == {five: Tube(1), six: Tube(0), other: Tube(2)}
    with pytest.raises(DataError, match="one size"):
        PanopticMap.of_results([])
