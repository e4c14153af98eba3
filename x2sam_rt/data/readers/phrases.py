"""Images and what is said about something in them: RefCOCO, RefCOCO+, RefCOCOg, gRefCOCO, ReasonSeg.

The RefCOCO family (X2SAM: img_refseg/refcocos):

    <root>/<data set>/refs(<who split it>).p or .json     refcoco, refcoco+ and grefcoco: unc; refcocog: umd;
                                                          refcoco+ may lie in refcocop, grefcoco have grefs(unc)
    <root>/<data set>/instances.json                      COCO's
    <root>/images/mscoco/images/train2014/<image>.jpg     or images/train2014, train2014

The refs: a list of {ref_id, ann_id, image_id, split, sentences: [{sent}]}. Their pickle is opened by a reader that
runs nothing. For every annotation, each different sentence in lower case is an example (X2SAM); in gRefCOCO, for every
ref, which may mean several annotations or none (ann_id −1): it is then tagged "no target".

ReasonSeg (X2SAM: img_reaseg/lisa):

    <root>/<split>/<image>.jpg and <image>.json beside it

The JSON: "text" [question, …], "is_sentence" (else the texts are phrases), "shapes" [{label, points: [[x, y], …]}].
Shapes labelled "ignore…" mark what no figure counts, "flag" means nothing, all others make the mask, as the authors
read them; smaller shapes are painted over larger ones. Each text is an example, tagged "long" if it is a sentence,
else "short"; images in which nothing is marked are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from x2sam_rt.data.drawing import polygon
from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers.annotated import AnnotatedExample
from x2sam_rt.data.readers.files import Frames, frame_file, in_layout, list_frames, read_json, read_plain_pickle
from x2sam_rt.data.readers.folders import DataFolder
from x2sam_rt.data.readers.masks import PackedMasks, segmentation_mask
from x2sam_rt.data.readers.sample import Contents, FileSample
from x2sam_rt.errors import DataError
from x2sam_rt.media.types import BoolMask
from x2sam_rt.tasks.instruction import Instruction

Entry = TypeVar("Entry")
Points = tuple[tuple[int, int], ...]
NO_TARGET, LONG, SHORT = "no target", "long", "short"
_TARGET, _IGNORED = 1, 2
_SPLIT_BY = {"refcocog": "umd"}  # the others: unc. RefCOCOg's split by google has no test, and images of val in train


@dataclass(frozen=True, eq=False)
class PhraseSample(FileSample):
    """origin: the file of the annotations, by number, as they stand there."""

    origin: Path
    phrase: str
    annotations: Mapping[int, Any]

    def example(self, frames: Frames) -> Example:
        masks = {
            id: segmentation_mask(frames, 0, segmentation, f"{self.origin}, annotation {id}")
            for id, segmentation in self.annotations.items()
        }
        return Example(
            name=self.name,
            media="image",
            frames=frames.pixels,
            instruction=Instruction("referring", phrases=(self.phrase,)),
            conditions=1,
            targets=tuple(Target(0, PackedMasks.of([mask]), id) for id, mask in masks.items()),
            tags=frozenset() if masks else frozenset({NO_TARGET}),
        )


def read_refcoco(folder: DataFolder) -> Contents:
    """RefCOCO (Yu et al., ECCV 2016), RefCOCO+ (without words for places), RefCOCOg (Mao et al., CVPR 2016; longer
    phrases). Raises DataError."""
    origin, entries, images, refs = _read_refs(folder)
    sentences: dict[int, set[str]] = {}
    for ref, phrases in refs:
        sentences.setdefault(int(ref["ann_id"]), set()).update(phrases)
    samples = []
    for id, phrases in sentences.items():
        entry = _known(entries, id, origin)
        image = _known(images, entry["image_id"], origin)
        for number, phrase in enumerate(sorted(phrases)):
            name = folder.example(id, number)
            samples.append(PhraseSample(name, (image,), origin, phrase, {id: entry["segmentation"]}))
    return Contents(tuple(samples))


def read_grefcoco(folder: DataFolder) -> Contents:
    """gRefCOCO (Liu et al., CVPR 2023): phrases that mean several things, or nothing. Raises DataError."""
    origin, entries, images, refs = _read_refs(folder)
    samples = []
    for ref, phrases in refs:
        ids = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        meant = {int(id): _known(entries, int(id), origin)["segmentation"] for id in ids if int(id) > 0}
        image = _known(images, ref["image_id"], origin)
        for number, phrase in enumerate(sorted(phrases)):
            samples.append(PhraseSample(folder.example(ref["ref_id"], number), (image,), origin, phrase, meant))
    return Contents(tuple(samples))


Refs = list[tuple[Mapping[str, Any], set[str]]]


def _read_refs(folder: DataFolder) -> tuple[Path, dict[int, Any], dict[int, Path], Refs]:
    """The file of annotations, its annotations and images by number, and the split's refs with their phrases."""
    inner = replace(folder, root=_inner(folder))
    path, origin = _refs_file(inner), inner.find("annotations", "instances.json")
    refs, instances = read_json(path) if path.suffix == ".json" else read_plain_pickle(path), read_json(origin)
    photographs = folder.find("COCO images", "images/mscoco/images/train2014", "images/train2014", "train2014")
    with in_layout(origin, "COCO instances"):
        entries = {entry["id"]: entry for entry in instances["annotations"]}
        images = {entry["id"]: frame_file(photographs, entry["file_name"]) for entry in instances["images"]}
    with in_layout(path, "the refs of RefCOCO"):
        chosen = [(ref, _phrases(path, ref)) for ref in refs if ref["split"] == folder.split]
        if not chosen:
            splits = sorted({ref["split"] for ref in refs})
            raise DataError(f"{path}: has no split {folder.split!r}; there are {splits}.")
    return origin, entries, images, chosen


