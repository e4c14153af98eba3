"""Referring segmentation of images: RefCOCO, RefCOCO+ and RefCOCOg.

    <root>/<data set>/refs(<who split it>).json      refcoco and refcoco+: unc; refcocog: umd or google
    <root>/<data set>/instances.json
    <root>/images/mscoco/images/train2014/<image's file name>      or <root>/train2014/…

The refs are published as a pickle, which can run any code when it is opened, so it is not read; see `_CONVERT`. They
are a list of {ref_id, ann_id, image_id, split, sentences: [{sent_id, sent}]}; instances.json is COCO's. Each sentence
is an example.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers.files import in_layout, read_frames, read_json
from x2sam_rt.data.readers.segmentation import decode_segmentation
from x2sam_rt.errors import DataError
from x2sam_rt.tasks.instruction import Instruction

Entry = TypeVar("Entry")
_IMAGES = ("images/mscoco/images/train2014", "train2014")
_CONVERT = (
    'Where nothing can be harmed, and only if you trust its source, convert it once: python -c "import json, pickle; '
    "json.dump(pickle.load(open('{name}.p', 'rb')), open('{name}.json', 'w'))\""
)


@dataclass(frozen=True, eq=False)
class SentenceSample:
    """segmentation: as it stands in `origin`."""

    name: str
    origin: Path
    image: Path
    phrase: str
    annotation: int
    segmentation: Any

    def load(self) -> Example:
        frames = read_frames(self.name, [self.image])
        try:
            mask = decode_segmentation(self.segmentation, frames.shape[1], frames.shape[2])
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"Example {self.name}: {self.origin}, annotation {self.annotation}: {error}.") from error
        return Example(
            name=self.name,
            media="image",
            frames=frames,
            instruction=Instruction("referring", phrases=(self.phrase,)),
            conditions=1,
            targets=(Target(0, mask[None], self.annotation),),
        )


def read_refcoco(root: Path, split: str) -> Dataset:
    """RefCOCO (Yu et al., ECCV 2016): train, val, testA, testB. Raises DataError."""
    return _read("refcoco", root, split)


def read_refcoco_plus(root: Path, split: str) -> Dataset:
    """RefCOCO+, without words for places: train, val, testA, testB. Raises DataError."""
    return _read("refcoco+", root, split)


def read_refcocog(root: Path, split: str) -> Dataset:
    """RefCOCOg (Mao et al., CVPR 2016), with longer phrases: train, val, test (umd). Raises DataError."""
    return _read("refcocog", root, split)


def _read(name: str, root: Path, split: str) -> Dataset:
    path, origin = _refs_file(root / name), root / name / "instances.json"
    refs, instances = read_json(path), read_json(origin)
    folder = _images_folder(root)
    with in_layout(origin, "COCO instances"):
        annotations = {entry["id"]: entry for entry in instances["annotations"]}
        images = {entry["id"]: folder / entry["file_name"] for entry in instances["images"]}
    with in_layout(path, "the refs of RefCOCO"):
        chosen = [ref for ref in refs if ref["split"] == split]
        if not chosen:
            raise DataError(f"{path}: has no split {split!r}; there are {sorted({ref['split'] for ref in refs})}.")
        samples = [
            sample
            for ref in chosen
            for sample in _samples(f"{name}/{split}", ref, _known(annotations, ref["ann_id"], origin), images, origin)
        ]
    return Dataset(name, "giou", tuple(samples))


def _samples(
    prefix: str, ref: dict[str, Any], annotation: dict[str, Any], images: Mapping[int, Path], origin: Path
) -> Iterator[SentenceSample]:
    image = _known(images, annotation["image_id"], origin)
    for sentence in ref["sentences"]:
        name = f"{prefix}/{ref['ref_id']}/{sentence['sent_id']}"
        phrase = str(sentence["sent"]).strip()
        if not phrase:
            raise DataError(f"Example {name}: its sentence is empty.")
        yield SentenceSample(name, origin, image, phrase, int(annotation["id"]), annotation["segmentation"])


def _known(entries: Mapping[int, Entry], id: int, origin: Path) -> Entry:
    if id not in entries:
        raise DataError(f"{origin}: has no entry {id}, which the refs speak of.")
    return entries[id]


def _refs_file(folder: Path) -> Path:
    found = sorted(folder.glob("refs*.json"))
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise DataError(f"{folder}: holds several lists of refs ({names}); keep the one to measure by.")
    if pickles := sorted(folder.glob("refs*.p")):
        raise DataError(
            f"{pickles[0]}: is a pickle, which can run any code when it is opened, so it is not read. "
            + _CONVERT.format(name=pickles[0].with_suffix(""))
        )
    raise DataError(f"{folder}: holds no refs(….).json. Check the data set's folder.")


def _images_folder(root: Path) -> Path:
    for folder in _IMAGES:
        if (root / folder).is_dir():
            return root / folder
    raise DataError(f"{root}: COCO's images are in none of {', '.join(_IMAGES)}. Put train2014 there.")
