"""Replays recordings of X2SAM's published evaluators through our metrics, cutting, wording and post-processing.

    python tests/replay_evaluation.py tests/fixtures/evaluation

takes a folder of recordings. Prints a line per recording with its largest difference and exits with 1 if one is out of
bounds: metrics within 1e-6; frames of chunks, questions and category names exactly. What cannot be run here is named.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
from made_files import write_vgd_source
from pycocotools import mask as coco_mask
from safetensors.torch import load_file

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.make_vgd import Source, VgdPlan, make_vgd
from x2sam_rt.data.readers import PromptedExample, read_dataset
from x2sam_rt.data.visual_prompts import draw_prompts
from x2sam_rt.evaluation.metrics import (
    VIPSEG_WINDOWS,
    AveragePrecision,
    AveragePrecisionResult,
    CaptionQuality,
    FoundInstance,
    GroundedMeanIoU,
    JAndF,
    MaskIoU,
    MeanIoU,
    MeanIoUResult,
    PanopticFrame,
    PanopticOverlaps,
    PanopticQuality,
    PanopticResult,
    PhraseRecall,
    SegmentationTrackingQuality,
    TrueInstance,
    Tube,
    VideoConsistency,
    VideoPanopticQuality,
    mask_ious,
)
from x2sam_rt.evaluation.protocol import RULES, Presentation, Protocol, language_frames
from x2sam_rt.runtime.postprocess.phrases import PhrasePostProcessor
from x2sam_rt.runtime.postprocess.prompted import ObjectPostProcessor
from x2sam_rt.runtime.postprocess.rule import FrameLogits
from x2sam_rt.tasks.instruction import Instruction, PostProcessOptions
from x2sam_rt.tasks.marks import Mark, spell
from x2sam_rt.tasks.published import category_name, coco_category_name, published_wording, wordings_of
from x2sam_rt.tasks.regions import PROMPT_KINDS, Prompt
from x2sam_rt.tasks.table import DEFAULT_WORDING, Conditions, Media
from x2sam_rt.tasks.wording import Wording

BOUND = 1e-6
PRINTED = 0.0051  # tables are printed in percent with two digits
BoolMask = npt.NDArray[np.bool_]
Document = dict[str, Any]


@dataclass
class Report:
    """What one recording says: the largest difference of a number, and whatever is not as recorded."""

    name: str
    values: int = 0
    largest: float = 0.0
    faults: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.faults

    def close(self, what: str, found: float | None, wanted: float | None, bound: float = BOUND) -> None:
        """Numbers; recorded −1 and None say that there is nothing to measure, as our None does."""
        self.values += 1
        wanted = None if wanted in (None, -1.0) else wanted
        if found is None or wanted is None:
            if found is not wanted:
                self.faults.append(f"{what}: {found}, recorded {wanted}")
            return
        difference = abs(found - wanted)
        self.largest = max(self.largest, difference) if bound == BOUND else self.largest
        if not difference <= bound:
            self.faults.append(f"{what}: {found:.9f}, recorded {wanted:.9f}")

    def same(self, what: str, found: object, wanted: object) -> None:
        self.values += 1
        if found != wanted:
            self.faults.append(f"{what}: {found!r}, recorded {wanted!r}")

    def printed(self, recording: Document, table: str, row: str, found: Sequence[float]) -> None:
        """A row of the tables that the published evaluators print, in percent. found: 0…1."""
        text = next(text for text in recording["printed"] if table in text)
        lines = text[text.index(table) :].splitlines()
        cells = next(line for line in lines if line.startswith("|") and line.split("|")[1].strip() == row)
        wanted = [cell.strip() for cell in cells.split("|")[2:-1]]
        for ours, cell in zip(found, wanted, strict=False):
            self.close(f"printed {table} {row}", 100 * ours, float(cell), PRINTED)

    def __str__(self) -> str:
        state = "ok" if self.passed else "FAILED " + "; ".join(self.faults[:4])
        return f"{self.name:18} {self.values:5} values   largest difference {self.largest:8.1e}   {state}"


class Recording:
    """A recording's JSON and, where it has some, its tensors."""

    def __init__(self, folder: Path, name: str) -> None:
        self.document: Document = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        tensors = folder / f"{name}.safetensors"
        self.tensors = load_file(tensors) if tensors.is_file() else {}

    def map(self, name: str) -> npt.NDArray[np.int32]:
        return np.asarray(self.tensors[name].numpy().astype(np.int32))


