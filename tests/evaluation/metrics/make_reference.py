"""Writes reference.json: what public implementations say about the clips of made_clips.py.

In an environment of its own:

    pip install numpy scipy pillow pycocotools opencv-python scikit-image torch trackeval torchmetrics
    python make_reference.py --panopticapi CLONE --vipseg CLONE --deeplab2 CLONE

CLONE: checkouts of cocodataset/panopticapi (1ad5afa), VIPSeg-Dataset/VIPSeg-Dataset (55626ad) and
google-research/deeplab2 (e96d6cb), which are not on PyPI.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import io
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from made_clips import IS_THING, MEDIUM, SEEDS, SMALL, Owners, PanopticClip, Tubes, digest, object_clip, panoptic_clip
from made_clips import tracks as made_tracks
from PIL import Image
from pycocotools import mask as coco_mask

PACKAGES = ("numpy", "opencv-python", "pycocotools", "scikit-image", "torch", "torchmetrics", "trackeval")
WINDOWS = (1, 2, 4, 6)
VOID_CATEGORY = 255
CATEGORIES = {number: {"id": number, "isthing": int(thing)} for number, thing in enumerate(IS_THING)}
Figures = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("panopticapi", "vipseg", "deeplab2"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    clones = parser.parse_args()
    folders = (clones.panopticapi, clones.vipseg / "ClipPanoFCN", clones.deeplab2 / "evaluation/numpy")
    sys.path.extend(str(folder) for folder in folders)
    with contextlib.redirect_stdout(io.StringIO()):  # they report their progress there
        reference = {
            "clips": digest(),
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "panopticapi": panopticapi(),
            "torchmetrics": torchmetrics(),
            "vipseg": {str(window): vipseg(window) for window in WINDOWS},
            "deeplab2": deeplab2(),
            "trackeval_j_and_f": [j_and_f(seed) for seed in SEEDS],
            "trackeval_map": track_map(),
        }
    text = json.dumps(reference, indent=1, default=float)
    Path(__file__).with_name("reference.json").write_text(text + "\n", encoding="utf-8")


def segments(owners: Owners, tubes: Tubes) -> list[Figures]:
    """The list entries of one frame, in COCO's form."""
    return [
        {
            "id": number,
            "category_id": tubes[number - 1][0],
            "iscrowd": int(tubes[number - 1][1]),
            "area": int((owners == number).sum()),
        }
        for number in np.unique(owners).tolist()
        if number
    ]


def as_rgb(owners: Owners) -> Any:
    return np.stack([owners, np.zeros_like(owners), np.zeros_like(owners)], axis=-1).astype(np.uint8)


def panopticapi() -> Figures:
    """Every frame of every clip as an image of its own."""
    evaluation = importlib.import_module("panopticapi.evaluation")
    pairs = []
    with tempfile.TemporaryDirectory() as true, tempfile.TemporaryDirectory() as found:
        for seed in SEEDS:
            clip = panoptic_clip(seed)
            for frame, (truth, predicted) in enumerate(zip(clip.truth, clip.predicted, strict=True)):
                name = f"{seed}_{frame}.png"
                Image.fromarray(as_rgb(truth)).save(Path(true, name))
                Image.fromarray(as_rgb(predicted)).save(Path(found, name))
                sides = ((truth, clip.true_tubes), (predicted, clip.found_tubes))
                pairs.append(tuple({"image_id": name, "file_name": name, "segments_info": segments(*s)} for s in sides))
        stat = evaluation.pq_compute_single_core(0, pairs, true, found, CATEGORIES)
    return averages(stat)


def averages(stat: Any) -> Figures:
    kinds = {"all": None, "things": True, "stuff": False}
    figures: Figures = {name: stat.pq_average(CATEGORIES, isthing)[0] for name, isthing in kinds.items()}
    per_category = stat.pq_average(CATEGORIES, None)[1]
    figures["per_category"] = [[per_category[n][key] for key in ("pq", "sq", "rq")] for n in CATEGORIES]
    return figures


def torchmetrics() -> list[list[float]]:
    """(pq, sq, rq) per category of every frame of the plain clips: torchmetrics knows no crowds, and leaves what was
    predicted void out of the union."""
    import torch
    from torchmetrics.detection import PanopticQuality

    things = {n for n, thing in enumerate(IS_THING) if thing}
    metric = PanopticQuality(
        things=things,
        stuffs=set(CATEGORIES) - things,
        allow_unknown_preds_category=True,
        return_sq_and_rq=True,
        return_per_class=True,
    )
    for seed in SEEDS:
        clip = panoptic_clip(seed, plain=True)
        sides = ((clip.predicted, clip.found_tubes), (clip.truth, clip.true_tubes))
        for frame in range(len(clip.truth)):
            metric.update(*(torch.tensor(paired(owners[frame], tubes))[None] for owners, tubes in sides))
    figures = metric.compute()
    return figures.tolist()  # type: ignore[no-any-return]


