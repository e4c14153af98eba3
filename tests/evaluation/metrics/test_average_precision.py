"""AP: against TrackEval's track AP, against pycocotools on plain images, and against a loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_clips import MEDIUM, SEEDS, SMALL, Track, tracks
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.metrics import (
    AreaLimits,
    AveragePrecision,
    AveragePrecisionResult,
    FoundInstance,
    TrueInstance,
)

REFERENCE: dict[str, Any] = json.loads(Path(__file__).with_name("reference.json").read_text())
LIMITS = AreaLimits(SMALL, MEDIUM)


def true_ones(side: list[Track]) -> list[TrueInstance]:
    return [TrueInstance(track.masks, track.category) for track in side]


def found_ones(side: list[Track]) -> list[FoundInstance]:
    return [FoundInstance(track.masks, track.category, track.score) for track in side]


def measured() -> AveragePrecisionResult:
    metric = AveragePrecision(LIMITS)
    for seed in SEEDS:
        true, found = tracks(seed)
        metric.add(true_ones(true), found_ones(found))
    return metric.result()


def test_tracks_as_trackeval_has_them() -> None:
    result, wanted = measured(), REFERENCE["trackeval_map"]
    assert result.ap == pytest.approx(np.mean(wanted["AP_all"]), abs=1e-9)
    assert (result.ap50, result.ap75) == pytest.approx((wanted["AP_all"][0], wanted["AP_all"][5]), abs=1e-9)
    areas = (result.small, result.medium, result.large)
    assert areas == pytest.approx([np.mean(wanted[f"AP_area_{size}"]) for size in "sml"], abs=1e-9)
    assert result.ar100 == pytest.approx(np.mean(wanted["AR_all"]), abs=1e-9)
    assert result.per_category == pytest.approx(dict(enumerate(wanted["per_category"])), abs=1e-9)
    assert 0.1 < result.ap < 0.9
    assert None not in areas


def test_images_as_pycocotools_has_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own way: files, and areas computed by it."""
    metric, images, true_entries, found_entries = AveragePrecision(), [], [], []
    for seed in SEEDS:
        true, found = tracks(seed)
        images.append({"id": seed, "height": true[0].masks.shape[1], "width": true[0].masks.shape[2]})
        true, found = ([Track(t.masks[2:3], t.category, t.score) for t in side] for side in (true, found))
        metric.add(true_ones(true), found_ones(found))
        for entries, side in ((true_entries, true), (found_entries, found)):
            for track in side:
                rle = coco_mask.encode(np.asfortranarray(track.masks[0], dtype=np.uint8))
                area = float(coco_mask.area(rle))
                rle = {"size": rle["size"], "counts": rle["counts"].decode()}
                entry = {"id": len(entries) + 1, "image_id": seed, "category_id": track.category, "iscrowd": 0}
                entries.append({**entry, "segmentation": rle, "area": area, "score": track.score})
    document = {"images": images, "annotations": true_entries, "categories": [{"id": 0}, {"id": 1}]}
    (tmp_path / "true.json").write_text(json.dumps({"info": {}, **document}))
    (tmp_path / "found.json").write_text(json.dumps(found_entries))
    truth = COCO(str(tmp_path / "true.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    capsys.readouterr()
    result = metric.result()
    assert capsys.readouterr().out == ""
    wanted = evaluation.stats[[0, 1, 2, 6, 7, 8]]
    assert (result.ap, result.ap50, result.ap75, result.ar1, result.ar10, result.ar100) == pytest.approx(wanted)
    assert [result.small, result.medium, result.large] == [
        None if figure < 0 else pytest.approx(figure) for figure in evaluation.stats[3:6]
    ]


def test_one_category_as_a_loop_finds_it() -> None:
    """AP at an IoU of 0.5 by the definition: greedy by score, precision made falling, 101 recalls."""
    metric, ranked, total = AveragePrecision(), [], 0
    for seed in SEEDS:
        true, found = ([t for t in side if t.category == 1] for side in tracks(seed))
        metric.add(true_ones(true), found_ones(found))
        total += len(true)
        free = [track.masks for track in true]
        for track in sorted(found, key=lambda track: -track.score):
            ious = [(track.masks & mask).sum() / (track.masks | mask).sum() for mask in free]
            hit = bool(ious) and max(ious) >= 0.5
            if hit:
                del free[int(np.argmax(ious))]
            ranked.append((track.score, hit))
    hits = np.array([hit for _, hit in sorted(ranked, key=lambda one: -one[0])])
    recall, precision = np.cumsum(hits) / total, np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best = [max(precision[recall >= at], default=0.0) for at in np.linspace(0, 1, 101)]
    assert metric.result().ap50 == pytest.approx(np.mean(best), abs=1e-9)


def test_frames_side_by_side_have_the_iou_of_the_track() -> None:
    """Half of the frames right, the others missing: an IoU of one half."""
    masks = np.zeros((4, 5, 6), dtype=np.bool_)
    masks[:, 1:3, 2:5] = True
    half = masks.copy()
    half[::2] = False
    metric = AveragePrecision()
    metric.add([TrueInstance(masks, 3)], [FoundInstance(half, 3, 0.5)])
    assert (metric.result().ap50, metric.result().ap75) == pytest.approx((1.0, 0.0))


def test_the_area_of_a_track_is_that_of_the_frames_that_show_it() -> None:
    masks = np.zeros((5, 9, 9), dtype=np.bool_)
    masks[1, :3, :3] = masks[2, :3, :5] = True  # 9 and 15: 12
    for limits, name in (
        (AreaLimits(12.5, 13), "small"),
        (AreaLimits(11, 12.5), "medium"),
        (AreaLimits(1, 11), "large"),
    ):
        metric = AveragePrecision(limits)
        metric.add([TrueInstance(masks, 0)], [FoundInstance(masks, 0, 1.0)])
        sizes = {size: getattr(metric.result(), size) for size in ("small", "medium", "large")}
        assert sizes == {**dict.fromkeys(sizes), name: pytest.approx(1.0)}


def test_crowds_excuse_what_lies_on_them() -> None:
    crowd, thing, wrong = np.zeros((3, 1, 8, 8), dtype=np.bool_)
    crowd[0, :4], thing[0, 6:, :3], wrong[0, 5, 5:] = True, True, True
    on_crowd = crowd & (np.arange(8) < 4)
    metric = AveragePrecision()
    metric.add(
        [TrueInstance(crowd, 0, crowd=True), TrueInstance(thing, 0)],
        [FoundInstance(on_crowd, 0, 0.9), FoundInstance(crowd & ~on_crowd, 0, 0.8), FoundInstance(thing, 0, 0.7)],
    )
    assert metric.result().ap == pytest.approx(1.0)
    metric.add([], [FoundInstance(wrong, 0, 0.75)])
    assert metric.result().ap == pytest.approx(0.5)


def test_refusals() -> None:
    masks = np.ones((2, 3, 4), dtype=np.bool_)
    metric = AveragePrecision()
    metric.add([TrueInstance(masks, 0, crowd=True)], [FoundInstance(masks, 0, 1.0)])
    with pytest.raises(DataError, match="no true instance"):
        metric.result()
    with pytest.raises(DataError, match=r"wanted one \(T, H, W\)"):
        metric.add([TrueInstance(masks, 0)], [FoundInstance(masks[:1], 0, 1.0)])
