"""What a user asks of a stream or an image."""

from __future__ import annotations

from dataclasses import dataclass

from x2sam_rt.errors import PromptError
from x2sam_rt.runtime.postprocess.options import PostProcessOptions
from x2sam_rt.runtime.prompts import RegionPrompt
from x2sam_rt.runtime.tasks import TASKS, Instruction, Media, Wording, instruction, task


@dataclass(frozen=True, eq=False)
class Ask:
    """One instruction, as a user gives it.

    task: a name of the table of tasks. phrases: what to look for. things, stuff: category names. regions: visual
    prompts (`Prompt.point(…)`). question: free text (chat, reasoning). explain: have the answer explained.
    generate: let the model write its answer even where it is known beforehand.
    """

    task: str = "referring"
    phrases: tuple[str, ...] = ()
    things: tuple[str, ...] = ()
    stuff: tuple[str, ...] = ()
    regions: tuple[RegionPrompt, ...] = ()
    question: str | None = None
    explain: bool = False
    generate: bool = False
    options: PostProcessOptions = PostProcessOptions()

    def instruction(self, media: Media, wording: Wording) -> Instruction:
        """Raises PromptError for what the task cannot be asked."""
        return instruction(
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
