"""Makes V-VGD: visual prompts for the objects of YouTube-VIS 2019, VIPSeg and the made-up world (X2SAM).

As the paper has it, an object is prompted once, on the first annotated frame that shows enough of it for all four
kinds of prompts, and its whole track is to be found. The released files hold prompts for every annotated frame. Their
random numbers were not kept, so figures to be compared with published ones need the released files.

Kept: no crowds; of VIPSeg the things, and, for the paper's version, those whose number means one category throughout.
Frames without an object are left out, and so are videos with fewer than two frames left.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from x2sam_rt.data.readers.files import frame_file, in_layout, of_example, read_json
from x2sam_rt.data.readers.folders import DataFolder
from x2sam_rt.data.readers.masks import decode_segmentation
from x2sam_rt.data.readers.prompted import FRAMES_PER_ID
from x2sam_rt.data.synthetic import SHAPES, SyntheticClip, clip_seed, evaluation_settings, make_clip
from x2sam_rt.data.visual_prompts import VisualPrompts, draw_prompts
from x2sam_rt.errors import ConfigError, DataError
from x2sam_rt.media.atomic import atomic_file
from x2sam_rt.media.image import decode_ids, read_image, write_image
from x2sam_rt.media.rle import encode_mask
from x2sam_rt.media.types import BoolMask, Pixels
from x2sam_rt.tasks.regions import PROMPT_KINDS

Source = Literal["yt19", "vipseg", "synthetic"]
SOURCES: tuple[Source, ...] = ("yt19", "vipseg", "synthetic")
_FEWEST_FRAMES = 2
_PROMPT_COLOUR, _OUTLINE_COLOUR = (255, 64, 64), (64, 255, 64)


@dataclass(frozen=True, eq=False)
class ObjectMask:
    """An object on a frame. track: its number through the video. area: as the source says; None: it says nothing."""

    track: int
    category_id: int
    mask: BoolMask
    area: int | None = None


@dataclass(frozen=True, eq=False)
class AnnotatedVideo:
    """files: its frames, below `folder`. size: height and width. objects: of a frame, by its number, in the file's
    order; masks are made when they are asked for. changing: numbers that mean one category here and another there."""

    id: int | str
    folder: Path
    files: tuple[str, ...]
    size: tuple[int, int]
    objects: Callable[[int], list[ObjectMask]]
    changing: frozenset[int] = frozenset()


@dataclass(frozen=True)
class VgdPlan:
    """root: the source's own folder. prompts: "first" as the paper has it, "every" as the released files. pictures:
    of how many objects. Raises ConfigError for what cannot be made."""

    source: Source
    root: Path
    output: Path
    split: str = "val"
    prompts: Literal["first", "every"] = "first"
    seed: int = 0
    pictures: int = 8

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise ConfigError(f"V-VGD is made of {', '.join(SOURCES)}, not of {self.source!r}.")
        if self.prompts not in ("first", "every"):
            raise ConfigError(f"Prompts on {self.prompts!r} frames; wanted first or every.")

    @property
    def file(self) -> Path:
        return self.output / "annotations" / f"vid_vgdseg_{self.source}_{self.split}.json"


@dataclass(frozen=True)
class VgdCounts:
    """What was made. prompted: objects with prompts; unprompted: too small on all frames. pictures: their files."""

    videos: int
    frames: int
    prompted: int
    unprompted: int
    pictures: tuple[Path, ...]


def make_vgd(plan: VgdPlan, on_video: Callable[[], None] = lambda: None) -> VgdCounts:
    """Writes the file of the benchmark, a link to the source's frames beside it, and pictures of some objects.

    on_video: told after each. Raises DataError for a source that cannot be used.
    """
    maker = _Maker(plan)
    plan.file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(plan.file) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write("[")
        for number, entry in enumerate(maker.entries(on_video)):
            file.write((",\n" if number else "") + json.dumps(entry))
        file.write("]\n")
    if not maker.videos:
        plan.file.unlink()
        raise DataError(f"{plan.root}: no video of the split {plan.split!r} has objects on two or more frames.")
    link_frames(plan)
    return VgdCounts(maker.videos, maker.frames, maker.prompted, maker.unprompted, tuple(maker.pictures))


class _Maker:
    """Goes through the videos and counts."""

    def __init__(self, plan: VgdPlan) -> None:
        self._plan = plan
        self.videos = self.frames = self.prompted = self.unprompted = 0
        self.pictures: list[Path] = []

    def entries(self, on_video: Callable[[], None]) -> Iterator[dict[str, Any]]:
        for video in source_videos(self._plan):
            if len(video.files) > FRAMES_PER_ID:
                raise DataError(
                    f"Video {video.id} has {len(video.files)} frames; ids of V-VGD have room for {FRAMES_PER_ID}."
                )
            entry = self._entry(video)
            if len(entry["image_files"]) >= _FEWEST_FRAMES:
                self.videos += 1
                self.frames += len(entry["image_files"])
                yield entry
            on_video()

    def _entry(self, video: AnnotatedVideo) -> dict[str, Any]:
        prompted: set[int] = set()
        listed = {number: self._frame(video, number, prompted) for number in range(len(video.files))}
        shown = {number: entries for number, entries in listed.items() if entries}
        tracks = {entry["id"] // FRAMES_PER_ID for entries in shown.values() for entry in entries}
        if len(shown) >= _FEWEST_FRAMES:
            self.prompted += len(prompted)
            self.unprompted += len(tracks - prompted)
        files = [video.files[number] for number in shown]
        height, width = video.size
        return {
            "image_files": files,
            "video_id": video.id,
            "image_sizes": [[height, width] for _ in files],
            "annotations": list(shown.values()),
            "video_info": {"video_id": video.id, "image_files": files, "height": height, "width": width},
        }

    def _frame(self, video: AnnotatedVideo, number: int, prompted: set[int]) -> list[dict[str, Any]]:
        """prompted: objects that have had prompts; those that get their first now are added."""
        left_out = video.changing if self._plan.prompts == "first" else frozenset()
        kept = (one for one in video.objects(number) if one.track not in left_out)
        return [self._object(video, one, number, prompted) for one in kept]

    def _object(self, video: AnnotatedVideo, one: ObjectMask, number: int, prompted: set[int]) -> dict[str, Any]:
        entry = _annotation(one, number, video.size)
        first = one.track not in prompted
        if self._plan.prompts == "first" and not first:
            return entry
        prompts = self._prompts(video, one, number)
        drawn = bool(prompts.point.any())
        if self._plan.prompts == "every" or drawn:
            entry["visual_prompts"] = {f"{kind}_visual_prompt": encode_mask(prompts.of(kind)) for kind in PROMPT_KINDS}
        if first and drawn:
            prompted.add(one.track)
            self._draw(video, one, number, prompts)
        return entry

    def _prompts(self, video: AnnotatedVideo, one: ObjectMask, frame: int) -> VisualPrompts:
        """Seeded by object and frame, so that they do not depend on what was drawn before."""
        return draw_prompts(one.mask, random.Random(f"{self._plan.seed}/{video.id}/{one.track}/{frame}"))

    def _draw(self, video: AnnotatedVideo, one: ObjectMask, frame: int, prompts: VisualPrompts) -> None:
        if len(self.pictures) < self._plan.pictures:
            path = self._plan.output / "pictures" / f"{video.id}_{one.track}.png".replace("/", "_")
            path.parent.mkdir(parents=True, exist_ok=True)
            write_image(path, picture(read_image(frame_file(video.folder, video.files[frame])), one.mask, prompts))
            self.pictures.append(path)


def _annotation(one: ObjectMask, frame: int, size: tuple[int, int]) -> dict[str, Any]:
    height, width = size
    area = {} if one.area is None else {"area": one.area}
    return {
        "id": one.track * FRAMES_PER_ID + frame,
        "segmentation": encode_mask(one.mask),
        "bbox": [0.0, 0.0, width, height],  # as published: nothing reads it
        "bbox_mode": 0,
        **area,
        "iscrowd": 0,
        "category_id": one.category_id,
    }


def picture(frame: Pixels, mask: BoolMask, prompts: VisualPrompts) -> Pixels:
    """The frame four times, with a kind of prompt each and the object's outline. frame: (H, W, 3) uint8."""
    inner = mask.copy()
    inner[1:-1, 1:-1] &= mask[:-2, 1:-1] & mask[2:, 1:-1] & mask[1:-1, :-2] & mask[1:-1, 2:]
    tiles = []
    for kind in PROMPT_KINDS:
        tile = frame.copy()
        drawn = prompts.of(kind)
        tile[drawn] = (tile[drawn].astype(np.uint16) + np.array(_PROMPT_COLOUR, dtype=np.uint16)) // 2
        tile[mask & ~inner] = _OUTLINE_COLOUR
        tiles.append(tile)
    return np.concatenate([np.concatenate(tiles[:2], axis=1), np.concatenate(tiles[2:], axis=1)], axis=0)


