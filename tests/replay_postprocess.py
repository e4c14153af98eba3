"""Replays recorded logits through the post-processing and compares with the recorded results.

    python tests/replay_postprocess.py tests/fixtures/postprocess

takes the path of a recording without its endings: NAME.json (sizes, options, segments) and NAME.safetensors (logits,
prompt masks, maps). Prints a line per case and exits with 1 if one is out of bounds.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file
from torch import Tensor

from x2sam_rt.runtime.postprocess import make_postprocessor
from x2sam_rt.runtime.postprocess.masks import mask_iou
from x2sam_rt.runtime.postprocess.rule import FrameLogits
from x2sam_rt.runtime.results import Segment, Segmentation
from x2sam_rt.tasks.instruction import PostProcessOptions
from x2sam_rt.tasks.table import TASKS, Conditions

PIXEL_BOUND, SCORE_BOUND = 1e-3, 1e-4  # the share of a map's pixels at exact ties; rounding of the scores
MATCH_IOU = 0.5
HOST = torch.device("cpu")
RESULT_IDS = 1  # single results are recorded as segment 0 but drawn as 1

FAMILIES = {
    "genseg_panoptic": "panoptic",
    "genseg_semantic": "semantic",
    "genseg_instance": "instance",
    "refseg": "referring",
    "reaseg": "reasoning",
    "gcgseg": "gcg",
    "vgdseg": "vgd",
    "intseg": "interactive",
    "objseg": "object",
}
# Names in the recordings → ours; the others only chose among the published functions.
OPTIONS = {"threshold": "threshold", "mask_threshold": "mask_threshold", "overlap_mask_area_threshold": "overlap"}
SELECTORS = {"task_name", "return_coco_annotation"}

Segments = tuple[Segment, ...]
Entries = list[dict[str, Any]]
LabelMap = npt.NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class Recorded:
    """One frame as recorded. segments: the json's entries, single ones in a list too; masks: of instances and VGD."""

    segments: Entries
    map: LabelMap
    masks: npt.NDArray[np.bool_]
    labels: list[int]
    scores: list[float]


@dataclass
class Report:
    """The largest differences of a case."""

    name: str
    frames: int = 0
    pixels: float = 0.0
    score: float = 0.0
    ids: int = 0
    equal_ids: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.faults and self.pixels <= PIXEL_BOUND and self.score <= SCORE_BOUND

    def fault(self, what: str) -> None:
        self.faults.append(f"frame {self.frames}: {what}")

    def compare_pixels(self, found: LabelMap, wanted: LabelMap) -> None:
        if found.shape != wanted.shape:
            return self.fault(f"map {found.shape}, recorded {wanted.shape}")
        self.pixels = max(self.pixels, float(np.mean(found != wanted)))

    def compare_score(self, found: float, wanted: float) -> None:
        self.score = max(self.score, abs(found - wanted))

    def __str__(self) -> str:
        ids = f"{self.equal_ids}/{self.ids}" if self.ids else "-"
        state = "ok" if self.passed else "FAILED " + "; ".join(self.faults[:3])
        return (
            f"{self.name:22} {self.frames:2} frames   pixels {100 * self.pixels:7.4f} %"
            f"   score {self.score:8.1e}   equal ids {ids:>7}   {state}"
        )


