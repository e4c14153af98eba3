"""What a task is: how its question is made, whether its answer is known, and how its logits become masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from x2sam_rt.runtime.postprocess.rule import OneThread, PostProcessOptions
from x2sam_rt.tasks.wording import TaskWording

if TYPE_CHECKING:
    from x2sam_rt.runtime.postprocess.rule import PostProcessor
    from x2sam_rt.tasks.instruction import Asked, Instruction, Request

Media = Literal["image", "video"]
Argument = Literal["phrases", "things", "stuff", "regions", "question"]
MakePostProcessor = Callable[["Instruction", PostProcessOptions, Tensor | None], "PostProcessor"]


@dataclass(frozen=True)
class Task:
    """One row of the table of tasks.

    takes: the arguments of a request it can use. build: what to put into the wording's placeholders, and the
    conditions this gives. threshold: the score a result must reach, unless the options say otherwise.
    postprocess: makes a fresh post-processor for one session; None where no masks are drawn.
    """

    name: str
    description: str
    media: tuple[Media, ...]
    takes: tuple[Argument, ...]
    wording: TaskWording
    build: Callable[[Request], Asked]
    postprocess: MakePostProcessor | None = None
    threshold: float = 0.0

    @property
    def answer_known(self) -> bool:
        return self.wording.answer is not None

    @property
    def draws_masks(self) -> bool:
        return self.postprocess is not None

    def postprocessor(
        self, instruction: Instruction, options: PostProcessOptions, prompt_masks: Tensor | None = None
    ) -> PostProcessor:
        """A post-processor with a state of its own: one per session and instruction.

        prompt_masks: (regions, S, S), bool or any numbers (non-zero = inside), in the segmentor's input grid;
        needed by the tasks that compare results with the prompt, ignored by the others.
        """
        assert self.postprocess is not None, f"{self.name} draws no masks"
        return OneThread(self.postprocess(instruction, options.resolved(self.threshold), prompt_masks))
