"""Objects under visual prompts: COCO-Interactive, COCO-VGD, V-VGD, YouTube-VOS.

COCO-Interactive (PSALM; X2SAM: img_intseg/coco_int): a list of {image, image_info: {height, width, id}, anns: [{id,
segmentation, point_visual_prompt_mask, …}]}, prompts as run lengths

    <root>/annotations/coco_interactive_val_psalm.json      or beside the images
    <root>/coco2017/val2017/<image>.jpg                     or <root>/val2017

COCO-VGD (X-SAM; X2SAM: img_vgdseg/coco_vgd): a list of {image_file, image_id, annotations: [{id, segmentation,
category_id, visual_prompts: {point_visual_prompt, …}}]}

    <root>/annotations/img_vgdseg_coco_<split>.json, <root>/coco2017/<split>2017/<image>.jpg       or <root>/<split>2017

V-VGD (X2SAM: vid_vgdseg/ytvis_vgd, vid_vgdseg/vipseg_vgd), published or made by `x2sam-rt data make-vgd`: a list of
{video_id, image_files, annotations: per frame [{id, segmentation, category_id, visual_prompts}]}; ⌊id / 100⌋ is the
object's

    <root>/annotations/vid_vgdseg_<yt19, vipseg or synthetic>_<split>.json
    <root>/ytvis19/valid/JPEGImages/<video>/<frame>.jpg (train: train), <root>/vipseg_720p/images/<video>/<frame>.jpg

YouTube-VOS 2019 (X2SAM: vid_objseg/ytvos19): "videos": {video: {"objects": {object: {category}}}}

    <root>/<split>/meta.json, <root>/<split>/JPEGImages/<video>/<frame>.jpg
    <root>/<split>/Annotations/<video>/<frame>.png          indexed, one for every frame

A part of the split names the kind of prompts: "val/point"; without, each object has one of a kind drawn at random.
Interactive and YouTube-VOS: each object is an example, the others ask for all objects of an image or a video.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from x2sam_rt.data.drawing import discs
from x2sam_rt.data.example import Example, IdMasks, Target
from x2sam_rt.data.readers.annotated import PromptedExample
from x2sam_rt.data.readers.files import Frames, frame_file, in_layout, list_frames, read_json
from x2sam_rt.data.readers.folders import DataFolder
from x2sam_rt.data.readers.masks import PackedMasks, read_indices, require_object, segmentation_mask
from x2sam_rt.data.readers.sample import Contents, FileSample
from x2sam_rt.errors import DataError
from x2sam_rt.media.types import BoolMask
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import POINT_RADIUS, PROMPT_KINDS, SCRIBBLE_RADIUS, Prompt, PromptKind, RegionPrompt
from x2sam_rt.tasks.table import Media

SEEN, UNSEEN = "seen", "unseen"
FRAMES_PER_ID = 100  # an annotation's id is its object's · 100 + frame
# Categories of YouTube-VOS's valid that its train does not have.
_UNSEEN = frozenset(
    {"backpack", "ball", "bottle", "box", "butterfly", "camera", "chameleon", "cloth", "cup", "eyeglasses", "flag"}
    | {"guitar", "handbag", "jellyfish", "kangaroo", "microphone", "mirror", "ring", "rope", "shovel", "small_panda"}
    | {"spider", "stuffed_toy", "table", "tissue", "watch"}
)
_COCO_LEFT_OUT = frozenset({12, 26, 29, 30, 45, 66, 68, 69, 71, 83})  # numbers of COCO's list without annotations
_COCO_IDS = tuple(id for id in range(1, 91) if id not in _COCO_LEFT_OUT)
_THICKENED = {"point": POINT_RADIUS, "scribble": SCRIBBLE_RADIUS}  # COCO-Interactive's are thin


@dataclass(frozen=True, eq=False)
class PromptedAnnotation:
    """An object on a frame. track: the object's number. segmentation, prompts (by kind): as they stand in the file."""

    track: int
    category_id: int
    segmentation: Any
    prompts: Mapping[PromptKind, Any]


