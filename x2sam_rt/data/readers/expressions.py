"""Referring video object segmentation: Ref-DAVIS17 and Ref-YouTube-VOS.

    <root>/meta_expressions/<split>/meta_expressions.json
    <root>/<split>/JPEGImages/<video>/<frame>.jpg
    <root>/<split>/Annotations/<video>/<frame>.png       indexed; a pixel holds its object's number, 0 is background

The JSON: {"videos": {video: {"frames": [frame, …], "expressions": {number: {"exp": phrase, "obj_id": object}}}}}.
Ref-DAVIS17 is read after the conversion to this layout that its users have agreed on. Each expression is an example.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers.annotated import AnnotatedExample
from x2sam_rt.data.readers.files import in_layout, read_frames, read_indices, read_json
from x2sam_rt.errors import DataError
from x2sam_rt.tasks.instruction import Instruction

_VOID = 255  # DAVIS: pixels that no evaluation counts


@dataclass(frozen=True)
class ExpressionSample:
    """folder: of the split. object: its number in the masks."""

    name: str
    folder: Path
    video: str
    frames: tuple[str, ...]
    phrase: str
    object: int

    def load(self) -> Example:
        images, masks = self.folder / "JPEGImages" / self.video, self.folder / "Annotations" / self.video
        frames = read_frames(self.name, [images / f"{frame}.jpg" for frame in self.frames])
        size = frames.shape[1:3]
        indices = np.stack([read_indices(self.name, masks / f"{frame}.png", size) for frame in self.frames])
        target = Target(0, indices == self.object, self.object)
        if not target.masks.any():
            found = sorted(set(np.unique(indices).tolist()) - {0, _VOID})
            raise DataError(f"Example {self.name}: object {self.object} is in none of {masks}; there are {found}.")
        ignored = indices == _VOID
        return AnnotatedExample(
            name=self.name,
            media="video",
            frames=frames,
            instruction=Instruction("referring", phrases=(self.phrase,)),
            conditions=1,
            targets=(target,),
            ignored=ignored if ignored.any() else None,
        )


def read_ref_davis17(root: Path, split: str) -> Dataset:
    """Ref-DAVIS17 (Khoreva et al., ACCV 2018). Raises DataError."""
    return _read("ref-davis17", root, split)


def read_ref_youtube_vos(root: Path, split: str) -> Dataset:
    """Ref-YouTube-VOS (Seo et al., ECCV 2020); only "train" was published with masks. Raises DataError."""
    return _read("ref-youtube-vos", root, split)


def _read(name: str, root: Path, split: str) -> Dataset:
    path = root / "meta_expressions" / split / "meta_expressions.json"
    document = read_json(path)
    if not (root / split / "Annotations").is_dir():
        raise DataError(
            f"{root / split}: has no Annotations folder, so the split {split!r} has no ground truth here (that of "
            "Ref-YouTube-VOS's valid and test is not public). Use a split that has."
        )
    with in_layout(path, name):
        samples = [
            _sample(f"{name}/{split}/{video}/{number}", root / split, video, entry["frames"], expression)
            for video, entry in document["videos"].items()
            for number, expression in entry["expressions"].items()
        ]
    return Dataset(name, "j_and_f", tuple(samples))


def _sample(name: str, folder: Path, video: str, frames: list[str], expression: dict[str, Any]) -> ExpressionSample:
    if "obj_id" not in expression:
        raise DataError(f"Example {name}: does not say which object is meant (obj_id), so it has no ground truth.")
    phrase = str(expression["exp"]).strip()
    if not phrase:
        raise DataError(f"Example {name}: its expression is empty.")
    return ExpressionSample(name, folder, video, tuple(map(str, frames)), phrase, int(expression["obj_id"]))