def source_videos(plan: VgdPlan) -> Iterator[AnnotatedVideo]:
    """The videos of a source. Raises DataError."""
    if plan.source == "vipseg":
        return _vipseg_videos(DataFolder("vipseg", plan.root, plan.split))
    split = {"val": "valid"}.get(plan.split, plan.split) if plan.source == "yt19" else plan.split
    return _youtube_vis_videos(DataFolder("youtube-vis19", plan.root, split))


def _youtube_vis_videos(folder: DataFolder) -> Iterator[AnnotatedVideo]:
    names = ("{split}/instances.json", "{split}.json", "{split}/{split}.json", "{split}/instances_val_sub.json")
    path = folder.find("annotations", *names)
    document = read_json(path)
    with in_layout(path, "YouTube-VIS"):
        tracks: dict[int, list[Mapping[str, Any]]] = {}
        for entry in document["annotations"]:
            if not entry.get("iscrowd", 0):
                tracks.setdefault(entry["video_id"], []).append(entry)
        for video in document["videos"]:
            size = int(video["height"]), int(video["width"])
            objects = _objects_of_tracks(path, tracks.get(video["id"], []), size)
            files, images = tuple(video["file_names"]), folder.root / folder.split / "JPEGImages"
            yield AnnotatedVideo(video["id"], images, files, size, objects)


