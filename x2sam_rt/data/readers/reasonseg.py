"""Reasoning segmentation of images: ReasonSeg.

    <root>/<split>/<image>.jpg and <image>.json beside it

The JSON: "text" [question, …], "is_sentence" (else the texts are phrases), "shapes" [{label, points: [[x, y], …]}].
Shapes labelled "ignore…" mark what no figure counts, "flag" means nothing, all others make the mask, as the authors
read them; smaller shapes are painted over larger ones. Each text is an example, tagged "long query" or "short query".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers.annotated import AnnotatedExample
from x2sam_rt.data.readers.files import in_layout, read_frames, read_json
from x2sam_rt.errors import DataError
from x2sam_rt.media.types import BoolMask
from x2sam_rt.tasks.instruction import Instruction

_TARGET, _IGNORED = 1, 2
Points = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Shape:
    kind: Literal["target", "ignore"]
    points: Points


@dataclass(frozen=True)
class QuestionSample:
    name: str
    image: Path
    question: str
    tag: str
    shapes: tuple[Shape, ...]

    def load(self) -> Example:
        frames = read_frames(self.name, [self.image])
        target, ignored = _painted(self.shapes, frames.shape[1], frames.shape[2])
        return AnnotatedExample(
            name=self.name,
            media="image",
            frames=frames,
            instruction=Instruction("reasoning", question=self.question),
            conditions=1,
            targets=(Target(0, target[None], 0),),
            tags=frozenset({self.tag}),
            ignored=ignored[None] if ignored.any() else None,
        )


def read_reasonseg(root: Path, split: str) -> Dataset:
    """ReasonSeg (Lai et al., CVPR 2024): train, val, test. A phrase is asked for as its authors do: "What is … in this
    image?". Raises DataError."""
    folder = root / split
    images = sorted(folder.glob("*.jpg"))
    if not images:
        raise DataError(f"{folder}: holds no .jpg files. Check the data set's folder and the name of the split.")
    samples = [sample for image in images for sample in _samples(image, f"reasonseg/{split}/{image.stem}")]
    return Dataset("reasonseg", "giou", tuple(samples))


def _samples(image: Path, prefix: str) -> list[QuestionSample]:
    path = image.with_suffix(".json")
    document = _read(path)
    with in_layout(path, "ReasonSeg"):
        tag = "long query" if document["is_sentence"] else "short query"
        shapes = tuple(_shape(entry) for entry in document["shapes"] if entry["label"].lower() != "flag")
        texts = [str(text).strip() for text in document["text"]]
        if not texts or not all(texts):
            raise ValueError("no text, or an empty one")
        questions = texts if document["is_sentence"] else [f"What is {text} in this image?" for text in texts]
    return [
        QuestionSample(f"{prefix}/{number}", image, question, tag, shapes) for number, question in enumerate(questions)
    ]


def _read(path: Path) -> Any:
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


def _painted(shapes: tuple[Shape, ...], height: int, width: int) -> tuple[BoolMask, BoolMask]:
    """(target, ignored), (H, W) bool each. Outlines belong to their shape."""
    drawn = [(shape.kind, _filled(shape.points, height, width)) for shape in shapes]
    labels = np.zeros((height, width), dtype=np.uint8)
    for kind, mask in sorted(drawn, key=lambda one: -int(one[1].sum())):
        labels[mask] = _IGNORED if kind == "ignore" else _TARGET
    return labels == _TARGET, labels == _IGNORED


def _filled(points: Points, height: int, width: int) -> BoolMask:
    image = Image.new("L", (width, height))
    ImageDraw.Draw(image).polygon(points, fill=1, outline=1)
    return np.array(image, dtype=np.bool_)
