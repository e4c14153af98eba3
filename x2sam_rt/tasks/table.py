"""The table of tasks. A new task is a new row here, with its builder above it where none of these fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from x2sam_rt.documents import there_is_no
from x2sam_rt.errors import PromptError
from x2sam_rt.tasks.marks import Mark, MarkedText, listed, parse_regions, spell
from x2sam_rt.tasks.wording import TaskWording, Wording

if TYPE_CHECKING:
    from x2sam_rt.tasks.instruction import Instruction

Media = Literal["image", "video"]
Argument = Literal["phrases", "things", "stuff", "regions", "question"]
# How logits become segments; what each rule is lives with post-processing.
Rule = Literal["panoptic", "semantic", "instance", "grounded", "phrases", "interactive", "object"]


@dataclass(frozen=True)
class Conditions:
    """What the columns of the class logits stand for: one label per condition, without the background; is_thing says
    which are countable things, or visual prompts of what is wanted: the others compete, and are left out. An
    answer without phrases has none."""

    labels: tuple[str, ...] = ()
    is_thing: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        if len(self.labels) != len(self.is_thing):
            raise PromptError(f"{len(self.labels)} conditions, of which {len(self.is_thing)} are things or stuff.")

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of_things(cls, labels: Sequence[str]) -> Conditions:
        return cls(tuple(labels), (True,) * len(labels))


# What an instruction puts into the wording's placeholders, and the conditions this gives, in the question's order.
Filling = tuple[Mapping[str, MarkedText], Conditions]


@dataclass(frozen=True)
class Task:
    """One row of the table.

    takes: the fields of an instruction it can use. fill: see `Filling`; raises PromptError for what cannot be asked.
    rule: how its logits become segments; None where no masks are drawn. threshold: the score a result must reach,
    unless the options say otherwise.
    """

    name: str
    description: str
    media: tuple[Media, ...]
    takes: tuple[Argument, ...]
    wording: TaskWording
    fill: Callable[[Instruction], Filling]
    rule: Rule | None = None
    threshold: float = 0.0

    @property
    def draws_masks(self) -> bool:
        return self.rule is not None


def category_name(category: str) -> str:
    """The name as the model was taught it: "Floor-other-merged" → "floor" (X2SAM, generic segmentation)."""
    name = category.lower()
    for suffix in ("-merged", "-other", "-stuff"):
        name = name.replace(suffix, "")
    return _required(name.replace("-", " "), "category name")


def _required(text: str, what: str) -> str:
    """The text without blanks around it. Raises PromptError when nothing is left, or it cannot be written as text."""
    stripped = text.strip()
    if not stripped:
        raise PromptError(f"An empty {what}: say what is meant.")
    if any("\ud800" <= character <= "\udfff" for character in stripped):
        raise PromptError(f"The {what} {stripped!r} holds half a character (a lone surrogate); give valid Unicode.")
    return stripped


def _require_distinct(texts: Sequence[str], what: str) -> None:
    doubled = [text for text, count in Counter(texts).items() if count > 1]
    if doubled:
        raise PromptError(f"Doubled {what}: {', '.join(doubled)}. Each must be asked for once.")


def _categories(instruction: Instruction) -> Filling:
    labels = instruction.things + instruction.stuff
    if not labels:
        raise PromptError("An empty category list: give things=, stuff= or both.")
    names = [category_name(label) for label in labels]
    _require_distinct(names, "categories")
    is_thing = (True,) * len(instruction.things) + (False,) * len(instruction.stuff)
    order = instruction.order or tuple(range(len(labels)))
    if sorted(order) != list(range(len(labels))):
        raise PromptError(f"The order {order} of {len(labels)} categories; wanted each place from 0 once.")
    conditions = Conditions(tuple(labels[place] for place in order), tuple(is_thing[place] for place in order))
    return {"categories": listed((names[place],) for place in order)}, conditions


def _thing_categories(instruction: Instruction) -> Filling:
    if not instruction.things:
        raise PromptError("No things in the category list: only things have instances; give things=.")
    return _categories(instruction)


def _phrase_texts(instruction: Instruction) -> list[MarkedText]:
    texts = [_lowered(parse_regions(_required(phrase, "phrase"))) for phrase in instruction.phrases]
    _require_distinct([spell(text) for text in texts], "phrases")
    return texts


def _lowered(marked: MarkedText) -> MarkedText:
    """Piece by piece, so that no letter case spells a mark."""
    return tuple(piece.lower() if isinstance(piece, str) else piece for piece in marked)


def _phrases(instruction: Instruction) -> Filling:
    if not instruction.phrases:
        raise PromptError("No phrase to look for: give phrases= at least one.")
    return {"phrases": listed(_phrase_texts(instruction))}, Conditions.of_things(instruction.phrases)


def _reasoned_question(instruction: Instruction) -> Filling:
    if instruction.phrases and (len(instruction.phrases) > 1 or instruction.question is not None):
        raise PromptError("Reasoning takes one question, or one phrase in its place.")
    question = _required(instruction.question or "".join(instruction.phrases), "question")
    return {"question": listed([parse_regions(question)])}, Conditions.of_things([question])


def _chat_text(instruction: Instruction) -> Filling:
    question: list[str | Mark] = []
    for piece in parse_regions(_required(instruction.question or "", "question")):
        question += listed([(piece,)]) if piece is Mark.REGION else [piece]
    return {"question": tuple(question)}, Conditions()


def _nothing(instruction: Instruction) -> Filling:
    return {}, Conditions()


def _one_region(instruction: Instruction) -> Filling:
    given = sum(region.wanted for region in instruction.regions)
    if given != 1:
        raise PromptError(f"{given} visual prompts; exactly one is wanted, as regions= (vgd takes several).")
    labels = _region_labels(instruction)
    return {"region": listed([(Mark.REGION,)] * len(labels))}, _wanted(instruction, labels)


def _regions(instruction: Instruction) -> Filling:
    if not any(region.wanted for region in instruction.regions):
        raise PromptError("No visual prompt: give regions= at least one point, box, scribble or mask.")
    labels = _region_labels(instruction)
    marked = listed([(Mark.REGION,)] * len(labels) + _phrase_texts(instruction))
    return {"regions": marked}, _wanted(instruction, [*labels, *instruction.phrases])


def _region_labels(instruction: Instruction) -> list[str]:
    return [f"region {number + 1}" for number in range(len(instruction.regions))]


def _wanted(instruction: Instruction, labels: Sequence[str]) -> Conditions:
    """The regions first, then what is always wanted."""
    wanted = tuple(region.wanted for region in instruction.regions)
    return Conditions(tuple(labels), wanted + (True,) * (len(labels) - len(wanted)))


ANY_MEDIA: tuple[Media, ...] = ("image", "video")
KNOWN_ANSWER = "It is <SEG>."
_BY_CATEGORIES = TaskWording(
    "Please segment this {media} by these categories: {categories}. Answer with the segmentation masks.",
    KNOWN_ANSWER,
)
# Thresholds: those the published recordings were made with; the single-answer tasks have none.
_ROWS = (
    Task(
        name="chat",
        description="a conversation about the image or video, without masks",
        media=ANY_MEDIA,
        takes=("question", "regions"),
        wording=TaskWording("{question}"),
        fill=_chat_text,
    ),
    Task(
        name="panoptic",
        description="things and stuff by category, every pixel in at most one segment",
        media=ANY_MEDIA,
        takes=("things", "stuff"),
        wording=_BY_CATEGORIES,
        fill=_categories,
        rule="panoptic",
        threshold=0.3,
    ),
    Task(
        name="semantic",
        description="the category of every pixel",
        media=ANY_MEDIA,
        takes=("things", "stuff"),
        wording=_BY_CATEGORIES,
        fill=_categories,
        rule="semantic",
    ),
    Task(
        name="instance",
        description="every thing by category, masks may overlap",
        media=ANY_MEDIA,
        takes=("things", "stuff"),
        wording=_BY_CATEGORIES,
        fill=_thing_categories,
        rule="instance",
        threshold=0.3,
    ),
    Task(
        name="referring",
        description="what a phrase refers to; several phrases give a mask each",
        media=ANY_MEDIA,
        takes=("phrases", "regions"),
        wording=TaskWording("Please segment {phrases} in this {media}.", KNOWN_ANSWER),
        fill=_phrases,
        rule="phrases",
    ),
    Task(
        name="reasoning",
        description="what answers a question, or fits a phrase that takes thought",
        media=ANY_MEDIA,
        takes=("question", "phrases", "regions"),
        wording=TaskWording(
            "{question} Please answer with the segmentation mask.",
            KNOWN_ANSWER,
            "{question} Please explain why, and answer with the segmentation mask.",
            "Please segment {question} in this {media}. Please answer with the segmentation mask.",
        ),
        fill=_reasoned_question,
        rule="phrases",
    ),
    Task(
        name="gcg",
        description="grounded conversation: a caption whose phrases have masks",
        media=ANY_MEDIA,
        takes=(),
        wording=TaskWording(
            "Please describe this {media} briefly, with interleaved segmentation masks for the phrases."
        ),
        fill=_nothing,
        rule="phrases",
    ),
    Task(
        name="interactive",
        description="the object of an image under one visual prompt; in videos it is called object",
        media=("image",),
        takes=("regions",),
        wording=TaskWording("Please segment this {media} by this region: {region}.", KNOWN_ANSWER),
        fill=_one_region,
        rule="interactive",
        threshold=0.2,
    ),
    Task(
        name="object",
        description="the object of a video under one visual prompt; in images it is called interactive",
        media=("video",),
        takes=("regions",),
        wording=TaskWording("Please segment this {media} by this region: {region}.", KNOWN_ANSWER),
        fill=_one_region,
        rule="object",
        threshold=0.5,
    ),
    Task(
        name="vgd",
        description="all that is like one of several visual prompts, which phrases may be mixed with",
        media=ANY_MEDIA,
        takes=("regions", "phrases"),
        wording=TaskWording("Please segment this {media} by these regions: {regions}.", KNOWN_ANSWER),
        fill=_regions,
        rule="grounded",
        threshold=0.3,
    ),
)

TASKS: dict[str, Task] = {row.name: row for row in _ROWS}
DEFAULT_WORDING = Wording({row.name: row.wording for row in _ROWS})


def task(name: str) -> Task:
    """The task of this name. Raises PromptError, with the names there are."""
    if name not in TASKS:
        raise PromptError(there_is_no("task", name, TASKS))
    return TASKS[name]