def _objects_of_tracks(
    path: Path, tracks: Iterable[Mapping[str, Any]], size: tuple[int, int]
) -> Callable[[int], list[ObjectMask]]:
    def objects(frame: int) -> list[ObjectMask]:
        with in_layout(path, "YouTube-VIS"):
            return [
                ObjectMask(
                    int(track["id"]),
                    int(track["category_id"]),
                    decode_segmentation(track["segmentations"][frame], *size),
                    track["areas"][frame],
                )
                for track in tracks
                if track["segmentations"][frame] is not None
            ]

    return objects


def _vipseg_videos(folder: DataFolder) -> Iterator[AnnotatedVideo]:
    path = folder.find("annotations", "panoptic_gt_VIPSeg_{split}.json")
    document = read_json(path)
    with in_layout(path, "VIPSeg"):
        things = {int(entry["id"]) for entry in document["categories"] if entry["isthing"]}
        annotations = {entry["video_id"]: entry["annotations"] for entry in document["annotations"]}
        for video in document["videos"]:
            name, frames = str(video["video_id"]), annotations[video["video_id"]]
            files = tuple(f"{name}/{entry['image_id']}.jpg" for entry in frames)
            size = int(video["images"][0]["height"]), int(video["images"][0]["width"])
            listed = [[info for info in entry["segments_info"] if _is_kept(info, things)] for entry in frames]
            maps = [folder.root / "panomasksRGB" / name / entry["file_name"] for entry in frames]
            objects = _objects_of_maps(maps, listed, size)
            yield AnnotatedVideo(name, folder.root / "images", files, size, objects, _changing(listed))


