"""How clips are cut into the chunks that X2SAM was published with: a question and an empty memory each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

_FEWEST = 2  # frames: shorter chunks, and so videos of one frame, are never evaluated
_LANGUAGE_FRAMES = 4  # what the video processor's sampling leaves of a chunk: 2 frames a second of an assumed 24


@dataclass(frozen=True)
class Chunk:
    """number: among the chunks of its clip, from 0, dropped ones counted. frames: of the clip, from 0."""

    number: int
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Cutting:
    """mode: "stride": runs of `length` frames that follow each other; "span": frames spread over the whole clip, each
    chunk one frame later than the one before. Where `length` does not divide the clip, a span repeats some frames and
    never shows others.

    unlabelled: what becomes of frames without ground truth: "removed_first": the others are cut, so that a chunk may
    jump over gaps; "removed_after": they leave their chunk; "kept". needs_label: a chunk without any labelled frame is
    dropped. Chunks of one frame always are.
    Source: X2SAM's evaluation.
    """

    mode: Literal["stride", "span"] = "stride"
    length: int = 8
    unlabelled: Literal["removed_first", "removed_after", "kept"] = "kept"
    needs_label: bool = False

    def chunks(self, frames: int, labelled: Sequence[bool]) -> tuple[Chunk, ...]:
        """The chunks of a clip. frames: how many it has. labelled: which of them have ground truth."""
        first = self.unlabelled == "removed_first"
        listed = [index for index in range(frames) if labelled[index] or not first]
        pieces = [[listed[place] for place in run] for run in self._cut(len(listed))]
        if self.unlabelled == "removed_after":
            pieces = [[index for index in piece if labelled[index]] for piece in pieces]
        return tuple(
            Chunk(number, tuple(piece))
            for number, piece in enumerate(pieces)
            if len(piece) >= _FEWEST and (not self.needs_label or any(labelled[index] for index in piece))
        )

    def _cut(self, frames: int) -> list[range]:
        if self.mode == "stride":
            return [range(start, min(start + self.length, frames)) for start in range(0, frames, self.length)]
        step, count = max(1, frames // self.length), -(-frames // self.length)
        return [range(start, frames, step)[: self.length] for start in range(count)]


def sparse_language_frames(frames: int) -> tuple[int, ...]:
    """The frames of a chunk that the language model is shown for V-VGD and YouTube-VOS: at most 4, evenly spaced, halves
    rounded to the even number."""
    return tuple(np.linspace(0, frames - 1, min(_LANGUAGE_FRAMES, frames)).round().astype(int).tolist())