class Case:
    """A recorded case: its inputs, options and results."""

    def __init__(
        self, name: str, document: dict[str, Any], tensors: dict[str, Tensor], device: torch.device = HOST
    ) -> None:
        self.name, self._document, self._tensors, self._device = name, document, tensors, device
        self._entry = document["cases"][name]
        self.task = TASKS[next(task for family, task in FAMILIES.items() if name.split("_", 1)[1].startswith(family))]

    def results(self) -> Iterator[tuple[Segmentation, Recorded]]:
        assert self.task.rule is not None, "recorded tasks draw masks"
        options = self._options().resolved(self.task.threshold)
        post = make_postprocessor(self.task.rule, self._conditions(), options, self._regions(), self._device)
        for number in range(self._entry["frames"]):
            yield post(self._frame(number)), self._recorded(number)

    def _frame(self, number: int) -> FrameLogits:
        if self._document["background_column"] != "last":
            raise SystemExit(f"{self.name}: the background column is {self._document['background_column']}, not last")
        mask_logits = self._tensors[f"{self.name}.input.mask_logits"][number].to(self._device)
        class_logits = self._tensors[f"{self.name}.input.class_logits"][number].to(self._device)
        (height, width), (full_height, full_width) = self._entry["scaled_size"], self._entry["original_size"]
        side = self._document["model_input"]
        return FrameLogits(mask_logits, class_logits, side, (height, width), (full_height, full_width))

    def _conditions(self) -> Conditions:
        count = self._entry["classes"]
        things = set(self._document["thing_categories"]) if self._is_generic() else set(range(count))
        return Conditions(tuple(map(str, range(count))), tuple(label in things for label in range(count)))

    def _is_generic(self) -> bool:
        return self.task.name in ("panoptic", "semantic", "instance")

    def _options(self) -> PostProcessOptions:
        given = self._entry["options"]
        if unknown := set(given) - set(OPTIONS) - SELECTORS:
            raise SystemExit(f"{self.name}: unknown options {sorted(unknown)}")
        return PostProcessOptions(restart_ids=True, **{OPTIONS[key]: given[key] for key in given if key in OPTIONS})

    def _regions(self) -> Tensor | None:
        masks = self._tensors.get(f"{self.name}.input.region_masks")
        return None if masks is None else masks.to(self._device)

    def _recorded(self, number: int) -> Recorded:
        prefix = f"{self.name}.output.{number}."
        entries = self._entry["segments"][number] or []
        label_map = self._tensors[prefix + "segmentation"].numpy()
        none = torch.zeros(0, *label_map.shape)
        return Recorded(
            [entries] if isinstance(entries, dict) else entries,
            label_map,
            self._tensors.get(prefix + "instance_masks", none).numpy() != 0,
            self._tensors.get(prefix + "instance_classes", none[:, 0, 0]).long().tolist(),
            self._tensors.get(prefix + "instance_scores", none[:, 0, 0]).tolist(),
        )


def replay(case: Case) -> Report:
    report = Report(case.name)
    before: tuple[Segmentation, Recorded] | None = None
    for found, wanted in case.results():
        match case.task.name:
            case "semantic":
                report.compare_pixels(found.map, wanted.map)
            case "panoptic":
                compare_panoptic(report, found, wanted, before)
            case "instance" | "vgd":
                compare_sets(report, found, wanted)
            case _:
                compare_answers(report, found, wanted)
        before = found, wanted
        report.frames += 1
    return report


def compare_answers(report: Report, found: Segmentation, wanted: Recorded) -> None:
    """One segment per phrase or prompt. The published code lists segments with empty masks as well."""
    report.compare_pixels(found.map, wanted.map)
    segments = {segment.label_id: segment for segment in found.segments}
    for entry in wanted.segments:
        segment = segments.pop(_label(entry), None)
        drawn_as = entry["id"] if "isthing" in entry else entry["id"] + RESULT_IDS
        if segment is not None:
            report.compare_score(segment.score, entry["score"])
            report.ids, report.equal_ids = report.ids + 1, report.equal_ids + (segment.id == drawn_as)
            if segment.id != drawn_as:
                report.fault(f"segment {segment.id}, recorded {drawn_as}")
        elif (wanted.map == drawn_as).any():
            report.fault(f"no segment for condition {_label(entry)}")
    if segments:
        report.fault(f"segments for conditions {sorted(segments)} are not recorded")


