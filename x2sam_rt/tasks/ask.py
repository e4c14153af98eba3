"""What a user asks of a stream or an image."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from x2sam_rt.errors import PromptError
from x2sam_rt.model.language import MAX_NEW_TOKENS
from x2sam_rt.model.tokenizer import SEG
from x2sam_rt.runtime.postprocess.rule import PostProcessOptions
from x2sam_rt.tasks import TASKS, Instruction, Media, Wording, instruction, task
from x2sam_rt.tasks.regions import RegionPrompt


@dataclass(frozen=True, eq=False)
class Ask:
    """One instruction, as a user gives it.

    task: a name of the table of tasks. phrases: what to look for. things, stuff: category names. regions: visual
    prompts (`Prompt.point(…)`). question: free text (chat, reasoning). explain: have the answer explained.
    generate: let the model write its answer even where it is known beforehand. answer: take this text as the answer,
    with its `<p>phrases</p>` and `<SEG>` (a caption to ground). max_new_tokens: where a generated answer is cut off.
    """

    task: str = "referring"
    phrases: tuple[str, ...] = ()
    things: tuple[str, ...] = ()
    stuff: tuple[str, ...] = ()
    regions: tuple[RegionPrompt, ...] = ()
    question: str | None = None
    explain: bool = False
    generate: bool = False
    answer: str | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    options: PostProcessOptions = field(default_factory=PostProcessOptions)

    def instruction(self, media: Media, wording: Wording) -> Instruction:
        """Raises PromptError for what the task cannot be asked."""
        asked = instruction(
            task(self.task),
            media=media,
            phrases=self.phrases,
            things=self.things,
            stuff=self.stuff,
            regions=self.regions,
            question=self.question,
            explain=self.explain,
            generate=self.generate,
            wording=wording,
        )
        return asked if self.answer is None else _answered(asked, self.answer)


def _answered(asked: Instruction, answer: str) -> Instruction:
    if asked.task.draws_masks and SEG not in answer:
        raise PromptError(f"The given answer {answer!r} has no {SEG}, which masks are drawn for; put it at the end.")
    return replace(asked, answer=answer).answered(answer)


def as_ask(prompt: str | Ask) -> Ask:
    """A plain text asks for what it refers to. Raises PromptError for an empty text."""
    if isinstance(prompt, Ask):
        return prompt
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError(
            f'The prompt is {prompt!r}; wanted a phrase such as "the jumping boy", or an Ask for another task '
            f"({', '.join(TASKS)})."
        )
    return Ask(phrases=(prompt,))