def replay_chunks(recording: Recording, report: Report) -> None:
    """A chunk's frames, its number and the frames' image ids."""
    for case in recording.document["cases"]:
        what = f"{case['data']} of {case['length']} frames, {len(case['annotated'])} annotated"
        labelled = [index in case["annotated"] for index in range(case["length"])]
        if case["data"] == "vspw":  # a video's maps are listed once, so every frame counts as annotated
            labelled = [True] * case["length"]
        cutting = RULES[_DATA_SETS[case["data"]]].cutting
        assert cutting is not None
        chunks = cutting.chunks(case["length"], labelled)
        first = [chunk for chunk in case["chunks"] if chunk.get("video_id", 1) == 1]
        wanted = [(chunk["chunk_id"], tuple(chunk["frames"])) for chunk in first]
        report.same(what, [(chunk.number, chunk.frames) for chunk in chunks], wanted)
        ids = [image for chunk in first for image in chunk.get("image_ids", [])]
        if ids:
            report.same(f"image ids of {what}", list(range(sum(len(chunk.frames) for chunk in chunks))), ids)
    for length, frames in recording.document["language_model_frames_vgd_ytvos"].items():
        report.same(f"language model, {length}", list(language_frames("v-vgd-yt19", int(length))), frames)


_DATA_SETS = {
    "vipseg": "vipseg",
    "vspw": "vspw",
    "ytvis": "youtube-vis19",
    "ref_youtube": "ref-youtube-vos",
    "ref_davis": "ref-davis17",
    "revos": "revos",
    "ytvos": "youtube-vos",
    "vgd_yt19": "v-vgd-yt19",
    "video_gcg": "gcg-video",
}


def replay_video_panoptic(recording: Recording, report: Report) -> None:
    document = recording.document
    index, is_thing = _categories(document["ground_truth"]["categories"])
    quality, tracking = VideoPanopticQuality(is_thing), SegmentationTrackingQuality(is_thing, as_x2sam=True)
    names, each = [], []
    for video in document["ground_truth"]["annotations"]:
        clip = PanopticOverlaps()
        chunks = [one for one in document["predictions"] if one["video_id"] == video["video_id"]]
        for chunk in sorted(chunks, key=lambda one: int(one["chunk_id"])):
            _add_chunk(clip, recording, video, chunk, index)
        alone = SegmentationTrackingQuality(is_thing, as_x2sam=True)
        for metric in (quality, tracking, alone):
            metric.add(clip)
        names.append(video["video_id"])
        each.append(alone)
    expected, result = document["expected"], quality.result()
    for window, one in zip(VIPSEG_WINDOWS, result.windows, strict=True):
        _compare_quality(report, f"VPQ@{window}", one, expected["vpq"][str(window)], index)
    means = [(result.vpq, "All"), (result.things, "Things"), (result.stuff, "Stuff")]
    for value, kind in means:
        report.close(f"VPQ {kind}", value, expected["vpq_mean"][kind]["pq"])
    stq, wanted = tracking.result(), expected["stq"]
    for name, value in (("STQ", stq.stq), ("AQ", stq.aq), ("IoU", stq.sq)):
        report.close(name, value, wanted[name])
    for name, alone in zip(names, each, strict=True):
        place = wanted["ID_per_seq"].index(name)
        if alone.tracks:
            report.close(f"AQ of {name}", alone.result().aq, wanted["AQ_per_seq"][place])
            report.close(f"IoU of {name}", alone.result().sq, wanted["IoU_per_seq"][place])
            report.close(f"STQ of {name}", alone.result().stq, wanted["STQ_per_seq"][place])
    report.printed(document, "VPQ@avg", "All", [result.vpq])
    report.printed(document, "STQ:", "Value (%)", [stq.stq, stq.aq, stq.sq])


