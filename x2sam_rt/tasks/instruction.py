"""An instruction: everything the language model and the post-processing must know about what is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from x2sam_rt.errors import PromptError
from x2sam_rt.tasks.marks import link
from x2sam_rt.tasks.regions import RegionPrompt
from x2sam_rt.tasks.task import Argument, Media, Task
from x2sam_rt.tasks.wording import SEG, Wording

REGION = "<region>"
# Tokens with a meaning of their own, and the beginning of the chat's control tokens.
_MARKS = ("<p>", "</p>", SEG, "<|")


@dataclass(frozen=True)
class Request:
    """What a user asked for, checked only for what the task takes."""

    phrases: tuple[str, ...]
    things: tuple[str, ...]
    stuff: tuple[str, ...]
    regions: tuple[RegionPrompt, ...]
    question: str | None


@dataclass(frozen=True)
class Asked:
    """What a task makes of a request: texts for the wording's placeholders, and one label per condition."""

    values: Mapping[str, str]
    labels: tuple[str, ...] = ()
    is_thing: tuple[bool, ...] = field(default=())


@dataclass(frozen=True)
class Instruction:
    """question: stands after the vision block, with <p>…</p> and <region>, without chat markup.

    answer: the answer known beforehand, with its <SEG>; None = the model must generate it. labels, is_thing: one
    per condition, in the order of the question's <p>…</p>; () when the phrases come from the generated text.
    regions: one per <region>, in order.
    """

    task: Task
    question: str
    answer: str | None
    labels: tuple[str, ...]
    is_thing: tuple[bool, ...]
    regions: tuple[RegionPrompt, ...]

    def answered(self, text: str) -> Instruction:
        """This instruction once the answer is generated: its phrases, if any, are the conditions (X2SAM)."""
        phrases = link(text).phrases
        return replace(self, labels=phrases, is_thing=(True,) * len(phrases)) if phrases else self


def instruction(
    task: Task,
    *,
    media: Media,
    phrases: Sequence[str] = (),
    things: Sequence[str] = (),
    stuff: Sequence[str] = (),
    regions: Sequence[RegionPrompt] = (),
    question: str | None = None,
    explain: bool = False,
    generate: bool = False,
    wording: Wording,
) -> Instruction:
    """Puts a request into words. Raises PromptError for whatever cannot be asked.

    phrases: what to look for, each a condition of its own. things, stuff: category names. regions: visual prompts;
    a text may say where one is meant with "<region>". question: free text (chat, reasoning). explain: ask for an
    explanation too, which is generated. generate: let the model find its answer where it would be known.
    """
    for name, texts in (("phrases", phrases), ("things", things), ("stuff", stuff)):
        if isinstance(texts, str):
            raise PromptError(f"{name}={texts!r}: a list of texts is wanted, such as [{texts!r}].")
    request = Request(tuple(phrases), tuple(things), tuple(stuff), tuple(regions), question)
    _check_media(task, media)
    _check_arguments(task, request)
    words = wording[task.name]
    template = words.explained if explain else words.question
    if template is None:
        raise PromptError(f"{task.name} cannot explain: explain=True is for reasoning.")
    asked = task.build(request)
    text = template.format(media=media, **asked.values)
    _check_regions(text, request)
    answer = None if explain or generate else words.answer
    return Instruction(task, text, answer, asked.labels, asked.is_thing, request.regions)


def check_text(text: str, what: str) -> str:
    """The text without blanks around it. Raises PromptError when nothing is left or a control mark is in it."""
    stripped = text.strip()
    if not stripped:
        raise PromptError(f"An empty {what}: say what is meant.")
    for mark in _MARKS:
        if mark in stripped:
            raise PromptError(
                f"The {what} {stripped!r} contains {mark!r}, which has a meaning of its own; leave it out."
            )
    return stripped


def _check_media(task: Task, media: Media) -> None:
    if media not in task.media:
        raise PromptError(f"{task.name} is for {' and '.join(task.media)}s, not for {media}s ({task.description}).")


def _check_arguments(task: Task, request: Request) -> None:
    given: dict[Argument, bool] = {
        "phrases": bool(request.phrases),
        "things": bool(request.things),
        "stuff": bool(request.stuff),
        "regions": bool(request.regions),
        "question": request.question is not None,
    }
    for name, present in given.items():
        if present and name not in task.takes:
            raise PromptError(f"{task.name} takes no {name}; it takes {', '.join(task.takes) or 'nothing'}.")


def _check_regions(text: str, request: Request) -> None:
    if (count := text.count(REGION)) != len(request.regions):
        raise PromptError(f"The text refers to {count} regions ({REGION}), but {len(request.regions)} were given.")
