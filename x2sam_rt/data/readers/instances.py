"""Instances by category, whose truth is COCO's JSON: COCO itself, YouTube-VIS; and masks of no category: SA-1B.

COCO (X2SAM: img_genseg/coco2017; split val2017, …):

    <root>/annotations/instances_<split>.json
    <root>/<split>/<image's file name>

YouTube-VIS, 2019 (X2SAM: vid_genseg/ytvis19) and 2021 (vid_ovseg/ytvis21), a JSON per split in any of these places:

    <root>/<split>/instances.json, <root>/<split>.json                               as published; train alone has masks
    <root>/valid/valid.json, valid/instances_val_sub.json, valid/gt.json             truth of valid from other sources
    <root>/<split>/JPEGImages/<file name>

It is COCO's with videos: "videos" [{id, file_names}], "annotations" [{id, video_id, category_id, iscrowd,
segmentations: [run lengths or null, one per frame]}], "categories" [{id, name}]. Each image and each video is an
example.

SA-1B, or masks of one's own in its form, for learning what masks are like:

    <root>/<any folder>/<image>.jpg and <image>.json beside it

The JSON: "annotations" [{id, segmentation: run lengths}]. Everything is an "object".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers.annotated import AnnotatedExample
from x2sam_rt.data.readers.categories import CategoryList
from x2sam_rt.data.readers.files import Frames, frame_file, in_layout, is_frame, read_json
from x2sam_rt.data.readers.folders import DataFolder
from x2sam_rt.data.readers.masks import PackedMasks, segmentation_mask
from x2sam_rt.data.readers.sample import Contents, FileSample
from x2sam_rt.errors import DataError
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.published import category_name, coco_category_name
from x2sam_rt.tasks.table import Media

_ANY = "object"  # what SA-1B's masks are called, which have no category


@dataclass(frozen=True, eq=False)
class Track:
    """segmentations: as they stand in the file, one per frame."""

    id: int
    condition: int
    crowd: bool
    segmentations: tuple[Any, ...]

    def target(self, frames: Frames, origin: Path) -> Target:
        """Raises DataError for masks that are none or of another size."""
        what = f"{origin}, annotation {self.id}"
        masks = (segmentation_mask(frames, frame, one, what) for frame, one in enumerate(self.segmentations))
        return Target(self.condition, PackedMasks.of(masks), self.id)


@dataclass(frozen=True, eq=False)
class InstanceSample(FileSample):
    media: Media
    origin: Path
    tracks: tuple[Track, ...]
    things: tuple[str, ...]

    def example(self, frames: Frames) -> Example:
        targets = [(track.crowd, track.target(frames, self.origin)) for track in self.tracks]
        return AnnotatedExample(
            name=self.name,
            media=self.media,
            frames=frames.pixels,
            instruction=Instruction("instance", things=self.things),
            conditions=len(self.things),
            targets=tuple(target for crowd, target in targets if not crowd),
            crowds=tuple(target for crowd, target in targets if crowd),
        )


def read_coco_instance(folder: DataFolder) -> Contents:
    """COCO's instances (Lin et al., ECCV 2014). Raises DataError."""
    path = folder.find("annotations", "annotations/instances_{split}.json", "instances_{split}.json")
    return read_coco_form(folder, path, folder.find("images", "{split}"), coco_category_name)


def read_coco_form(folder: DataFolder, path: Path, images: Path, named: Callable[[str], str]) -> Contents:
    """COCO's JSON of instances. path: of it. images: their folder. named: what categories are called.

    Raises DataError.
    """
    document = read_json(path)
    with in_layout(path, "COCO instances"):
        _require_truth(document, path, folder.split)
        categories = CategoryList.of(document["categories"], named)
        files = {image["id"]: image["file_name"] for image in document["images"]}
        tracks = defaultdict(list)
        for entry in document["annotations"]:
            origin = f"{path}, annotation {entry['id']}"
            if entry["image_id"] not in files:
                raise DataError(f"{origin}: belongs to image {entry['image_id']}, which is not listed.")
            tracks[entry["image_id"]].append(_track(entry, categories, origin, (entry["segmentation"],)))
        samples = [
            InstanceSample(
                folder.example(id), (frame_file(images, file),), "image", path, tuple(tracks[id]), categories.things
            )
            for id, file in files.items()
        ]
    return Contents(tuple(samples), categories)


