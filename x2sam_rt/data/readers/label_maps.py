"""Panoptic and semantic segmentation, whose truth is a map per frame: COCO, VIPSeg, VSPW.

COCO (`annotations/panoptic_<split>.json`; split val2017, …) and whatever has its form:

    <root>/annotations/panoptic_<split>.json      or <root>/panoptic_<split>.json
    <root>/panoptic_<split>/<annotation's file name>        or <root>/annotations/panoptic_<split>/…
    <root>/<split>/<image's file name>                      ids are R + 256·G + 65536·B

The JSON: "images" [{id, file_name}], "annotations" [{image_id, file_name, segments_info: [{id, category_id,
iscrowd}]}], "categories" [{id, name, isthing}]. The semantic task is made of the same files: every segment, crowds
too, paints its category.

VIPSeg, converted to 720p and COCO's form by its own tools (X2SAM: vid_genseg/vipseg_720p):

    <root>/panoptic_gt_VIPSeg_<split>.json
    <root>/panomasksRGB/<video>/<annotation's file name>
    <root>/images/<video>/<image's id>.jpg

The JSON: "videos" [{video_id, images: [{id, file_name}]}], "annotations" [{video_id, annotations: [{image_id,
file_name, segments_info}]}], "categories". Ids are the same through a video.

VSPW 480p (X2SAM: vid_genseg/vspw_480p):

    <root>/<split>.txt                              a video's name per line
    <root>/label_num_dic_final.json                 category name → number; "others" is 0
    <root>/data/<video>/origin/<frame>.jpg, <root>/data/<video>/mask/<frame>.png            its authors' folders
    <root>/images/<video>/<frame>.jpg, <root>/semmasks/<video>/<frame>.png                  X2SAM's

0, 253, 254 and 255 are void. Each image and each video is an example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from x2sam_rt.data.example import Example, IdMasks, Target
from x2sam_rt.data.readers.annotated import AnnotatedExample
from x2sam_rt.data.readers.categories import CategoryList
from x2sam_rt.data.readers.files import Frames, frame_file, in_layout, list_frames, read_json
from x2sam_rt.data.readers.folders import DataFolder
from x2sam_rt.data.readers.masks import Indices, read_ids, read_indices
from x2sam_rt.data.readers.sample import Contents, FileSample
from x2sam_rt.errors import DataError
from x2sam_rt.media.types import LabelMap
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.published import category_name, coco_category_name
from x2sam_rt.tasks.table import Media

_VOID, _MEANINGLESS = -1, -2
_VSPW_VOID = (0, 253, 254, 255)


@dataclass(frozen=True)
class SegmentLabel:
    condition: int
    crowd: bool


@dataclass(frozen=True, eq=False)
class SegmentMap:
    """The PNG of ids of a frame, and what each id in it is."""

    path: Path
    segments: Mapping[int, SegmentLabel]

    def read(self, frames: Frames, frame: int) -> LabelMap:
        """(H, W) int32. Raises DataError where ids and list of segments do not agree."""
        ids = read_ids(frames, frame, self.path)
        painted = set(np.unique(ids).tolist()) - {0}
        for wrong, what in (
            (painted - set(self.segments), "are painted, but not in the list of segments"),
            (set(self.segments) - painted, "are in the list of segments, but not painted"),
        ):
            if wrong:
                raise DataError(f"Example {frames.example}: {self.path}: the ids {sorted(wrong)[:10]} {what}.")
        return ids


@dataclass(frozen=True, eq=False)
class PanopticSample(FileSample):
    """maps: one per frame. An id is one segment through all of them. Pixels of id 0 belong to no target."""

    media: Media
    maps: tuple[SegmentMap, ...]
    categories: CategoryList

    def labels(self) -> tuple[Path, ...]:
        return tuple(map.path for map in self.maps)

    def example(self, frames: Frames) -> Example:
        ids = np.empty(frames.pixels.shape[:3], dtype=np.int32)
        for frame, map in enumerate(self.maps):
            ids[frame] = map.read(frames, frame)
        labels = self._segments()
        targets = {id: Target(label.condition, IdMasks(ids, id), id) for id, label in labels.items()}
        return AnnotatedExample(
            name=self.name,
            media=self.media,
            frames=frames.pixels,
            instruction=Instruction("panoptic", things=self.categories.things, stuff=self.categories.stuff),
            conditions=len(self.categories),
            targets=tuple(target for id, target in targets.items() if not labels[id].crowd),
            crowds=tuple(target for id, target in targets.items() if labels[id].crowd),
        )

    def _segments(self) -> dict[int, SegmentLabel]:
        labels: dict[int, SegmentLabel] = {}
        for map in self.maps:
            for id, label in map.segments.items():
                if labels.setdefault(id, label) != label:
                    raise DataError(f"Example {self.name}: {map.path}: segment {id} was of another category before.")
        return labels


ReadSemantic = Callable[[Frames, int], tuple[LabelMap, Indices | None]]


@dataclass(frozen=True, eq=False)
class SemanticSample(FileSample):
    """Pixels by category. read: given frames and the number of one, the condition of each of its pixels, (H, W) int32
    with −1 for void, and, where a figure asks for them, the data set's own labels."""

    media: Media
    maps: tuple[Path, ...]
    categories: CategoryList
    read: ReadSemantic

    def labels(self) -> tuple[Path, ...]:
        return self.maps

    def example(self, frames: Frames) -> Example:
        read = [self.read(frames, frame) for frame in range(len(self.maps))]
        conditions = np.stack([found for found, _ in read])
        raw = [labels for _, labels in read if labels is not None]
        there = sorted(set(np.unique(conditions).tolist()) - {_VOID})
        return AnnotatedExample(
            name=self.name,
            media=self.media,
            frames=frames.pixels,
            instruction=Instruction("semantic", things=self.categories.things, stuff=self.categories.stuff),
            conditions=len(self.categories),
            targets=tuple(Target(condition, IdMasks(conditions, condition), condition) for condition in there),
            raw_labels=np.stack(raw) if raw else None,
        )


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


