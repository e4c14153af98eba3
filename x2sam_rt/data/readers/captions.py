"""Grounded captions: GranD-f in images, V-GLaMM's in videos.

GranD-f's human-annotated part (X2SAM: img_gcgseg/grand_f; splits val, test):

    <root>/annotations/val_test/<split>_gcg_coco_mask_gt.json         COCO's form, in the order of the caption's phrases
    <root>/annotations/val_test/<split>_gcg_coco_caption_gt.json      "annotations" [{image_id, caption, labels}]
    <root>/images/GranDf_HA_images/val_test/<image>.jpg               or GranDf_HA_images/val_test

V-GLaMM (X2SAM: vid_gcgseg/video_glamm; split test), from three sources, of which one or more are there:

    <root>/video_gcg/instruction_data/<split>.json      "videos" [{id, dataset_split, file_names, dense_cap: {caption,
                                                        token_pos, mask_id}}], "annotations" [{id, segmentations}];
                                                        frames in video_gcg/<dataset_split>/val (of yt19 in
                                                        video_gcg/yt19/train/JPEGImages)
    <root>/mevis_gcg/valid_u/<video>.json               {caption}, with "[phrase](objects)"; masks and frames in
                                                        mevis/valid_u, as MeViS has them
    <root>/vidstg_gcg/val_captions/<video>.json         the same; frames in vidstg_gcg/val/<video>/frames, masks in
                                                        vidstg_gcg/val/<video>/masks/<object, 3 digits>/<frame>.png

Each image and each video is an example.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers.annotated import CaptionedExample
from x2sam_rt.data.readers.files import Frames, frame_file, in_layout, list_frames, read_json
from x2sam_rt.data.readers.folders import DataFolder
from x2sam_rt.data.readers.masks import PackedMasks, read_resized_indices, segmentation_mask
from x2sam_rt.data.readers.sample import Contents, FileSample
from x2sam_rt.errors import DataError
from x2sam_rt.media.types import BoolMask
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.marks import Mark
from x2sam_rt.tasks.table import Media

_PHRASE = re.compile(r"\[([^\]]+)\]\s*\(([^)]*)\)")


@dataclass(frozen=True)
class Caption:
    """text: plain words. phrases: what is shown, as (first letter, behind the last, objects)."""

    text: str
    phrases: tuple[tuple[int, int, tuple[int, ...]], ...]

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(self.text[start:end] for start, end, _ in self.phrases)

    @property
    def answer(self) -> str:
        """As the model should write it: phrases marked, and the token masks are drawn for."""
        pieces, done = [], 0
        for start, end, _ in sorted(self.phrases):
            if start < done:  # a phrase within another cannot be marked
                continue
            pieces += [self.text[done:start], f"<p>{self.text[start:end]}</p>"]
            done = end
        return "".join([*pieces, self.text[done:]]).strip() + f" {Mark.SEG.value}"


@dataclass(frozen=True, eq=False)
class CaptionSample(FileSample):
    media: Media
    caption: Caption

    @abstractmethod
    def masks(self, frames: Frames, number: int) -> PackedMasks:
        """Of a phrase of the caption, by its number."""

    def example(self, frames: Frames) -> Example:
        phrases = range(len(self.caption.phrases))
        return CaptionedExample(
            name=self.name,
            media=self.media,
            frames=frames.pixels,
            instruction=Instruction("gcg"),
            conditions=len(phrases),
            targets=tuple(Target(number, self.masks(frames, number), number) for number in phrases),
            answer=self.caption.answer,
            caption=self.caption.text,
            labels=self.caption.labels,
        )


@dataclass(frozen=True, eq=False)
class TrackedCaptionSample(CaptionSample):
    """tracks: of each phrase's objects, a "segmentation" per frame, as they stand in `origin`."""

    origin: Path
    tracks: tuple[tuple[Sequence[Any], ...], ...]

    def masks(self, frames: Frames, number: int) -> PackedMasks:
        return PackedMasks.of(self._together(frames, frame, number) for frame in range(len(self.images)))

    def _together(self, frames: Frames, frame: int, number: int) -> BoolMask:
        together = np.zeros(frames.size, dtype=np.bool_)
        for track in self.tracks[number]:
            together |= segmentation_mask(frames, frame, track[frame], f"{self.origin}, phrase {number}")
        return together


