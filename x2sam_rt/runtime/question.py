"""A question to the language model: an instruction with all that was said when it was asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from x2sam_rt.errors import SnapshotError
from x2sam_rt.runtime.growing_text import OnText
from x2sam_rt.runtime.language import Answer
from x2sam_rt.runtime.prompt_frames import PromptFrames, RecentFrame, require_pixels
from x2sam_rt.tasks.instruction import Instruction

OnAnswer = Callable[[Answer, int], None]


@dataclass(frozen=True, eq=False)
class Question:
    """An instruction with all that was said when it was asked. frames: None = those of the stream. again: the policy's
    own, not a user's. corrects: is the one in force with other visual prompts."""

    instruction: Instruction
    frames: PromptFrames | None = None
    keep_memory: bool = True
    on_text: OnText | None = None
    on_answer: OnAnswer | None = None
    again: bool = False
    corrects: bool = False


@dataclass(frozen=True, eq=False)
class QuestionState:
    """A question without what it told of its answer, which no file can hold. shown: the frames it is answered on, None
    where the stream's are meant; drawn_on: those of its regions."""

    instruction: Instruction
    shown: tuple[Tensor, ...] | None
    drawn_on: tuple[RecentFrame, ...]
    keep_memory: bool
    again: bool
    corrects: bool = False

    @classmethod
    def of(cls, question: Question, *, answered: bool = False) -> QuestionState:
        """answered: what is kept is what the question is asked again with."""
        frames, regions = question.frames or PromptFrames((), {}), question.instruction.regions
        at_hand = {region.frame for region in regions} & frames.by_index.keys()
        return cls(
            question.instruction,
            None if question.frames is None else () if answered else frames.frames,
            tuple(RecentFrame(index, frames.by_index[index]) for index in sorted(at_hand)),
            question.keep_memory,
            question.again,
            question.corrects,
        )

    def question(self, place: torch.device) -> Question:
        """Raises SnapshotError for frames that are none."""
        for pixels in (*(self.shown or ()), *(frame.pixels for frame in self.drawn_on)):
            require_pixels(pixels)
        by_index = {frame.index: frame.pixels.to(place) for frame in self.drawn_on}
        frames = None
        if self.shown is not None:
            frames = PromptFrames(tuple(pixels.to(place) for pixels in self.shown), by_index)
        return Question(self.instruction, frames, self.keep_memory, again=self.again, corrects=self.corrects)

    def asked(self, place: torch.device) -> Question:
        """One that knows its frames, since it was asked. Raises SnapshotError where it has none."""
        if self.shown is None:
            raise SnapshotError("A question that was asked lacks the frames it was asked on.")
        return self.question(place)