def read_coco_panoptic(folder: DataFolder) -> Contents:
    """COCO's panoptic task (Kirillov et al., CVPR 2019). Raises DataError."""
    path = folder.find("annotations", "annotations/panoptic_{split}.json", "panoptic_{split}.json")
    maps = folder.find("PNGs of segments", "panoptic_{split}", "annotations/panoptic_{split}")
    return read_panoptic_images(folder, path, maps, folder.find("images", "{split}"), coco_category_name)


def read_coco_semantic(folder: DataFolder) -> Contents:
    """COCO's panoptic categories, pixel by pixel. Raises DataError."""
    return as_semantic(read_coco_panoptic(folder))


def read_panoptic_images(
    folder: DataFolder, path: Path, maps: Path, images: Path, named: Callable[[str], str]
) -> Contents:
    """COCO's panoptic form. path: of the JSON. maps, images: folders. named: what categories are called.

    Raises DataError.
    """
    document = read_json(path)
    with in_layout(path, "COCO panoptic"):
        if not document.get("annotations"):
            raise DataError(f"{path}: lists no annotations, so the split {folder.split!r} has no ground truth.")
        categories = CategoryList.of(document["categories"], named)
        files = {image["id"]: image["file_name"] for image in document["images"]}
        samples = []
        for entry in document["annotations"]:
            image = entry["image_id"]
            if image not in files:
                raise DataError(f"{path}: the annotation of image {image}, which is not listed.")
            labels = segment_labels(entry["segments_info"], categories, f"{path}, image {image}")
            # Some converted files name the photograph here; the map is a PNG always.
            map = maps / Path(entry["file_name"]).with_suffix(".png")
            name, file = folder.example(image), frame_file(images, files[image])
            samples.append(PanopticSample(name, (file,), "image", (SegmentMap(map, labels),), categories))
    return Contents(tuple(samples), categories)


def as_semantic(found: Contents) -> Contents:
    """The same images, their segments taken together by category; in this task things are nothing special."""
    assert found.categories is not None, "a panoptic reader found them"
    categories = found.categories.of_one_kind()
    samples = [_semantic(sample, categories) for sample in found.samples if isinstance(sample, PanopticSample)]
    return Contents(tuple(samples), categories)