class FramePrompts(Mapping[int, RegionPrompt]):
    """The prompts on a frame by object, decoded when they are asked for."""

    def __init__(self, frames: Frames, frame: int, origin: str, prompts: Mapping[int, Any]) -> None:
        self._frames, self._frame, self._origin, self._prompts = frames, frame, origin, prompts

    def __getitem__(self, track: int) -> RegionPrompt:
        what = f"{self._origin}, prompt of object {track}"
        return Prompt.mask(segmentation_mask(self._frames, self._frame, self._prompts[track], what), self._frame)

    def __iter__(self) -> Iterator[int]:
        return iter(self._prompts)

    def __len__(self) -> int:
        return len(self._prompts)


@dataclass(frozen=True, eq=False)
class PromptedSample(FileSample):
    """annotations: per frame. kind: of the prompts; None = one of each object's, drawn by its name. places: of the
    categories among all of the data set, by id."""

    media: Media
    origin: Path
    annotations: tuple[tuple[PromptedAnnotation, ...], ...]
    kind: PromptKind | None
    places: Mapping[int, int]

    def example(self, frames: Frames) -> Example:
        prompts = {
            frame: FramePrompts(frames, frame, str(self.origin), chosen)
            for frame, listed in enumerate(self.annotations)
            if (chosen := self.chosen(listed))
        }
        tracks = self._tracks(prompts)
        if not tracks:
            raise DataError(f"Example {self.name}: {self.origin}: none of its objects has a visual prompt.")
        regions = [next(on[track] for on in prompts.values() if track in on) for track in tracks]
        return PromptedExample(
            name=self.name,
            media=self.media,
            frames=frames.pixels,
            instruction=Instruction("vgd", regions=tuple(regions)),
            conditions=len(tracks),
            targets=tuple(
                Target(condition, self._masks(frames, track), track) for condition, track in enumerate(tracks)
            ),
            categories=tuple(self._place(category) for category in tracks.values()),
            prompts=prompts,
        )

    def _tracks(self, prompts: Mapping[int, Mapping[int, RegionPrompt]]) -> dict[int, int]:
        """Objects that have a prompt, in the order of their first, and their categories."""
        categories = {one.track: one.category_id for listed in self.annotations for one in listed}
        return {track: categories[track] for on in prompts.values() for track in on}

    def chosen(self, listed: Sequence[PromptedAnnotation]) -> dict[int, Any]:
        """The prompts to take on a frame, as they stand in the file."""
        return {one.track: prompt for one in listed if (prompt := self._prompt(one)) is not None}

    def _prompt(self, one: PromptedAnnotation) -> Any:
        if not one.prompts:
            return None
        drawn = {kind: prompt for kind, prompt in one.prompts.items() if _is_drawn(prompt)}
        if self.kind is None and drawn:
            return drawn[random.Random(f"{self.name}/{one.track}").choice(sorted(drawn))]
        if self.kind in drawn:
            return drawn[self.kind]
        return one.segmentation if self.media == "video" else None

    def _masks(self, frames: Frames, track: int) -> PackedMasks:
        return PackedMasks.of(self._mask(frames, frame, track) for frame in range(len(self.annotations)))

    def _mask(self, frames: Frames, frame: int, track: int) -> BoolMask:
        entry = next((one.segmentation for one in self.annotations[frame] if one.track == track), None)
        return segmentation_mask(frames, frame, entry, f"{self.origin}, object {track}, frame {frame}")

    def _place(self, category: int) -> int:
        if category not in self.places:
            raise DataError(f"Example {self.name}: {self.origin}: there is no category {category} in its data set.")
        return self.places[category]


def _is_drawn(prompt: Any) -> bool:
    """Run lengths that set a pixel: a single run is all background."""
    counts = prompt["counts"] if prompt else ()
    return len(counts) > 1 and not (isinstance(counts, str) and _one_run(counts))


def _one_run(counts: str) -> bool:
    """Packed run lengths whose first number is the last: every letter but the last says that more follows."""
    return all((ord(letter) - 48) & 32 for letter in counts[:-1])