@dataclass(frozen=True, eq=False)
class MaskFolderCaptionSample(CaptionSample):
    """folder: holds a folder per object with a PNG per frame; a frame without one does not show the object."""

    folder: Path

    def labels(self) -> tuple[Path, ...]:
        objects = sorted({object for _, _, objects in self.caption.phrases for object in objects})
        paths = (self._file(object, image) for object in objects for image in self.images)
        return tuple(path for path in paths if path.is_file())

    def masks(self, frames: Frames, number: int) -> PackedMasks:
        return PackedMasks.of(self._together(frames, frame, number) for frame in range(len(self.images)))

    def _together(self, frames: Frames, frame: int, number: int) -> BoolMask:
        together = np.zeros(frames.size, dtype=np.bool_)
        for object in self.caption.phrases[number][2]:
            if (path := self._file(object, self.images[frame])).is_file():
                together |= read_resized_indices(frames, frame, path) != 0
        return together

    def _file(self, object: int, image: Path) -> Path:
        return self.folder / f"{object:03d}" / f"{image.stem}.png"


def read_gcg_image(folder: DataFolder) -> Contents:
    """GranD-f (Rasheed et al., CVPR 2024): val, test. Raises DataError."""
    masks = folder.find("masks", *_beside("{split}_gcg_coco_mask_gt.json"))
    captions = folder.find("captions", *_beside("{split}_gcg_coco_caption_gt.json"))
    images = folder.find("images", "images/GranDf_HA_images/val_test", "GranDf_HA_images/val_test")
    drawn = _masks_by_image(masks)
    document = read_json(captions)
    with in_layout(captions, "GranD-f"):
        samples = [
            TrackedCaptionSample(
                name=folder.example(entry["image_id"]),
                images=(frame_file(images, str(entry["image_id"])),),
                media="image",
                caption=_located(str(entry["caption"]), [str(label) for label in entry["labels"]]),
                origin=masks,
                tracks=_of_labels(drawn[str(entry["image_id"])], entry, captions),
            )
            for entry in document["annotations"]
        ]
    return Contents(tuple(samples))


def _beside(name: str) -> tuple[str, ...]:
    return f"annotations/val_test/{name}", f"annotations/{name}", name


def _masks_by_image(path: Path) -> defaultdict[str, list[Any]]:
    document, found = read_json(path), defaultdict(list)
    with in_layout(path, "GranD-f's masks"):
        for entry in document["annotations"]:
            found[str(entry["image_id"])].append(entry["segmentation"])
    return found


def _of_labels(masks: Sequence[Any], entry: Mapping[str, Any], path: Path) -> tuple[tuple[Sequence[Any], ...], ...]:
    if len(masks) != len(entry["labels"]):
        raise DataError(
            f"{path}: image {entry['image_id']} has {len(entry['labels'])} phrases and {len(masks)} masks; wanted a "
            "mask per phrase."
        )
    return tuple(((mask,),) for mask in masks)


def _located(text: str, labels: Sequence[str]) -> Caption:
    """Each label at its next place in the caption, whatever the case; one that is not there stands behind it."""
    words, phrases, low = text, [], text.lower()
    reached: dict[str, int] = {}
    for number, label in enumerate(labels):
        wanted = label.strip().lower()
        start = low.find(wanted, reached.get(wanted, 0))
        if start < 0:
            words, low = f"{words} {label.strip()}", f"{low} {wanted}"
            start = len(words) - len(wanted)
        reached[wanted] = start + len(wanted)
        phrases.append((start, start + len(wanted), (number,)))
    return Caption(words, tuple(phrases))


def read_gcg_video(folder: DataFolder) -> Contents:
    """V-GLaMM's grounded captions (Munasinghe et al., 2024), whichever of its sources are there. Raises DataError."""
    dense = folder.look("video_gcg/instruction_data/{split}.json")
    of_test = ("mevis_gcg/valid_u", "vidstg_gcg/val_captions") if folder.split == "test" else ()
    mevis, vidstg = (folder.look(place) for place in of_test) if of_test else (None, None)
    samples: list[CaptionSample] = []
    if dense is not None:
        samples += _dense(folder, dense)
    if mevis is not None:
        samples += _of_mevis(folder, mevis)
    if vidstg is not None:
        samples += _of_vidstg(folder, vidstg)
    if not samples:
        folder.find("captions", "video_gcg/instruction_data/{split}.json", *of_test)
    return Contents(tuple(samples))