def _semantic(sample: PanopticSample, categories: CategoryList) -> SemanticSample:
    places = {condition: place for place, condition in enumerate(sample.categories.order)}

    def read(frames: Frames, frame: int) -> tuple[LabelMap, None]:
        map = sample.maps[frame]
        ids = map.read(frames, frame)
        found, inverse = np.unique(ids, return_inverse=True)
        conditions = [places[map.segments[id].condition] if id else _VOID for id in found.tolist()]
        return np.array(conditions, dtype=np.int32)[inverse].reshape(ids.shape), None

    return SemanticSample(sample.name, sample.images, sample.media, sample.labels(), categories, read)


def read_vipseg(folder: DataFolder) -> Contents:
    """VIPSeg (Miao et al., CVPR 2022). Raises DataError."""
    path = folder.find("annotations", "panoptic_gt_VIPSeg_{split}.json")
    document = read_json(path)
    with in_layout(path, "VIPSeg"):
        categories = CategoryList.of(document["categories"])
        annotations = {entry["video_id"]: entry["annotations"] for entry in document["annotations"]}
        samples = [
            _vipseg_video(folder, path, video, annotations.get(video["video_id"], ()), categories)
            for video in document["videos"]
        ]
    return Contents(tuple(samples), categories)


def _vipseg_video(
    folder: DataFolder,
    path: Path,
    video: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    categories: CategoryList,
) -> PanopticSample:
    name = str(video["video_id"])
    if len(annotations) != len(video["images"]):
        raise DataError(
            f"{path}: video {name} has {len(video['images'])} frames and annotations of {len(annotations)}; wanted "
            "one each. A test split has no ground truth."
        )
    images, maps = [], []
    for entry in annotations:
        images.append(frame_file(folder.root / "images" / name, str(entry["image_id"])))
        origin = f"{path}, video {name}, frame {entry['image_id']}"
        labels = segment_labels(entry["segments_info"], categories, origin)
        maps.append(SegmentMap(folder.root / "panomasksRGB" / name / entry["file_name"], labels))
    return PanopticSample(folder.example(name), tuple(images), "video", tuple(maps), categories)


def read_vspw(folder: DataFolder) -> Contents:
    """VSPW (Miao et al., CVPR 2021), 480p. "others" is no category. Raises DataError."""
    listed = folder.find("list of videos", "{split}.txt")
    categories = _vspw_categories(folder.find("list of categories", "label_num_dic_final.json"))
    official = folder.look("data") is not None
    samples = []
    for name in listed.read_text(encoding="utf-8").split():
        parts = ("data/{}/origin", "data/{}/mask") if official else ("images/{}", "semmasks/{}")
        images, masks = (folder.root / part.format(name) for part in parts)
        samples.append(_vspw_video(folder.example(name), list_frames(images), images, masks, categories))
    return Contents(tuple(samples), categories)


def _vspw_categories(path: Path) -> CategoryList:
    numbers = read_json(path)
    with in_layout(path, "VSPW's list of categories"):
        entries = [{"id": int(number), "name": name} for name, number in numbers.items() if int(number)]
        return CategoryList.of(entries, category_name)


def _vspw_video(
    name: str, images: tuple[Path, ...], folder: Path, masks: Path, categories: CategoryList
) -> SemanticSample:
    if not images:
        raise DataError(f"Example {name}: {folder} holds no frames. Unpack the video, or take it off the list.")
    maps = tuple(masks / f"{image.stem}.png" for image in images)
    conditions = label_table(categories, _VSPW_VOID)

    def read(frames: Frames, frame: int) -> tuple[LabelMap, Indices]:
        labels = read_indices(frames, frame, maps[frame])
        return looked_up(conditions, labels, f"Example {name}: {maps[frame]}"), labels

    return SemanticSample(name, images, "video", maps, categories, read)


def label_table(categories: CategoryList, void: Sequence[int]) -> LabelMap:
    """(256,) int32: the condition of each label; −1 for void, −2 for labels that mean nothing."""
    conditions = np.full(256, _MEANINGLESS, dtype=np.int32)
    conditions[list(void)] = _VOID
    conditions[list(categories.conditions)] = list(categories.conditions.values())
    return conditions


def looked_up(conditions: LabelMap, labels: Indices, origin: str) -> LabelMap:
    """The condition of each pixel. Raises DataError, naming `origin`, for labels that mean nothing."""
    found: LabelMap = conditions[labels]
    if (found == _MEANINGLESS).any():
        unknown = np.unique(labels[found == _MEANINGLESS]).tolist()
        raise DataError(f"{origin}: the labels {unknown[:10]} are of no category.")
    return found