def paired(owners: Owners, tubes: Tubes) -> Any:
    """(H, W, 2): category and instance."""
    category = np.array([VOID_CATEGORY, *(category for category, _ in tubes)])
    return np.stack([category[owners], owners], axis=-1)


def vipseg(window: int) -> Figures:
    evaluation = importlib.import_module("eval_vpq_vspw")
    total = evaluation.PQStat()
    for seed in SEEDS:
        total += evaluation.vpq_compute_single_core(vipseg_clip(panoptic_clip(seed)), CATEGORIES, nframes=window)
    return averages(total)


def vipseg_clip(clip: PanopticClip) -> list[Any]:
    return [
        (
            {"segments_info": segments(truth, clip.true_tubes)},
            {"segments_info": segments(predicted, clip.found_tubes)},
            as_rgb(truth),
            as_rgb(predicted),
            None,
        )
        for truth, predicted in zip(clip.truth, clip.predicted, strict=True)
    ]


def deeplab2() -> Figures:
    quality = importlib.import_module("segmentation_and_tracking_quality")
    things = [n for n, thing in enumerate(IS_THING) if thing]
    metric = quality.STQuality(len(IS_THING), things, VOID_CATEGORY, 16, 2**24)
    for seed in SEEDS:
        clip = panoptic_clip(seed)
        for truth, predicted in zip(clip.truth, clip.predicted, strict=True):
            metric.update_state(numbered(truth, clip.true_tubes), numbered(predicted, clip.found_tubes), seed)
    result = metric.result()
    return {"stq": result["STQ"], "aq": result["AQ"], "sq": result["IoU"]}


def numbered(owners: Owners, tubes: Tubes) -> Any:
    """Category and instance in one number; a crowd's instance is 0."""
    codes = [(VOID_CATEGORY << 16) + 1]
    codes += [(category << 16) + (0 if crowd else n) for n, (category, crowd) in enumerate(tubes, start=1)]
    return np.array(codes)[owners]


def rle(mask: Any) -> Any:
    return coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))


def j_and_f(seed: int) -> Figures:
    from trackeval.metrics import JAndF

    truth, predicted = object_clip(seed)
    data = {
        "num_timesteps": len(truth),
        "num_tracker_ids": 1,
        "num_gt_ids": 1,
        "gt_dets": [[rle(mask)] for mask in truth],
        "tracker_dets": [[rle(mask)] for mask in predicted],
        "gt_ids": [[0]] * len(truth),
        "tracker_ids": [[0]] * len(truth),
    }
    result = JAndF().eval_sequence(data)
    names = {"j_and_f": "J&F", "j": "J-Mean", "f": "F-Mean", "j_recall": "J-Recall", "f_recall": "F-Recall"}
    return {name: result[key] for name, key in names.items()}


def track_map() -> Figures:
    """AP and AR per IoU threshold, over both categories."""
    from trackeval.metrics import TrackMAP

    areas = [[0, SMALL], [SMALL, MEDIUM], [MEDIUM, 1e10]]
    metric = TrackMAP({"USE_TIME_RANGES": False, "AREA_RANGES": areas, "PRINT_CONFIG": False})
    by_category = {}
    for category in (0, 1):
        each = {seed: metric.eval_sequence(track_data(seed, category)) for seed in SEEDS}
        by_category[category] = metric.combine_sequences(each)
    both = metric.combine_classes_class_averaged(by_category)
    figures = {name: values.tolist() for name, values in both.items()}
    figures["per_category"] = [float(np.mean(by_category[category]["AP_all"])) for category in (0, 1)]
    return figures


def track_data(seed: int, category: int) -> Figures:
    true, found = ([t for t in side if t.category == category] for side in made_tracks(seed))
    found.sort(key=lambda track: -track.score)
    data: Figures = {"iou_type": "mask", "dt_track_scores": [track.score for track in found]}
    for prefix, side in (("gt", true), ("dt", found)):
        data[f"{prefix}_tracks"] = [dict(enumerate(map(rle, track.masks))) for track in side]
        data[f"{prefix}_track_ids"] = list(range(1, len(side) + 1))
        sizes = [track.masks.sum(axis=(1, 2)) for track in side]
        data[f"{prefix}_track_areas"] = [float(size[size > 0].mean()) for size in sizes]
    data["gt_track_iscrowd"] = [0] * len(true)
    return data


if __name__ == "__main__":
    main()
