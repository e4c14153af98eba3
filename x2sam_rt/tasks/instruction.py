"""An instruction: what is asked of a stream or an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from x2sam_rt.documents import read_dataclass, shown
from x2sam_rt.errors import ConfigError, PromptError
from x2sam_rt.tasks.marks import LinkedText, Mark, MarkedText, parse_marks
from x2sam_rt.tasks.regions import RegionPrompt, region_from_json
from x2sam_rt.tasks.table import TASKS, Argument, Conditions, Filling, Media, Task, task
from x2sam_rt.tasks.wording import Wording, fill

_LONGEST = 2**20  # characters of an instruction: more than the largest context holds
_TAKE_NEGATIVE = ("interactive", "object", "vgd")
MAX_NEW_TOKENS = 2048  # of a generated answer (X2SAM)


@dataclass(frozen=True)
class PostProcessOptions:
    """The numbers of post-processing a user may change.

    threshold: the score (for panoptic and object: the class probability) a result must reach; None = the task's own.
    mask_threshold: sigmoid above which a pixel belongs to a mask. overlap: the part of its own area a panoptic
    segment must keep. restart_ids: number new panoptic things from 1 in every frame, as published, where one
    number can mean two things; otherwise a number is never given twice in a stream. anchored: the object task compares
    results with the visual prompt itself too, and not only with earlier results. together: phrases take all queries
    whose class probability reaches this, or is the highest, as one mask (several objects); None = the best one alone.
    presence: the reported score below which a segment is not shown ("nothing here looks like that"); None = off.
    The defaults are the published ones; the tasks' own thresholds are those of the published recordings.
    """

    threshold: float | None = None
    mask_threshold: float = 0.5
    overlap: float = 0.8
    restart_ids: bool = False
    anchored: bool = True
    together: float | None = None
    presence: float | None = None

    def __post_init__(self) -> None:
        for name, value in (
            ("threshold", self.threshold),
            ("mask_threshold", self.mask_threshold),
            ("overlap", self.overlap),
            ("together", self.together),
            ("presence", self.presence),
        ):
            if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 1):
                raise ConfigError(f"{name}={shown(value)}: a number from 0 to 1 is wanted.")

    def resolved(self, task_threshold: float) -> PostProcessOptions:
        return replace(self, threshold=task_threshold) if self.threshold is None else self

    @property
    def least_score(self) -> float:
        assert self.threshold is not None, "options are resolved before they are used"
        return self.threshold


@dataclass(frozen=True, eq=False)
class Instruction:
    """One instruction, as a user gives it, checked when it is made: raises PromptError for what cannot be asked.

    task: a name of the table of tasks. phrases: what to look for, each a condition of its own. things, stuff: category
    names. order: in which the question lists them, as places in things + stuff; () = things first. regions: visual
    prompts (`Prompt.point(…)`); a text may say where one is meant with "<region>". question: free text (chat,
    reasoning). explain: have the answer explained, which is then generated. generate: let the model write its answer
    even where it is known beforehand. answer: take this text as the answer, with its `<p>phrases</p>` and `<SEG>` (a
    caption to ground). max_new_tokens: where a generated answer is cut off. stop: texts that
    end a generated answer where one of them begins.
    """

    task: str = "referring"
    phrases: tuple[str, ...] = ()
    things: tuple[str, ...] = ()
    stuff: tuple[str, ...] = ()
    order: tuple[int, ...] = ()
    regions: tuple[RegionPrompt, ...] = ()
    question: str | None = None
    explain: bool = False
    generate: bool = False
    answer: str | None = None
    max_new_tokens: int = MAX_NEW_TOKENS
    stop: tuple[str, ...] = ()
    options: PostProcessOptions = field(default_factory=PostProcessOptions)

    def __post_init__(self) -> None:
        for name in ("phrases", "things", "stuff", "regions", "stop"):
            object.__setattr__(self, name, _as_tuple(name, getattr(self, name)))
        if self.explain and self.row.wording.explained is None:
            raise PromptError(f"{self.task} cannot be explained: explain=True is for reasoning.")
        self._check_texts()
        if not isinstance(self.max_new_tokens, int) or self.max_new_tokens < 1:
            raise PromptError(f"max_new_tokens={shown(self.max_new_tokens)}: a whole number of at least 1 is wanted.")
        if "" in self.stop:
            raise PromptError(f"stop={self.stop!r}: an empty text would end every answer before it begins.")
        self._check_arguments()
        self._check_regions()
        self._check_answer()

    @property
    def row(self) -> Task:
        """The task's row of the table."""
        return task(self.task)

    @property
    def options_in_force(self) -> PostProcessOptions:
        """With the task's own threshold where none was given."""
        return self.options.resolved(self.row.threshold)

    def require_media(self, media: Media) -> None:
        """Raises PromptError for media the task is not for."""
        row = self.row
        if media not in row.media:
            raise PromptError(f"{row.name} is for {' and '.join(row.media)}s, not for {media}s ({row.description}).")

    def question_text(self, media: Media, wording: Wording) -> MarkedText:
        """What stands after the vision block, without chat markup. Raises PromptError as `require_media`."""
        self.require_media(media)
        words = wording[self.task]
        template = words.template(explain=self.explain, phrase=bool(self.phrases))
        assert template is not None, "checked when the instruction was made"
        values, _ = self._filling
        return fill(template, {**values, "media": (media,)})

    def answer_text(self, wording: Wording) -> MarkedText | None:
        """The answer where it is given or known beforehand, with its `<SEG>`; None = the model must generate it."""
        if self.answer is not None:
            return parse_marks(self.answer)
        known = wording[self.task].answer
        return None if known is None or self.explain or self.generate else parse_marks(known)

    def conditions(self, answer: LinkedText) -> Conditions:
        """What is segmented: the answer's phrases where it has any, else those of the question (X2SAM)."""
        return Conditions.of_things(answer.phrases) if answer.spans else self._filling[1]

    def to_json(self) -> dict[str, Any]:
        """All fields in JSON's own types, regions as `RegionPrompt.to_json` writes them."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        return {**plain, "regions": [region.to_json() for region in self.regions], "options": asdict(self.options)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Instruction:
        """An instruction from another's hands; fields that are left out have their defaults. Raises PromptError or
        ConfigError for what is none."""
        regions = data.get("regions", ()) if isinstance(data, Mapping) else None
        if not isinstance(regions, list | tuple) or not all(isinstance(region, dict) for region in regions):
            raise PromptError(f"The regions are {regions!r}; wanted an instruction with a list of visual prompts.")
        return read_dataclass(cls, {**data, "regions": tuple(map(region_from_json, regions))}, where="instruction")

    @property
    def _filling(self) -> Filling:
        return self.row.fill(self)

    def _check_texts(self) -> None:
        texts = [*self.phrases, *self.things, *self.stuff, *self.stop]
        texts += [text for text in (self.question, self.answer) if text is not None]
        for text in texts:
            if not isinstance(text, str) or any("\ud800" <= character <= "\udfff" for character in text):
                raise PromptError(f"{shown(text)} is no text: half a character (a surrogate) cannot be tokenized.")
        if sum(map(len, texts)) > _LONGEST:
            raise PromptError(f"{sum(map(len, texts)):,} characters of text; no context holds more than {_LONGEST:,}.")

    def _check_arguments(self) -> None:
        given: dict[Argument, bool] = {
            "phrases": bool(self.phrases),
            "things": bool(self.things),
            "stuff": bool(self.stuff),
            "regions": bool(self.regions),
            "question": self.question is not None,
        }
        takes = self.row.takes
        for name, present in given.items():
            if present and name not in takes:
                wanted = ", ".join(f"{argument}=" for argument in takes) or "nothing"
                raise PromptError(f"{self.task} takes no {name}=; it takes {wanted}.")

    def _check_regions(self) -> None:
        if not all(region.wanted for region in self.regions) and self.task not in _TAKE_NEGATIVE:
            raise PromptError(f"{self.task} takes no negative region; {', '.join(_TAKE_NEGATIVE)} do.")
        values, _ = self._filling
        places = sum(piece is Mark.REGION for marked in values.values() for piece in marked)
        if places != len(self.regions):
            raise PromptError(
                f"The text refers to {places} regions ({Mark.REGION.value}), but regions= holds {len(self.regions)}. "
                "Write the mark where one is meant; interactive, object and vgd take them without a text."
            )

    def _check_answer(self) -> None:
        if self.answer is not None and self.row.draws_masks and Mark.SEG not in parse_marks(self.answer):
            raise PromptError(
                f"answer={shown(self.answer)} has no {Mark.SEG.value}, which masks are drawn for; put it at the end."
            )


def as_instruction(prompt: str | Instruction) -> Instruction:
    """A plain text asks for what it refers to. Raises PromptError for an empty text."""
    if isinstance(prompt, Instruction):
        return prompt
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptError(
            f'The prompt is {shown(prompt)}; wanted a phrase such as "the jumping boy", or an Instruction: for several '
            f"(phrases=…) and for another task ({', '.join(TASKS)})."
        )
    return Instruction(phrases=(prompt,))


def corrected(instruction: Instruction, regions: Sequence[RegionPrompt]) -> Instruction:
    """The instruction with a wanted region in place of its only one, and with negative ones added. Raises PromptError
    where that is none."""
    if instruction.task not in _TAKE_NEGATIVE or not regions:
        raise PromptError(
            f"{len(regions)} regions correct {instruction.task}; give one or more, of {', '.join(_TAKE_NEGATIVE)}."
        )
    wanted = [region for region in regions if region.wanted]
    if wanted and instruction.task == "vgd":
        raise PromptError("vgd is corrected by negative regions; to replace others, ask(…) with all that are wanted.")
    kept = [region for region in instruction.regions if not (wanted and region.wanted)]
    return replace(instruction, regions=(*wanted, *kept, *(region for region in regions if not region.wanted)))


def _as_tuple(name: str, values: object) -> tuple[object, ...]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise PromptError(f"{name}={shown(values)}: a list is wanted, such as [{shown(values)}].")
    wanted = RegionPrompt if name == "regions" else str
    for value in values:
        if not isinstance(value, wanted):
            raise PromptError(f"{name} holds {shown(value)}; wanted {wanted.__name__}.")
    return tuple(values)