def _phrases(path: Path, ref: Mapping[str, Any]) -> set[str]:
    phrases = {str(sentence["sent"]).strip().lower() for sentence in ref["sentences"]}
    if "" in phrases:
        raise DataError(f"{path}: ref {ref['ref_id']}: a sentence is empty.")
    return phrases


def _inner(folder: DataFolder) -> Path:
    names = {"refcoco+": ("refcoco+", "refcocop")}.get(folder.name, (folder.name,))
    return folder.find("folder", *names)


def _refs_file(folder: DataFolder) -> Path:
    by = _SPLIT_BY.get(folder.name, "unc")
    stems = [f"refs({by})", f"grefs({by})"] if folder.name == "grefcoco" else [f"refs({by})"]
    return folder.find("refs", *(stem + suffix for stem in stems for suffix in (".json", ".p")))


def _known(entries: Mapping[int, Entry], id: int, origin: Path) -> Entry:
    if id not in entries:
        raise DataError(f"{origin}: has no entry {id}, which the refs speak of.")
    return entries[id]


@dataclass(frozen=True)
class Shape:
    kind: Literal["target", "ignore"]
    points: Points


@dataclass(frozen=True, eq=False)
class QuestionSample(FileSample):
    text: str
    is_sentence: bool
    shapes: tuple[Shape, ...]

    def example(self, frames: Frames) -> Example:
        target, ignored = (frames.upright(0, mask, self.name) for mask in _painted(self.shapes, *frames.stored_size(0)))
        return AnnotatedExample(
            name=self.name,
            media="image",
            frames=frames.pixels,
            instruction=Instruction("reasoning", question=self.text)
            if self.is_sentence
            else Instruction("reasoning", phrases=(self.text,)),
            conditions=1,
            targets=(Target(0, target[None], 0),),
            tags=frozenset({LONG if self.is_sentence else SHORT}),
            ignored=ignored[None] if ignored.any() else None,
        )


def read_reasonseg(folder: DataFolder) -> Contents:
    """ReasonSeg (Lai et al., CVPR 2024): train, val, test. Raises DataError."""
    images = list_frames(place := folder.find("folder", "{split}"))
    if not images:
        raise DataError(f"{place}: holds no images. Check the data set's folder and the name of the split.")
    samples = [sample for image in images for sample in _questions(folder, image)]
    chosen = [sample for sample in samples if not folder.part or sample.is_sentence == (folder.part == LONG)]
    return Contents(tuple(chosen))


def _questions(folder: DataFolder, image: Path) -> Iterator[QuestionSample]:
    path = image.with_suffix(".json")
    document = _read_shapes(path)
    with in_layout(path, "ReasonSeg"):
        shapes = tuple(_shape(entry) for entry in document["shapes"] if entry["label"].lower() != "flag")
        texts = [str(text).strip() for text in document["text"]]
        if not texts or not all(texts):
            raise ValueError("no text, or an empty one")
        is_sentence = bool(document["is_sentence"])
    if any(shape.kind == "target" for shape in shapes):
        for number, text in enumerate(texts):
            yield QuestionSample(folder.example(image.stem, number), (image,), text, is_sentence, shapes)


def _read_shapes(path: Path) -> Any:
    """Some of the published files are in Windows's encoding."""
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return read_json(path, "cp1252")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); each image has one.") from error
    return read_json(path)


def _shape(entry: dict[str, Any]) -> Shape:
    if len(entry["points"]) < 3:
        raise ValueError(f"a shape of {len(entry['points'])} points; wanted at least 3")
    points = tuple((int(x), int(y)) for x, y in entry["points"])
    return Shape("ignore" if "ignore" in entry["label"].lower() else "target", points)


def _painted(shapes: Sequence[Shape], height: int, width: int) -> tuple[BoolMask, BoolMask]:
    """(target, ignored), (H, W) bool each. Outlines belong to their shape."""
    drawn = [(shape.kind, polygon(shape.points, height, width)) for shape in shapes]
    labels = np.zeros((height, width), dtype=np.uint8)
    for kind, mask in sorted(drawn, key=lambda one: -int(one[1].sum())):
        labels[mask] = _IGNORED if kind == "ignore" else _TARGET
    return labels == _TARGET, labels == _IGNORED
