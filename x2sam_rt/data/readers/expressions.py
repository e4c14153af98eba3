"""Videos and what is said about something in them: Ref-YouTube-VOS, Ref-DAVIS17, ReVOS, MeViS.

Ref-YouTube-VOS (X2SAM: vid_refseg/ytrvos21), and Ref-DAVIS17 as converted to its layout:

    <root>/meta_expressions/<split>/meta_expressions.json
    <root>/<split>/JPEGImages/<video>/<frame>.jpg
    <root>/<split>/Annotations/<video>/<frame>.png                      indexed; a pixel holds its object's number
    <root>/<split>/Annotations/<video>/<expression>/<frame>.png         or 0/255, a file per expression and frame;
                                                                        none where the object is out of sight

The JSON: {"videos": {video: {"frames": [frame, …], "expressions": {number: {"exp": phrase, "obj_id": object}}}}}.
Videos without any obj_id are left out.

Ref-DAVIS17 as published (X2SAM: vid_refseg/davis17, frames in davis_supervised):

    <root>/davis_text_annotations/Davis17_annot{1,2}{,_full_video}.txt      lines: video, object, "phrase"
    <root>/ImageSets/2017/val.txt                                           below DAVIS/ or davis_supervised/, too
    <root>/JPEGImages/480p/<video>/<frame>.jpg, Annotations/480p/<video>/<frame>.png

All four files together are the expressions, by object (X2SAM), unless meta_expressions are there: then these.

ReVOS (X2SAM: vid_reaseg/revos) and MeViS (a folder per split), whose expressions may mean several objects:

    <root>/meta_expressions_<split>_.json, mask_dict.json       or below annotations/; MeViS: <split>/…, and without _
    <root>/JPEGImages/<video>/<frame>.jpg                       MeViS: <split>/JPEGImages
    expressions: {number: {"exp": phrase, "anno_id": [annotation, …]}}; mask_dict: {annotation: [run lengths or null
    per frame]}

Each expression is an example. A ReVOS expression that ends with "?" is a question to reason about, as X2SAM has it, and
tagged "reasoning"; the others "referring".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from x2sam_rt.data.example import Example, IdMasks, Target
from x2sam_rt.data.readers.annotated import AnnotatedExample
from x2sam_rt.data.readers.files import Frames, frame_file, in_layout, list_frames, read_json
from x2sam_rt.data.readers.folders import DataFolder
from x2sam_rt.data.readers.masks import (
    VOID,
    PackedMasks,
    read_indices,
    read_resized_indices,
    require_object,
    segmentation_mask,
)
from x2sam_rt.data.readers.sample import Contents, FileSample
from x2sam_rt.errors import DataError
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.published import category_name

REASONING, REFERRING = "reasoning", "referring"
_DAVIS_LISTS = ("Davis17_annot1", "Davis17_annot1_full_video", "Davis17_annot2", "Davis17_annot2_full_video")
_DAVIS_PLACES = ("davis_supervised/{kind}/480p", "DAVIS/{kind}/480p", "{kind}/480p")
_DAVIS_LINE = re.compile(r'(\S+)\s+(\d+)\s+"(.*)"\s*')


@dataclass(frozen=True, eq=False)
class ObjectSample(FileSample):
    """An object by its number in the indexed PNGs of a folder."""

    folder: Path
    phrase: str
    object: int

    def labels(self) -> tuple[Path, ...]:
        return tuple(self.folder / f"{image.stem}.png" for image in self.images)

    def example(self, frames: Frames) -> Example:
        indices = np.stack([read_indices(frames, frame, path) for frame, path in enumerate(self.labels())])
        require_object(self.name, indices, self.object, self.folder)
        ignored = indices == VOID
        return AnnotatedExample(
            name=self.name,
            media="video",
            frames=frames.pixels,
            instruction=Instruction("referring", phrases=(self.phrase,)),
            conditions=1,
            targets=(Target(0, IdMasks(indices, self.object), self.object),),
            ignored=ignored if ignored.any() else None,
        )


@dataclass(frozen=True, eq=False)
class MaskFileSample(FileSample):
    """An object by PNGs of its own, in a folder: not zero is inside; a frame without a file does not show it."""

    folder: Path
    phrase: str
    object: int

    def labels(self) -> tuple[Path, ...]:
        return tuple(path for image in self.images if (path := self.folder / f"{image.stem}.png").is_file())

    def example(self, frames: Frames) -> Example:
        there = {path.stem: path for path in self.labels()}
        if not there:
            raise DataError(f"Example {self.name}: {self.folder} holds no mask of its frames (<frame>.png).")
        masks = np.zeros(frames.pixels.shape[:3], dtype=np.bool_)
        for frame, image in enumerate(self.images):
            if image.stem in there:
                masks[frame] = read_resized_indices(frames, frame, there[image.stem]) != 0
        return Example(
            name=self.name,
            media="video",
            frames=frames.pixels,
            instruction=Instruction("referring", phrases=(self.phrase,)),
            conditions=1,
            targets=(Target(0, PackedMasks.of(masks), self.object),),
        )


@dataclass(frozen=True, eq=False)
class ExpressionSample(FileSample):
    """Objects by their run lengths in a file: per object, one entry per frame. text: as it is asked."""

    origin: Path
    text: str
    tracks: Mapping[int, Sequence[Any]]
    task: str
    tag: str | None

    def example(self, frames: Frames) -> Example:
        question = self.text if self.tag == REASONING else None
        return Example(
            name=self.name,
            media="video",
            frames=frames.pixels,
            instruction=Instruction(self.task, phrases=() if question else (self.text,), question=question),
            conditions=1,
            targets=tuple(Target(0, self._masks(frames, id), id) for id in self.tracks),
            tags=frozenset() if self.tag is None else frozenset({self.tag}),
        )

    def _masks(self, frames: Frames, id: int) -> PackedMasks:
        what = f"{self.origin}, annotation {id}"
        return PackedMasks.of(
            segmentation_mask(frames, frame, entry, what) for frame, entry in enumerate(self.tracks[id])
        )


def read_ref_youtube_vos(folder: DataFolder) -> Contents:
    """Ref-YouTube-VOS (Seo et al., ECCV 2020). Raises DataError."""
    return _read_meta(folder, ("{split}/{kind}",))


def read_ref_davis17(folder: DataFolder) -> Contents:
    """Ref-DAVIS17 (Khoreva et al., ACCV 2018): valid. Raises DataError."""
    if folder.look("meta_expressions") is not None or folder.look("davis_text_annotations") is None:
        return _read_meta(folder, ("{split}/{kind}", *_DAVIS_PLACES))
    images, masks = (folder.find(kind, *_places(_DAVIS_PLACES, kind)) for kind in ("JPEGImages", "Annotations"))
    samples = [
        ObjectSample(folder.example(video, number), list_frames(images / video), masks / video, phrase, object)
        for video, phrases in _davis_expressions(folder, _davis_videos(folder)).items()
        for number, (object, phrase) in enumerate(phrases)
    ]
    return Contents(tuple(samples))


def _places(patterns: Sequence[str], kind: str) -> list[str]:
    return [pattern.replace("{kind}", kind) for pattern in patterns]


def _davis_videos(folder: DataFolder) -> list[str]:
    short = {"valid": "val"}.get(folder.split, folder.split)
    places = (
        f"{inner}/ImageSets/2017/{short}.txt" for inner in (".", "DAVIS", "davis_supervised", "davis_unsupervised")
    )
    return folder.find("list of videos", *places).read_text(encoding="utf-8").split()


def _davis_expressions(folder: DataFolder, videos: Sequence[str]) -> dict[str, list[tuple[int, str]]]:
    """Object and phrase, by object, of each video."""
    found: dict[str, list[tuple[int, str]]] = {video: [] for video in videos}
    for name in _DAVIS_LISTS:
        path = folder.find("expressions", f"davis_text_annotations/{name}.txt")
        for number, text in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines()):
            if not text.strip():
                continue
            if (line := _DAVIS_LINE.fullmatch(text.strip())) is None:
                raise DataError(f'{path}, line {number + 1}: found {text!r}; wanted a video, an object and a "phrase".')
            if line[1] in found:
                found[line[1]].append((int(line[2]), _checked(line[3], f"{path}, line {number + 1}")))
    return {video: sorted(phrases, key=lambda one: one[0]) for video, phrases in found.items()}


def _read_meta(folder: DataFolder, places: Sequence[str]) -> Contents:
    """places: where frames and masks may be, with {kind} for what."""
    spelled = ("valid", "val") if folder.split in ("valid", "val") else (folder.split,)
    path = folder.find("expressions", *(f"meta_expressions/{split}/meta_expressions.json" for split in spelled))
    document = read_json(path)
    frames = folder.find("frames", *_places(places, "JPEGImages"))
    if (truth := folder.look(*_places(places, "Annotations"))) is None:
        raise DataError(
            f"{frames.parent}: has no Annotations folder, so the split {folder.split!r} has no ground truth here. "
            "Fetch its masks, or use a split that has."
        )
    samples: list[FileSample] = []
    with in_layout(path, folder.name):
        told = {video: entry for video, entry in document["videos"].items() if _says_which(entry["expressions"])}
        if document["videos"] and not told:
            raise DataError(f"{path}: does not say which objects are meant (obj_id), so the split has no ground truth.")
        for video, entry in told.items():
            files = tuple(frame_file(frames / video, str(frame)) for frame in entry["frames"])
            samples.extend(_objects(folder, video, files, truth / video, entry["expressions"]))
    return Contents(tuple(samples))


def _says_which(expressions: Mapping[str, Any]) -> bool:
    """Videos of the valid split whose truth was kept back do not (X2SAM leaves them out)."""
    return any("obj_id" in expression for expression in expressions.values())


def _objects(
    folder: DataFolder, video: str, files: tuple[Path, ...], masks: Path, expressions: Mapping[str, Any]
) -> Iterator[FileSample]:
    by_expression = any((masks / number).is_dir() for number in expressions)
    for number, expression in expressions.items():
        name = folder.example(video, number)
        phrase = _checked(expression["exp"], f"Example {name}")
        if "obj_id" not in expression:
            raise DataError(f"Example {name}: does not say which object is meant (obj_id), so it has no ground truth.")
        if by_expression:
            yield MaskFileSample(name, files, masks / number, phrase, int(expression["obj_id"]))
        else:
            yield ObjectSample(name, files, masks, phrase, int(expression["obj_id"]))


def read_revos(folder: DataFolder) -> Contents:
    """ReVOS (Yan et al., ECCV 2024). Raises DataError."""
    names = ("meta_expressions_{split}_.json", "meta_expressions_{split}.json")
    path = folder.find("expressions", *names, *(f"annotations/{name}" for name in names))
    masks = folder.find("masks", "mask_dict.json", "annotations/mask_dict.json")
    found = _read_tracks(folder, path, masks, folder.find("frames", "JPEGImages"), "reasoning")
    chosen = [sample for sample in found if folder.part in ("", sample.tag)]
    return Contents(tuple(chosen))


def read_mevis(folder: DataFolder) -> Contents:
    """MeViS (Ding et al., ICCV 2023): train, valid_u. Raises DataError."""
    path = folder.find("expressions", "{split}/meta_expressions.json")
    masks = folder.find("masks (only train and valid_u were published with them)", "{split}/mask_dict.json")
    return Contents(tuple(_read_tracks(folder, path, masks, folder.find("frames", "{split}/JPEGImages"), "referring")))


def _read_tracks(folder: DataFolder, path: Path, masks: Path, images: Path, task: str) -> list[ExpressionSample]:
    document, segmentations = read_json(path), read_json(masks)
    samples = []
    with in_layout(path, folder.name):
        for video, entry in document["videos"].items():
            files = tuple(frame_file(images / video, str(frame)) for frame in entry["frames"])
            for number, expression in entry["expressions"].items():
                name = folder.example(video, number)
                text = _checked(expression["exp"], f"Example {name}")
                tag = None
                if task == "reasoning":
                    tag = REASONING if text.endswith("?") else REFERRING
                    text = category_name(text)
                tracks = {
                    int(id): _track(segmentations, str(id), len(files), f"Example {name}: {masks}")
                    for id in expression["anno_id"]
                }
                samples.append(ExpressionSample(name, files, masks, text, tracks, task, tag))
    return samples


def _track(segmentations: Mapping[str, Any], id: str, frames: int, origin: str) -> Sequence[Any]:
    if id not in segmentations:
        raise DataError(f"{origin}: has no annotation {id}, which the expression means.")
    track: Sequence[Any] = segmentations[id]
    if len(track) != frames:
        raise DataError(f"{origin}: annotation {id} has masks for {len(track)} frames; wanted {frames}.")
    return track


def _checked(text: Any, origin: str) -> str:
    phrase = str(text).strip()
    if not phrase:
        raise DataError(f"{origin}: the expression is empty.")
    return phrase