Infos = list[list[Mapping[str, Any]]]  # "segments_info" of each frame


def _is_kept(info: Mapping[str, Any], things: set[int]) -> bool:
    return int(info["category_id"]) in things and not info.get("iscrowd", 0)


def _changing(frames: Infos) -> frozenset[int]:
    categories: dict[int, set[int]] = {}
    for info in (info for infos in frames for info in infos):
        categories.setdefault(int(info["id"]), set()).add(int(info["category_id"]))
    return frozenset(track for track, found in categories.items() if len(found) > 1)


def _objects_of_maps(maps: list[Path], frames: Infos, size: tuple[int, int]) -> Callable[[int], list[ObjectMask]]:
    def objects(number: int) -> list[ObjectMask]:
        with of_example(f"v-vgd-vipseg/{maps[number].parent.name}"):
            ids = decode_ids(read_image(maps[number]))
        if ids.shape != size:
            raise DataError(f"{maps[number]}: is {ids.shape[1]}×{ids.shape[0]} pixels; the list says {size[::-1]}.")
        listed = [
            ObjectMask(int(info["id"]), int(info["category_id"]), np.equal(ids, int(info["id"])))
            for info in frames[number]
        ]
        return [one for one in listed if one.mask.any()]

    return objects


def link_frames(plan: VgdPlan) -> None:
    """A link to the source's frames, named as X2SAM's folders have it; what stands there already is left."""
    name = {"yt19": "ytvis19", "vipseg": "vipseg_720p", "synthetic": "synthetic"}[plan.source]
    link = plan.output / name
    if not link.exists():
        link.symlink_to(plan.root.resolve(), target_is_directory=True)


def write_synthetic(root: Path, clips: int, split: str = "val") -> None:
    """Clips of the made-up world as YouTube-VIS has videos, a category per shape. Those of the split "train" are
    training's own, all others are of seeds that training never draws.

    root: a folder that make_vgd can be given as that of the source "synthetic". Raises DataError for no clips.
    """
    if clips < 1:
        raise DataError(f"{clips} clips of the made-up world were asked for; wanted 1 or more.")
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(1, clips + 1):
        clip = make_clip(clip_seed("train" if split == "train" else "seen", number - 1), evaluation_settings())
        videos.append(_write_clip(root / split / "JPEGImages", clip, number))
        first = len(annotations) + 1
        annotations += [_track(clip, place, number, first + place) for place in range(len(clip.objects))]
    categories = [{"id": number, "name": name} for number, name in enumerate(SHAPES, 1)]
    document = {"videos": videos, "annotations": annotations, "categories": categories}
    with atomic_file(root / split / "instances.json") as temporary:
        temporary.write_text(json.dumps(document), encoding="utf-8")


def _write_clip(folder: Path, clip: SyntheticClip, number: int) -> dict[str, Any]:
    """Writes the frames, and returns the entry of the video."""
    _, height, width, _ = clip.frames.shape
    files = [f"clip_{number:04d}/{frame:05d}.png" for frame in range(len(clip.frames))]
    (folder / files[0]).parent.mkdir(parents=True, exist_ok=True)
    for file, pixels in zip(files, clip.frames, strict=True):
        write_image(folder / file, pixels)
    return {"id": number, "file_names": files, "height": height, "width": width, "length": len(files)}


def _track(clip: SyntheticClip, place: int, video: int, id: int) -> dict[str, Any]:
    masks = list(clip.mask(place))
    return {
        "id": id,
        "video_id": video,
        "category_id": SHAPES.index(clip.objects[place].shape) + 1,
        "iscrowd": 0,
        "segmentations": [encode_mask(mask) if mask.any() else None for mask in masks],
        "areas": [int(mask.sum()) or None for mask in masks],
    }