def _add_chunk(
    clip: PanopticOverlaps, recording: Recording, video: Document, chunk: Document, index: Mapping[int, int]
) -> None:
    name = video["video_id"]
    truth, predicted = recording.map(f"gt.{name}"), recording.map(f"pred.{name}.{chunk['chunk_id']}")
    for place, number in enumerate(chunk["frames"]):
        true = _tubes(video["annotations"][number]["segments_info"], index)
        found = _tubes(chunk["segments"][place], index)
        clip.add(PanopticFrame(truth[number], true), PanopticFrame(predicted[place], found))


def _tubes(entries: Sequence[Document], index: Mapping[int, int]) -> dict[int, Tube]:
    return {one["id"]: Tube(index[one["category_id"]], one["id"], bool(one.get("iscrowd", 0))) for one in entries}


def _categories(entries: Sequence[Document]) -> tuple[dict[int, int], list[bool]]:
    """From the ids to numbers from 0, in the order of the list; which are things."""
    return {one["id"]: place for place, one in enumerate(entries)}, [bool(one["isthing"]) for one in entries]


def _compare_quality(
    report: Report, what: str, found: PanopticResult, wanted: Document, index: Mapping[int, int]
) -> None:
    for kind, quality in (("All", found.all), ("Things", found.things), ("Stuff", found.stuff)):
        if quality is None:
            report.same(f"{what} {kind}", 0, wanted[kind]["n"])
            continue
        for name in ("pq", "sq", "rq"):
            report.close(f"{what} {kind} {name}", getattr(quality, name), wanted[kind][name])
        report.same(f"{what} {kind} n", quality.categories, wanted[kind]["n"])
    for id, place in index.items():
        figures = found.per_category[place] or (0.0, 0.0, 0.0)
        for name, value in zip(("pq", "sq", "rq"), figures, strict=True):
            report.close(f"{what} category {id} {name}", value, wanted["per_class"][str(id)][name])


def replay_image_generic(recording: Recording, report: Report) -> None:
    document = recording.document
    index, is_thing = _categories(document["ground_truth"]["categories"])
    panoptic, semantic = PanopticQuality(is_thing), MeanIoU(len(is_thing))
    entries = {one["image_id"]: one["segments_info"] for one in document["ground_truth"]["annotations"]}
    for prediction in document["predictions"]:
        image = prediction["image_id"]
        truth = PanopticFrame(recording.map(f"gt.panoptic.{image}"), _tubes(entries[image], index))
        found = PanopticFrame(recording.map(f"pred.panoptic.{image}"), _tubes(prediction["segments"], index))
        clip = PanopticOverlaps()
        clip.add(truth, found)
        panoptic.add(clip)
        semantic.add(recording.map(f"gt.semantic.{image}"), recording.map(f"pred.semantic.{image}"))
    result = panoptic.result()
    _compare_quality(report, "PQ", result, document["expected"]["pq"], index)
    report.printed(document, "panoptic_val", "All", [result.all.pq, result.all.sq, result.all.rq])
    _compare_semantic(
        report, document, semantic, document["expected"]["semantic_confusion_pred_by_truth"], "semantic_val"
    )
    instances = _instance_ap(document)
    _compare_ap(report, instances, document["expected"]["instance"])
    report.printed(document, "instance_val", "Value (%)", [instances.ap, instances.ap50, instances.ap75])


def _instance_ap(document: Document) -> AveragePrecisionResult:
    """Crowds are left out, and images without another object too."""
    truth = document["instance_ground_truth"]
    sizes = {image["id"]: (image["height"], image["width"]) for image in truth["images"]}
    ids = sorted(one["id"] for one in truth["categories"])
    metric = AveragePrecision()
    for prediction in document["instance_predictions"]:
        image = prediction["image_id"]
        true = [
            TrueInstance(_decoded(one["segmentation"], sizes[image])[None], ids.index(one["category_id"]))
            for one in truth["annotations"]
            if one["image_id"] == image and not one["iscrowd"]
        ]
        if true:
            metric.add(true, _found(prediction["detections"]))
    return metric.result()


