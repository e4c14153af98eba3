"""Panoptic PNGs and the list of their segments, as targets: what COCO and VIPSeg share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers.annotated import AnnotatedExample
from x2sam_rt.data.readers.categories import CategoryList
from x2sam_rt.data.readers.files import read_frames, read_ids
from x2sam_rt.errors import DataError
from x2sam_rt.media.types import LabelMap
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.table import Media


@dataclass(frozen=True)
class SegmentLabel:
    condition: int
    crowd: bool


@dataclass(frozen=True, eq=False)
class PanopticFile:
    """A frame, its PNG of ids, and what each id in it is."""

    image: Path
    ids: Path
    segments: Mapping[int, SegmentLabel]


@dataclass(frozen=True, eq=False)
class PanopticSample:
    """files: one per frame. An id is one segment through all of them. Pixels of id 0 belong to no target."""

    name: str
    media: Media
    files: tuple[PanopticFile, ...]
    categories: CategoryList

    def load(self) -> Example:
        frames = read_frames(self.name, [file.image for file in self.files])
        ids = np.stack([read_ids(self.name, file.ids, frames.shape[1:3]) for file in self.files])
        for file, frame in zip(self.files, ids, strict=True):
            self._require_listed(file, frame)
        labels = self._labels()
        targets = {id: Target(label.condition, ids == id, id) for id, label in labels.items()}
        things, stuff = self.categories.things, self.categories.stuff
        return AnnotatedExample(
            name=self.name,
            media=self.media,
            frames=frames,
            instruction=Instruction("panoptic", things=things, stuff=stuff),
            conditions=len(things) + len(stuff),
            targets=tuple(target for id, target in targets.items() if not labels[id].crowd),
            crowds=tuple(target for id, target in targets.items() if labels[id].crowd),
        )

    def _labels(self) -> dict[int, SegmentLabel]:
        labels: dict[int, SegmentLabel] = {}
        for file in self.files:
            for id, label in file.segments.items():
                if labels.setdefault(id, label) != label:
                    raise DataError(f"Example {self.name}: {file.ids}: segment {id} was of another category before.")
        return labels

    def _require_listed(self, file: PanopticFile, ids: LabelMap) -> None:
        painted = set(np.unique(ids).tolist()) - {0}
        for wrong, what in (
            (painted - set(file.segments), "are painted, but not in the list of segments"),
            (set(file.segments) - painted, "are in the list of segments, but not painted"),
        ):
            if wrong:
                raise DataError(f"Example {self.name}: {file.ids}: the ids {sorted(wrong)[:10]} {what}.")


def segment_labels(
    infos: Sequence[Mapping[str, Any]], categories: CategoryList, origin: str
) -> dict[int, SegmentLabel]:
    """The "segments_info" of a frame, by id. Raises DataError for unknown categories and doubled or impossible ids."""
    labels: dict[int, SegmentLabel] = {}
    for info in infos:
        id = int(info["id"])
        if id in labels or id <= 0:
            raise DataError(f"{origin}: segment id {id}; wanted ids from 1, each once.")
        labels[id] = SegmentLabel(categories.condition(info["category_id"], origin), bool(info.get("iscrowd", 0)))
    return labels