def read_coco_vgd(folder: DataFolder) -> Contents:
    """COCO-VGD (X-SAM, Wang et al., 2025). Objects without a prompt of the kind are left out. Raises DataError."""
    path = folder.find("annotations", "annotations/img_vgdseg_coco_{split}.json", "img_vgdseg_coco_{split}.json")
    images = folder.find("images", "coco2017/{split}2017", "{split}2017")
    document = read_json(path)
    with in_layout(path, "COCO-VGD"):
        samples = [
            PromptedSample(
                name=folder.example(entry["image_id"]),
                images=(frame_file(images, entry["image_file"]),),
                media="image",
                origin=path,
                annotations=(tuple(_annotation(one, int(one["id"])) for one in entry["annotations"]),),
                kind=_kind(folder),
                places={id: place for place, id in enumerate(_COCO_IDS)},
            )
            for entry in document
        ]
    kept = [sample for sample in samples if sample.chosen(sample.annotations[0])]
    return Contents(tuple(kept))


def read_vgd_yt19(folder: DataFolder) -> Contents:
    """V-VGD of YouTube-VIS 2019, 40 categories (X2SAM). Raises DataError."""
    frames = {"val": "valid"}.get(folder.split, folder.split)
    places = (f"ytvis19/{frames}/JPEGImages", f"{frames}/JPEGImages")
    return _read_vgd(folder, "yt19", places, {id: id - 1 for id in range(1, 41)})


def read_vgd_vipseg(folder: DataFolder) -> Contents:
    """V-VGD of VIPSeg, its 58 things, which are numbered among all 124 categories (X2SAM). Raises DataError."""
    return _read_vgd(folder, "vipseg", ("vipseg_720p/images", "images"), {id: id for id in range(124)})


def read_vgd_synthetic(folder: DataFolder) -> Contents:
    """V-VGD of the made-up world, by `x2sam-rt data make-vgd synthetic`. Raises DataError."""
    return _read_vgd(folder, "synthetic", ("synthetic/{split}/JPEGImages",), {id: id - 1 for id in range(1, 41)})