def _compare_semantic(
    report: Report, document: Document, metric: MeanIoU, predicted_by_truth: Sequence[Sequence[int]], table: str
) -> None:
    found, wanted = metric.confusion, np.array(predicted_by_truth).T
    known = len(found)  # what comes after is void, and not labelled
    report.same("confusion", found[:, :-1].tolist(), wanted[:known, :known].tolist())
    report.same("predicted void", found[:, -1].tolist(), wanted[:known, known:].sum(axis=1).tolist())
    result: MeanIoUResult = metric.result()
    report.close("mIoU", result.miou_true, document["expected"]["miou_float64_of_that_matrix"])
    values = [result.miou_true, result.frequency_weighted, result.mean_accuracy, result.pixel_accuracy]
    report.printed(document, table, "Value (%)", values)


def replay_video_semantic(recording: Recording, report: Report) -> None:
    document = recording.document
    miou, total = MeanIoU(document["classes"]), VideoConsistency()
    for video in dict.fromkeys(chunk["video"] for chunk in document["predictions"]):
        mvc = VideoConsistency()
        for chunk in (one for one in document["predictions"] if one["video"] == video):
            predicted = recording.map(f"pred.{video}.{chunk['chunk_id']}")
            for place, number in enumerate(chunk["frames"]):
                raw = recording.map(f"gt.{video}")[number]
                mvc.add(raw, predicted[place])
                miou.add(vspw_categories(raw), predicted[place])
        total.merge(mvc.state())
    _compare_semantic(report, document, miou, document["expected"]["confusion_pred_by_truth"], "mIoU")
    result = total.result()
    for length, wanted in document["expected"]["mvc"].items():
        report.close(f"mVC@{length}", result.mvc[int(length)], wanted)
        report.same(f"windows of {length}", result.windows[int(length)], document["expected"]["mvc_windows"][length])