def read_youtube_vis(folder: DataFolder) -> Contents:
    """YouTube-VIS (Yang et al., ICCV 2019), any edition. Raises DataError."""
    path = folder.find(
        "annotations",
        "{split}/instances.json",
        "{split}.json",
        "{split}/{split}.json",
        "{split}/instances_val_sub.json",
        "{split}/gt.json",
        "instances_{split}_sub.json",
        "instances_{split}.json",
    )
    images = folder.root / folder.split / "JPEGImages"
    document = read_json(path)
    with in_layout(path, "YouTube-VIS"):
        _require_truth(document, path, folder.split)
        categories = CategoryList.of(document["categories"], category_name)
        tracks = tracks_by_video(document, categories, path)
        samples = [
            InstanceSample(
                name=folder.example(video["id"]),
                images=tuple(frame_file(images, file) for file in video["file_names"]),
                media="video",
                origin=path,
                tracks=tuple(tracks[video["id"]]),
                things=categories.things,
            )
            for video in document["videos"]
        ]
    return Contents(tuple(samples), categories)


def tracks_by_video(document: Mapping[str, Any], categories: CategoryList, path: Path) -> defaultdict[int, list[Track]]:
    """The annotations of a YouTube-VIS JSON. Raises DataError for those that fit no video."""
    lengths = {video["id"]: len(video["file_names"]) for video in document["videos"]}
    tracks = defaultdict(list)
    for entry in document["annotations"]:
        origin, video = f"{path}, annotation {entry['id']}", entry["video_id"]
        if video not in lengths:
            raise DataError(f"{origin}: belongs to video {video}, which is not listed.")
        if len(entry["segmentations"]) != lengths[video]:
            raise DataError(
                f"{origin}: has masks for {len(entry['segmentations'])} frames; wanted {lengths[video]}, the frames "
                f"of video {video}."
            )
        tracks[video].append(_track(entry, categories, origin, tuple(entry["segmentations"])))
    return tracks


def _track(entry: Mapping[str, Any], categories: CategoryList, origin: str, masks: tuple[Any, ...]) -> Track:
    condition = categories.condition(entry["category_id"], origin)
    return Track(int(entry["id"]), condition, bool(entry.get("iscrowd", 0)), masks)


def _require_truth(document: Mapping[str, Any], path: Path, split: str) -> None:
    if not document.get("annotations"):
        raise DataError(f"{path}: lists no annotations, so the split {split!r} has no ground truth.")


@dataclass(frozen=True, eq=False)
class AnyMasksSample(FileSample):
    """origin: its JSON, which is read with the image: there are millions."""

    origin: Path

    def labels(self) -> tuple[Path, ...]:
        return (self.origin,)

    def example(self, frames: Frames) -> Example:
        document = read_json(self.origin)
        with in_layout(self.origin, "SA-1B"):
            tracks = [Track(int(entry["id"]), 0, False, (entry["segmentation"],)) for entry in document["annotations"]]
        return Example(
            name=self.name,
            media="image",
            frames=frames.pixels,
            instruction=Instruction("instance", things=(_ANY,)),
            conditions=1,
            targets=tuple(track.target(frames, self.origin) for track in tracks),
        )


def read_sa_1b(folder: DataFolder) -> Contents:
    """SA-1B (Kirillov et al., ICCV 2023). Raises DataError."""
    images = sorted(path for path in folder.root.rglob("*") if is_frame(path))
    if not images:
        raise DataError(f"{folder.root}: holds no images, at any depth. Check the folder.")
    samples = [
        AnyMasksSample(
            folder.example(path.relative_to(folder.root).with_suffix("")), (path,), path.with_suffix(".json")
        )
        for path in images
    ]
    return Contents(tuple(samples), CategoryList.of([{"id": 1, "name": _ANY}]))