def _read_vgd(folder: DataFolder, source: str, frames: tuple[str, ...], places: Mapping[int, int]) -> Contents:
    name = f"vid_vgdseg_{source}_{{split}}.json"
    path = folder.find("annotations", f"annotations/{name}", name)
    images = folder.find("frames", *frames)
    document = read_json(path)
    samples = []
    with in_layout(path, "V-VGD"):
        for video in document:
            listed = tuple(
                tuple(_annotation(one, int(one["id"]) // FRAMES_PER_ID) for one in frame)
                for frame in video["annotations"]
            )
            files = tuple(frame_file(images, file) for file in video["image_files"])
            if len(listed) != len(files):
                raise ValueError(f"video {video['video_id']}: {len(files)} frames, annotations of {len(listed)}")
            example = folder.example(video["video_id"])
            samples.append(PromptedSample(example, files, "video", path, listed, _kind(folder), places))
    return Contents(tuple(samples))


def _annotation(entry: Mapping[str, Any], track: int) -> PromptedAnnotation:
    given = entry.get("visual_prompts") or {}
    prompts = {kind: given.get(f"{kind}_visual_prompt") for kind in PROMPT_KINDS} if given else {}
    return PromptedAnnotation(track, int(entry["category_id"]), entry["segmentation"], prompts)


def _kind(folder: DataFolder) -> PromptKind | None:
    return next((kind for kind in PROMPT_KINDS if kind == folder.part), None)


@dataclass(frozen=True, eq=False)
class InteractiveSample(FileSample):
    """prompt: as it stands in the file; thickened by `radius`, None: as it is."""

    origin: Path
    id: int
    segmentation: Any
    prompt: Any
    radius: int | None

    def example(self, frames: Frames) -> Example:
        what = f"{self.origin}, annotation {self.id}"
        prompt = segmentation_mask(frames, 0, self.prompt, f"{what}, prompt")
        if self.radius is not None:
            rows, columns = np.nonzero(prompt)
            prompt = discs(rows, columns, self.radius, *frames.size)
        mask = segmentation_mask(frames, 0, self.segmentation, what)
        return Example(
            name=self.name,
            media="image",
            frames=frames.pixels,
            instruction=Instruction("interactive", regions=(Prompt.mask(prompt),)),
            conditions=1,
            targets=(Target(0, mask[None], self.id),),
        )


def read_coco_interactive(folder: DataFolder) -> Contents:
    """COCO-Interactive (PSALM, Zhang et al., ECCV 2024). Objects without a prompt of the kind are left out.

    Raises DataError.
    """
    name = "coco_interactive_{split}_psalm.json"
    path = folder.find("annotations", f"annotations/{name}", name)
    images = folder.find("images", "coco2017/{split}2017", "{split}2017")
    document = read_json(path)
    with in_layout(path, "COCO-Interactive"):
        samples = [sample for entry in document for sample in _interactive(folder, path, images, entry)]
    return Contents(tuple(samples))


def _interactive(folder: DataFolder, path: Path, images: Path, entry: Mapping[str, Any]) -> Iterator[InteractiveSample]:
    file, image = frame_file(images, entry["image"]), entry["image_info"]["id"]
    for number, one in enumerate(entry["anns"]):
        name = folder.example(image, number)
        given = {kind: one.get(f"{kind}_visual_prompt_mask") for kind in PROMPT_KINDS}
        drawn = sorted(kind for kind, prompt in given.items() if _is_drawn(prompt))
        kind = _kind(folder) or (random.Random(name).choice(drawn) if drawn else None)
        if kind in drawn:
            id = int(one.get("id", number))
            yield InteractiveSample(name, (file,), path, id, one["segmentation"], given[kind], _THICKENED.get(kind))


@dataclass(frozen=True, eq=False)
class VideoObjectSample(FileSample):
    """folder: of the video's indexed PNGs, one per frame. object: its number in them."""

    folder: Path
    object: int
    tag: str | None

    def labels(self) -> tuple[Path, ...]:
        return tuple(self.folder / f"{image.stem}.png" for image in self.images)

    def example(self, frames: Frames) -> Example:
        self._require_all()
        indices = np.stack([read_indices(frames, frame, path) for frame, path in enumerate(self.labels())])
        require_object(self.name, indices, self.object, self.folder)
        target = Target(0, IdMasks(indices, self.object), self.object)
        first = int(np.flatnonzero((indices == self.object).any(axis=(1, 2)))[0])
        return Example(
            name=self.name,
            media="video",
            frames=frames.pixels,
            instruction=Instruction("object", regions=(Prompt.mask(target.masks[first], first),)),
            conditions=1,
            targets=(target,),
            tags=frozenset() if self.tag is None else frozenset({self.tag}),
        )

    def _require_all(self) -> None:
        missing = [path for path in self.labels() if not path.is_file()]
        if missing:
            raise DataError(
                f"Example {self.name}: {len(missing)} of {len(self.images)} frames have no mask, the first is "
                f"{missing[0]}. The public masks of valid are those of first frames only; to measure by, every frame "
                "needs one."
            )


def read_youtube_vos(folder: DataFolder) -> Contents:
    """YouTube-VOS 2019 (Xu et al., ECCV 2018): train, valid. Raises DataError."""
    path = folder.find("list of objects", "{split}/meta.json")
    images, masks = folder.find("frames", "{split}/JPEGImages"), folder.find("masks", "{split}/Annotations")
    document = read_json(path)
    samples = []
    with in_layout(path, "YouTube-VOS"):
        for video, entry in document["videos"].items():
            if not (files := list_frames(images / video)):
                raise DataError(f"{images / video}: holds no frames, though {path.name} lists the video.")
            for number, (object, more) in enumerate(entry["objects"].items()):
                tag = UNSEEN if more["category"] in _UNSEEN else SEEN
                name = folder.example(video, number)
                samples.append(VideoObjectSample(name, files, masks / video, int(object), tag))
    chosen = [sample for sample in samples if folder.part in ("", sample.tag)]
    return Contents(tuple(chosen))