def vspw_categories(raw: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """VSPW's labels as categories from 0, 255 where there is none."""
    return np.where((raw == 0) | (raw >= 253), 255, raw - 1)


def replay_video_instance(recording: Recording, report: Report) -> None:
    """Frames of one number in different videos are one image."""
    document = recording.document
    metric = AveragePrecision(pooled=True)
    truth = document["ground_truth"]
    ids = sorted(one["id"] for one in truth["categories"])
    for prediction in document["predictions"]:
        for place, number in enumerate(prediction["frames"]):
            true = [
                TrueInstance(_decoded(one["segmentations"][number])[None], ids.index(one["category_id"]))
                for one in truth["annotations"]
                if one["video_id"] == prediction["video_id"] and not one["iscrowd"] and one["segmentations"][number]
            ]
            metric.add(true, _found(prediction["detections"][place]), key=prediction["image_ids"][place])
    _compare_ap(report, _round_trip(metric, AveragePrecision(pooled=True)).result(), document["expected"])


def replay_vgd_yt19(recording: Recording, report: Report) -> None:
    _replay_vgd(recording.document, "yt19", report)


def replay_vgd_vipseg(recording: Recording, report: Report) -> None:
    _replay_vgd(recording.document, "vipseg", report)


def _replay_vgd(document: Document, source: Source, report: Report) -> None:
    """AP of the recorded detections; the file made from the annotations, but for its random prompts; and its chunks."""
    _compare_ap(report, _vgd_ap(document), document["expected"])
    with TemporaryDirectory() as folder:
        plan = VgdPlan(
            source, write_vgd_source(source, document, Path(folder)), Path(folder, "out"), prompts="every", pictures=0
        )
        make_vgd(plan)
        report.same(
            "made file", _without_prompts(json.loads(plan.file.read_text())), _without_prompts(document["built"])
        )
        plan.file.write_text(json.dumps(document["built"]))
        dataset = read_dataset(f"v-vgd-{source}", plan.output, "val/mask")
        _compare_chunks(document, dataset, report)


def _without_prompts(videos: list[Document]) -> list[Document]:
    videos = json.loads(json.dumps(videos))
    for one in (one for video in videos for frame in video["annotations"] for one in frame):
        one["visual_prompts"] = sorted(one["visual_prompts"])
    return videos


def _compare_chunks(document: Document, dataset: Dataset, report: Report) -> None:
    """Which frames they have, and which categories are asked for, on the first of them."""
    ids = sorted(one["id"] for one in document["ground_truth"]["categories"])
    places = {"v-vgd-yt19": lambda place: place + 1, "v-vgd-vipseg": lambda place: place}[dataset.name]
    shown = Presentation(dataset.name, "val/mask", Protocol())
    for video, example in zip(document["built"], dataset, strict=True):
        wanted = [one for one in document["chunks"] if one["video_id"] == video["video_id"]]
        pieces = list(shown.pieces(example))
        report.same(f"chunks of {video['video_id']}", len(pieces), len(wanted))
        for piece, chunk in zip(pieces, wanted, strict=False):
            assert isinstance(piece, PromptedExample)
            asked = [places(category) for category in sorted(set(piece.categories))]
            assert set(asked) <= set(ids)
            what = f"chunk {chunk['chunk_id']} of {video['video_id']}"
            report.same(f"{what}: regions", asked, chunk["regions"])
            report.same(f"{what}: frames", np.array_equal(piece.frames, example.frames[chunk["frames"]]), True)
            prompted = {region.frame for region in piece.instruction.regions}
            report.same(f"{what}: prompt frame", prompted, {chunk["vprompt_index"]})


def replay_vgd_prompts(recording: Recording, report: Report) -> None:
    for case in recording.document["cases"]:
        seed = case["python_random_seed"]
        prompts = draw_prompts(_decoded(case["mask"]), random.Random(seed))
        for kind in PROMPT_KINDS:
            wanted = _decoded(case["mask_prompt" if kind == "mask" else kind])
            report.same(f"seed {seed}, {kind}", np.array_equal(prompts.of(kind), wanted), True)


def _vgd_ap(document: Document) -> AveragePrecisionResult:
    """Every frame is an image; only the categories of the chunk's regions are in its truth."""
    metric = AveragePrecision()
    ids = sorted(one["id"] for one in document["ground_truth"]["categories"])
    videos = {video["video_id"]: video for video in document["built"]}
    regions = {(one["video_id"], one["chunk_id"]): one["regions"] for one in document["chunks"]}
    for prediction in document["predictions"]:
        asked = regions[prediction["video_id"], prediction["chunk_id"]]
        annotations = videos[prediction["video_id"]]["annotations"]
        for place, number in enumerate(prediction["frames"]):
            true = [
                TrueInstance(_decoded(one["segmentation"])[None], ids.index(one["category_id"]))
                for one in annotations[number]
                if one["category_id"] in asked
            ]
            metric.add(true, _found(prediction["detections"][place]))
    return _round_trip(metric, AveragePrecision()).result()


def _round_trip(metric: AveragePrecision, fresh: AveragePrecision) -> AveragePrecision:
    """What a run that goes on after a kill has of the metric."""
    fresh.merge(json.loads(json.dumps(metric.state())))
    return fresh


def _found(entries: Sequence[Document]) -> list[FoundInstance]:
    return [FoundInstance(_decoded(one["segmentation"])[None], one["category"], one["score"]) for one in entries]


def _compare_ap(report: Report, found: AveragePrecisionResult, wanted: Document, scale: float = 1.0) -> None:
    figures = {"AP": found.ap, "AP50": found.ap50, "AP75": found.ap75}
    figures |= {"APs": found.small, "APm": found.medium, "APl": found.large}
    for name, value in figures.items():
        report.close(name, None if value is None else scale * value, wanted[name])


def replay_jf(recording: Recording, report: Report) -> None:
    for one in recording.document["sets"]:
        metric = JAndF()
        for chunk in one["chunks"]:
            truth, masks = (np.stack([_decoded(mask) for mask in chunk[side]]) for side in ("truth", "masks"))
            metric.add(truth, masks, key=(chunk["video_id"], chunk["sample_id"]))
        result, wanted = metric.result(), one["expected"]
        found = {"J": result.j_over_frames, "F": result.f_over_frames, "J&F": result.over_frames}
        for name, value in found.items():
            report.close(f"{one['kind']} {name}", value, wanted[name])
        report.same(f"{one['kind']} frames", result.frames, wanted["count"])
        report.printed(one, "evaluation results", "Value (%)", list(found.values()))


def replay_image_iou(recording: Recording, report: Report) -> None:
    for name, one in recording.document["sets"].items():
        background, foreground = MaskIoU(), MaskIoU()
        for sample in one["samples"]:
            found = _decoded(sample["found"])
            truth = [_decoded(true["segmentation"], found.shape) for true in sample["truth"]]
            together = np.any(truth, axis=0)
            ignored = [_decoded(true["ignore_mask"]) for true in sample["truth"] if true.get("ignore_mask")]
            left_out = np.any(ignored, axis=0) if ignored else None
            background.add(~together, ~found, left_out)
            foreground.add(together, found, left_out)
        for place, result in enumerate((background.result(), foreground.result())):
            report.close(f"{name} cIoU", 100 * result.ciou, one["expected"]["ciou_background_foreground"][place], 1e-4)
            report.close(f"{name} gIoU", 100 * result.giou, one["expected"]["giou_background_foreground"][place], 1e-4)
            report.close(f"{name} cIoU / 100", result.ciou, one["expected"]["ciou_background_foreground"][place] / 100)
            report.close(f"{name} gIoU / 100", result.giou, one["expected"]["giou_background_foreground"][place] / 100)


def replay_gcg(recording: Recording, report: Report) -> None:
    _replay_image_gcg(recording.document["image"], report)
    _replay_video_gcg(recording.document["video"], report)


def _replay_image_gcg(document: Document, report: Report) -> None:
    miou, precision, recall = GroundedMeanIoU(), AveragePrecision(), PhraseRecall()
    truth = defaultdict(list)
    for one in document["ground_truth_masks"]["annotations"]:
        truth[one["image_id"]].append(_decoded(one["segmentation"]))
    labels = {one["image_id"]: one["labels"] for one in document["ground_truth_captions"]["annotations"]}
    for prediction in document["predictions"]:
        image, drawn = prediction["image_id"], np.array(prediction["map"])
        masks = np.array([drawn == one["id"] for one in prediction["segments"]])
        if not len(masks):
            continue
        ious = mask_ious(np.array(truth[image]), masks)
        miou.add(ious)
        recall.add(ious, labels[image], [prediction["phrases"][one["category_id"]] for one in prediction["segments"]])
        found = zip(prediction["segments"], masks, strict=True)
        precision.add(
            [TrueInstance(mask[None], 0) for mask in truth[image]],
            [FoundInstance(mask[None], 0, one["score"]) for one, mask in found],
        )
    expected = document["expected"]
    for value, wanted in zip(miou.values, expected["miou_per_image"], strict=True):
        report.close("mIoU of an image", value, wanted)
    report.close("image mIoU", miou.result(), expected["miou"])
    _compare_ap(report, precision.result(), {name: _hundredth(value) for name, value in expected["ap"].items()})
    report.printed(document, "recall results", "Value (%)", [recall.result(letters_in_common)])


def _replay_video_gcg(document: Document, report: Report) -> None:
    miou, recall = GroundedMeanIoU(), PhraseRecall()
    for chunk in document["chunks"]:
        masks = np.array([[_decoded(mask) for mask in frame] for frame in chunk["masks"]])  # (T, phrases, H, W)
        truth = np.zeros((len(masks), len(chunk["labels"]), *masks.shape[2:]), dtype=np.bool_)
        for frame, entries, drawn in zip(truth, chunk["truth"], masks, strict=True):
            for one in entries:
                frame[one["category_id"]] |= np.any([_decoded(part) for part in one["segmentation"]], axis=0)
            miou.add(mask_ious(frame[[one["category_id"] for one in entries]], drawn))
        ious = mask_ious(truth.swapaxes(0, 1), masks.swapaxes(0, 1))
        recall.add(ious, sorted(chunk["labels"]), chunk["phrases"])
    for value, wanted in zip(miou.values, document["expected"]["miou_per_frame"], strict=True):
        report.close("mIoU of a frame", value, wanted)
    report.close("video mIoU", miou.result(), document["expected"]["miou"])
    report.printed(document, "recall results", "Value (%)", [recall.result(letters_in_common)])


def letters_in_common(true: Sequence[str], found: Sequence[str]) -> npt.NDArray[np.float64]:
    """The stand-in for the text model that the recordings use."""
    sets = [[set(text.replace(" ", "")) for text in texts] for texts in (true, found)]
    return np.array([[len(a & b) / max(1, len(a | b)) for b in sets[1]] for a in sets[0]])


def _hundredth(value: float | None) -> float | None:
    return None if value is None else value / 100


def replay_captions(recording: Recording, report: Report) -> None:
    if problem := CaptionQuality.missing():
        report.left_out.append(problem)
        return
    document, metric = recording.document, CaptionQuality()
    for reference, caption in zip(document["references"], document["captions"], strict=True):
        metric.add(reference, caption)
    result = metric.result()
    report.close("METEOR", result.meteor, document["expected"]["METEOR"])
    report.close("CIDEr", result.cider, document["expected"]["CIDEr"])


def replay_prompts(recording: Recording, report: Report) -> None:
    """Category names, and every question and answer of every data set, from what stands in its first question."""
    names = recording.document["names_before_and_after_formatting"]
    for rule, formatted in (("format", category_name), ("coco", coco_category_name)):
        for before, after in names[rule].items():
            report.same(f"{rule} {before}", formatted(before), after)
    for data_set, recorded in recording.document["data_sets"].items():
        first = recorded["questions"][0]
        media: Media = "video" if "video" in data_set or "<video>" in first or "this video" in first else "image"
        phrases = re.findall(r"<p>(.*?)</p>", first)
        task_name = _task_of(data_set, phrases)
        report.same(f"{data_set}: questions", len(recorded["questions"]), wordings_of(task_name))
        for number, question in enumerate(recorded["questions"]):
            newline = question.startswith(f"<{media}>\n")
            wording = published_wording(number, DEFAULT_WORDING, media=media, newline=newline)
            vision = f"<{media}>" if newline else f"<|vision_start|><{media}><|vision_end|>"
            report.same(f"{data_set} {number}", vision + _question(task_name, media, phrases, wording), question)
        answers = [_answer(task_name, media, number) for number in range(len(recorded["answers"]))]
        report.same(f"{data_set}: answers", answers, recorded["answers"])
        report.same(f"{data_set}: whole prompt", _whole(first, answers[0]), recorded["whole_prompt_of_question_0"])


def _task_of(data_set: str, phrases: Sequence[str]) -> str:
    if "gcg" in data_set:
        return "gcg"
    if phrases[0] == Mark.REGION.value:
        return "object" if "youtube-vos" in data_set else "interactive" if "interactive" in data_set else "vgd"
    if data_set.startswith("ref"):
        return "referring"
    return "reasoning" if data_set.startswith("rea") or data_set.startswith("revos") else "panoptic"


def _question(name: str, media: Media, phrases: Sequence[str], wording: Wording) -> str:
    regions = [Prompt.point(1, 1) for phrase in phrases if phrase == Mark.REGION.value]
    match name:
        case "panoptic":
            instruction = Instruction(name, things=tuple(phrases))
        case "referring":
            instruction = Instruction(name, phrases=tuple(phrases))
        case "reasoning" if phrases[0].endswith("?"):
            instruction = Instruction(name, question=phrases[0])
        case "reasoning":
            instruction = Instruction(name, phrases=tuple(phrases))
        case _:
            instruction = Instruction(name, regions=tuple(regions))
    return spell(instruction.question_text(media, wording))


def _answer(name: str, media: Media, number: int) -> str:
    return published_wording(number, DEFAULT_WORDING, media=media)[name].answer or ""


def _whole(question: str, answer: str) -> str:
    """As the chat template of Qwen has it."""
    end = f"{answer}<|im_end|>\n" if answer else ""
    return f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n{end}"


def replay_post(recording: Recording, report: Report) -> None:
    """gRefCOCO's union of good queries, and the object rule without and with its anchor."""
    document, tensors = recording.document, recording.tensors
    for case in document["cases"]:
        name, segments = case["name"], case["segments"]
        entries = segments if isinstance(segments, list) else [segments]
        rule: PhrasePostProcessor | ObjectPostProcessor
        if name.startswith("gref"):
            rule = PhrasePostProcessor(_ONE, PostProcessOptions(threshold=0.0, together=0.6))
        else:
            prompt = tensors[f"{name}.prompt"][0] != 0
            rule = ObjectPostProcessor(_ONE, PostProcessOptions(threshold=0.5, anchored=name.endswith("255")), prompt)
        drawn = tensors[f"{name}.segmentation"].reshape(len(entries), *document["original_size"])
        for number, (entry, wanted) in enumerate(zip(entries, drawn.numpy(), strict=True)):
            height, width = document["scaled_size"]
            logits = FrameLogits(
                tensors[f"{name}.mask_logits"][number],
                tensors[f"{name}.class_logits"][number],
                max(height, width),
                (height, width),
                tuple(document["original_size"]),
            )
            found = rule(logits)
            report.same(f"{name}, frame {number}: map", bool((found.map != wanted).mean() <= 1e-3), True)
            score = found.segments[0].score if found.segments else 0.0
            report.close(f"{name}, frame {number}: score", score, entry["score"], 2e-6)


_ONE = Conditions(("it",), (True,))


def _decoded(segmentation: Any, size: tuple[int, ...] | None = None) -> BoolMask:
    """A mask of run lengths, or of polygons at a size."""
    if isinstance(segmentation, list) and segmentation and isinstance(segmentation[0], list):
        assert size is not None, "polygons need a size"
        segmentation = coco_mask.merge(coco_mask.frPyObjects(segmentation, *size))
    if isinstance(segmentation, list):
        return np.any([_decoded(part, size) for part in segmentation], axis=0)
    return np.asarray(coco_mask.decode(segmentation), dtype=np.bool_)


REPLAYS: dict[str, Callable[[Recording, Report], None]] = {
    "chunks": replay_chunks,
    "video_panoptic": replay_video_panoptic,
    "video_semantic": replay_video_semantic,
    "video_instance": replay_video_instance,
    "vgd_yt19": replay_vgd_yt19,
    "vgd_vipseg": replay_vgd_vipseg,
    "vgd_prompts": replay_vgd_prompts,
    "jf": replay_jf,
    "image_iou": replay_image_iou,
    "image_generic": replay_image_generic,
    "gcg": replay_gcg,
    "captions": replay_captions,
    "prompts": replay_prompts,
    "post": replay_post,
}


def replay(folder: Path, name: str) -> Report:
    report = Report(name)
    REPLAYS[name](Recording(folder, name), report)
    return report


def reports(folder: Path) -> Iterator[Report]:
    """One per recording; of those that are missing or unknown a report that says so."""
    there = {path.stem for path in folder.glob("*.json")}
    for name in REPLAYS:
        yield replay(folder, name) if name in there else Report(name, faults=[f"{name}.json is missing"])
    for name in sorted(there - set(REPLAYS)):
        yield Report(name, faults=["no replay for this recording"])


def main(folder: str) -> int:
    failed = 0
    for report in reports(Path(folder)):
        print(report)
        for reason in report.left_out:
            print(f"{'':18} left out: {reason}")
        failed += not report.passed
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    sys.exit(main(sys.argv[1]))