def compare_sets(report: Report, found: Segmentation, wanted: Recorded) -> None:
    """Instances in any order: pairs of one label whose masks agree best; at the threshold either side may miss one."""
    left = list(range(len(wanted.labels)))
    for segment in found.segments:
        fits = [k for k in left if wanted.labels[k] == segment.label_id]
        fits = [k for k in fits if abs(wanted.scores[k] - segment.score) <= SCORE_BOUND]
        if not fits:
            report.fault(f"condition {segment.label_id} with score {segment.score:.6f} is not recorded")
            continue
        best = min(fits, key=lambda k: np.count_nonzero(wanted.masks[k] != segment.mask))
        left.remove(best)
        report.compare_pixels(segment.mask.astype(np.int32), wanted.masks[best].astype(np.int32))
        report.compare_score(segment.score, wanted.scores[best])
    for k in left:
        report.fault(f"no segment of condition {wanted.labels[k]} with score {wanted.scores[k]:.6f}")
    # Ids and the order of painting are free, the pixels that are painted at all are not.
    empty = found.empty
    report.compare_pixels((found.map == empty).astype(np.int32), (wanted.map == empty).astype(np.int32))


def compare_panoptic(
    report: Report, found: Segmentation, wanted: Recorded, before: tuple[Segmentation, Recorded] | None
) -> None:
    """Segments in their order, and what their ids say: which pixels are theirs, and which thing of the frame before
    they are. The number a new thing gets says nothing; it is only counted in the report."""
    entries = wanted.segments
    kinds = [(segment.label_id, segment.is_thing) for segment in found.segments]
    if kinds != [(entry["category_id"], entry["isthing"]) for entry in entries]:
        return report.fault(f"segments {kinds}, recorded {[(e['category_id'], e['isthing']) for e in entries]}")
    drawn = np.full(found.map.shape, found.empty, dtype=np.int32)
    for segment, entry in zip(found.segments, entries, strict=True):
        drawn[segment.mask] = entry["id"]
        report.compare_score(segment.score, entry["score"])
        report.pixels = max(report.pixels, abs(segment.area - entry["area"]) / drawn.size)
        report.ids, report.equal_ids = report.ids + 1, report.equal_ids + (segment.id == entry["id"])
    report.compare_pixels(drawn, wanted.map)
    stuff = {(entry["category_id"], entry["id"]) for entry in entries if not entry["isthing"]}
    if len(stuff) != len({category for category, _ in stuff}):
        report.fault("stuff of one category has several ids")
    if before is not None:
        compare_carried(report, found.segments, entries, before[0].segments, before[1].segments)
    return None


def compare_carried(report: Report, now: Segments, entries: Entries, before: Segments, entries_before: Entries) -> None:
    """Things that overlap one of the frame before by more than half, in their category, must have kept its id."""
    used = Counter(entry["id"] for entry in entries_before if entry["isthing"])
    for segment, entry in zip(now, entries, strict=True):
        same = [k for k, other in enumerate(before) if segment.is_thing and other.label_id == segment.label_id]
        overlaps = {k: mask_iou(segment.mask, before[k].mask) for k in same}
        best = max(overlaps, key=overlaps.__getitem__, default=None)
        if best is None or overlaps[best] <= MATCH_IOU:
            continue
        kept = entries_before[best]["id"]
        if entry["id"] != kept and used[kept] == 1:  # published ids may collide, and then stand for no one thing
            report.fault(f"thing {entry['id']} was {kept} in the frame before")


def _label(entry: dict[str, Any]) -> int:
    return int(entry["label_id"] if "label_id" in entry else entry["category_id"])


def main(prefix: str, device: torch.device = HOST) -> int:
    document = json.loads(Path(prefix + ".json").read_text(encoding="utf-8"))
    tensors = load_file(prefix + ".safetensors")
    reports = [replay(Case(name, document, tensors, device)) for name in document["cases"]]
    for report in reports:
        print(report)
    return 0 if all(report.passed for report in reports) else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    raise SystemExit(main(sys.argv[1]))