def _dense(folder: DataFolder, path: Path) -> Iterator[CaptionSample]:
    document = read_json(path)
    with in_layout(path, "V-GLaMM's captions"):
        annotations = {int(entry["id"]): entry["segmentations"] for entry in document["annotations"]}
        for video in document["videos"]:
            caption = _by_tokens(video["dense_cap"], f"{path}, video {video['id']}")
            source = video["dataset_split"]
            images = folder.root / "video_gcg" / source / ("train/JPEGImages" if source == "yt19" else "val")
            files = tuple(frame_file(images, file) for file in video["file_names"])
            tracks = [
                tuple(_known_track(annotations, id, len(files), path) for id in objects)
                for _, _, objects in caption.phrases
            ]
            yield TrackedCaptionSample(
                folder.example("video_gcg", video["id"]), files, "video", caption, path, tuple(tracks)
            )


def _by_tokens(entry: Mapping[str, Any], origin: str) -> Caption:
    """token_pos: first letter and the one behind the last, of each phrase; mask_id: its annotation or annotations."""
    text, places, objects = str(entry["caption"]), entry["token_pos"], entry["mask_id"]
    if len(places) != len(objects):
        raise DataError(f"{origin}: {len(places)} phrases and {len(objects)} masks; wanted one for each.")
    phrases = []
    for place, ids in zip(places, objects, strict=True):
        start, end = (int(number) for number in (place[0] if isinstance(place[0], list) else place))
        if not 0 <= start < end <= len(text):
            raise DataError(f"{origin}: a phrase from letter {start} to {end} of a caption of {len(text)}.")
        phrases.append((start, end, tuple(map(int, ids if isinstance(ids, list) else [ids]))))
    return Caption(text, tuple(phrases))


def _known_track(annotations: Mapping[int, Any], id: int, frames: int, path: Path) -> Sequence[Any]:
    if id not in annotations:
        raise DataError(f"{path}: has no annotation {id}, which a caption speaks of.")
    track: Sequence[Any] = annotations[id]
    if len(track) != frames:
        raise DataError(f"{path}: annotation {id} has masks for {len(track)} frames; wanted {frames}.")
    return track


def _of_mevis(folder: DataFolder, captions: Path) -> Iterator[CaptionSample]:
    root = folder.find("MeViS", "mevis/valid_u")
    meta, masks = root / "meta_expressions.json", root / "mask_dict.json"
    document, segmentations = read_json(meta), {int(id): track for id, track in read_json(masks).items()}
    for path in sorted(captions.glob("*.json")):
        with in_layout(meta, "MeViS"):
            entry = document["videos"][path.stem]
            files = tuple(frame_file(root / "JPEGImages" / path.stem, str(frame)) for frame in entry["frames"])
            numbers = _annotation_of_object(entry)
        caption = _bracketed(path)
        tracks = [
            tuple(_known_track(segmentations, numbers.get(id, id), len(files), masks) for id in objects)
            for _, _, objects in caption.phrases
        ]
        yield TrackedCaptionSample(folder.example("mevis", path.stem), files, "video", caption, masks, tuple(tracks))


def _annotation_of_object(entry: Mapping[str, Any]) -> dict[int, int]:
    """MeViS numbers masks through all videos, and a video's objects beside them."""
    numbers: dict[int, int] = {}
    for expression in entry["expressions"].values():
        pairs = zip(expression.get("obj_id", ()), expression.get("anno_id", ()), strict=False)
        numbers |= {int(object): int(annotation) for object, annotation in pairs}
    return numbers


def _of_vidstg(folder: DataFolder, captions: Path) -> Iterator[CaptionSample]:
    for path in sorted(captions.glob("*.json")):
        place = folder.root / "vidstg_gcg" / "val" / path.stem
        if not (files := list_frames(place / "frames")):
            raise DataError(f"{place / 'frames'}: holds no frames of the caption {path}.")
        name = folder.example("vidstg", path.stem)
        yield MaskFolderCaptionSample(name, files, "video", _bracketed(path), place / "masks")


def _bracketed(path: Path) -> Caption:
    """ "[phrase](objects)" in the text of a file."""
    document = read_json(path)
    with in_layout(path, "V-GLaMM's captions"):
        marked = str(document["caption"])
        text, phrases, done = "", [], 0
        for found in _PHRASE.finditer(marked):
            text += marked[done : found.start()]
            objects = tuple(int(number) for number in re.findall(r"\d+", found[2]))
            phrases.append((len(text), len(text) + len(found[1]), objects))
            text, done = text + found[1], found.end()
    return Caption(text + marked[done:], tuple(phrases))
