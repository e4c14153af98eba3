"""How a data set is put to the model: as X2SAM's figures were made, or as a live stream."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.example import Example, IdMasks, Masks, Target
from x2sam_rt.data.readers import AnnotatedExample, PromptedExample
from x2sam_rt.errors import ConfigError
from x2sam_rt.evaluation.segmenter import Showing
from x2sam_rt.media.types import BoolMask
from x2sam_rt.runtime.asking import ONCE, ReAsk
from x2sam_rt.runtime.prompt_frames import PROMPT_FRAMES
from x2sam_rt.tasks.published import published_wording, wordings_of
from x2sam_rt.tasks.regions import Prompt, RegionPrompt
from x2sam_rt.tasks.table import DEFAULT_WORDING, Media
from x2sam_rt.tasks.wording import Wording

ProtocolName = Literal["published", "live"]
Length = int | Literal["whole"]
_FEWEST = 2  # frames: shorter chunks, and so videos of one frame, are never evaluated
_SPARSE = 4  # frames left of a chunk by the video processor's sampling: 2 a second of an assumed 24
Regions = Literal["as asked", "own mask", "one per category"]


@dataclass(frozen=True)
class Chunk:
    """number: among the chunks of its clip, from 0, dropped ones counted. frames: of the clip, from 0."""

    number: int
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Cutting:
    """How clips are cut into chunks, each with a question and an empty memory of its own.

    mode: "stride": runs of `length` frames that follow each other; "span": frames spread over the whole clip, each
    chunk one frame later than the one before. Where `length` does not divide the clip, a span repeats some frames and
    never shows others.

    unlabelled: what becomes of frames that show nothing true: "removed_first": the others are cut, so that a chunk may
    jump over gaps; "removed_after": they leave their chunk; "kept". needs_label: a chunk of such frames alone is
    dropped. Chunks of one frame always are.
    Source: X2SAM's evaluation.
    """

    mode: Literal["stride", "span"] = "stride"
    length: int = 8
    unlabelled: Literal["removed_first", "removed_after", "kept"] = "kept"
    needs_label: bool = False

    def chunks(self, frames: int, labelled: Sequence[bool] | BoolMask) -> tuple[Chunk, ...]:
        """The chunks of a clip. frames: how many it has. labelled: which of them show something true."""
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


@dataclass(frozen=True)
class Rule:
    """How one data set was evaluated when X2SAM's figures were made.

    task: whose wordings it has. cutting: of its clips; None: images. sparse: the language model sees at most 4 of a
    chunk's frames. threshold: see `PostProcessOptions`; it holds for every protocol, as AP and PQ want all results.
    together, anchored: see there; published figures only. newline: the splits for which a newline stands before the
    question. regions: what a chunk is prompted with. needs_target: examples without a target are left out.
    own_words: there are no published ones; the bundle's are used.
    """

    task: str
    cutting: Cutting | None = None
    sparse: bool = False
    threshold: float | None = None
    together: float | None = None
    anchored: bool = True
    newline: tuple[str, ...] = ()
    regions: Regions = "as asked"
    needs_target: bool = False
    own_words: bool = False


_AFTER = Cutting(unlabelled="removed_after")
_FIRST = Cutting(unlabelled="removed_first")
_V_VGD = Rule("vgd", _FIRST, sparse=True, threshold=0.0, regions="one per category")
RULES: Mapping[str, Rule] = {
    "coco-panoptic": Rule("panoptic", threshold=0.0),
    "coco-semantic": Rule("semantic"),
    "coco-instance": Rule("instance", threshold=0.0),
    "ade20k-panoptic": Rule("panoptic", threshold=0.0),
    "ade20k-semantic": Rule("semantic"),
    "ade20k-instance": Rule("instance", threshold=0.0),
    "refcoco": Rule("referring"),
    "refcoco+": Rule("referring"),
    "refcocog": Rule("referring", newline=("test",)),
    "grefcoco": Rule("referring", together=0.6, newline=("val", "testA", "testB"), needs_target=True),
    "reasonseg": Rule("reasoning", needs_target=True),
    "gcg-image": Rule("gcg"),
    "coco-interactive": Rule("interactive", threshold=0.5),
    "coco-vgd": Rule("vgd", threshold=0.0, newline=("val/box",), regions="one per category"),
    "vipseg": Rule("panoptic", Cutting(needs_label=True), threshold=0.0),
    "vspw": Rule("semantic", Cutting()),
    "youtube-vis19": Rule("instance", _FIRST, threshold=0.0),
    "youtube-vis21": Rule("instance", _FIRST, threshold=0.0),
    "ref-youtube-vos": Rule("referring", _AFTER),
    "ref-davis17": Rule("referring", _AFTER),
    "mevis": Rule("referring", _AFTER),
    "revos": Rule("reasoning", Cutting("span", 8, "removed_after")),
    "gcg-video": Rule("gcg", Cutting("span", 16)),
    "youtube-vos": Rule("object", _AFTER, sparse=True, threshold=0.5, anchored=False, regions="own mask"),
    "v-vgd-yt19": _V_VGD,
    "v-vgd-vipseg": _V_VGD,
    "v-vgd-synthetic": replace(_V_VGD, own_words=True),
}
# Data without published figures: chunks of eight frames, asked about in the bundle's own words.
_OTHERWISE = Rule("panoptic", Cutting(), own_words=True)


def protocol_name(text: str) -> ProtocolName:
    """Raises ConfigError for what is none."""
    names: dict[str, ProtocolName] = {"published": "published", "live": "live"}
    if text not in names:
        raise ConfigError(f"There is no protocol {text!r}; there are {' and '.join(names)}.")
    return names[text]


@dataclass(frozen=True)
class Protocol:
    """name: "published": clips are cut as for X2SAM's figures, each chunk with a question and an empty memory of its
    own, the language model seeing its frames. "live": one stream per clip; the language model sees its first frame.
    limit: examples of each part at most, from the first; None = all. skip_bad: what
    cannot be read or segmented is left out and counted, instead of ending the run.

    Raises ConfigError for a limit below 1.
    """

    name: ProtocolName = "published"
    limit: int | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"A limit of {self.limit}; wanted 1 or more.")

    @property
    def published(self) -> bool:
        return self.name == "published"


@dataclass(frozen=True)
class Presentation:
    """A protocol for one data set and split, with what a variant changes: see `Knobs` for length, wording and
    again. order: in which the data set lists its categories, see `Instruction`.

    Raises ConfigError for asking again in chunks.
    """

    dataset: str
    split: str | None
    protocol: Protocol
    length: Length | None = None
    wording: int | Literal["bundle"] | None = None
    forget: bool = False
    order: tuple[int, ...] = ()
    again: ReAsk = ONCE
    _rule: Rule = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.protocol.published and self.again != ONCE:
            raise ConfigError("Published figures ask once per chunk; ask again with --protocol live.")
        object.__setattr__(self, "_rule", RULES.get(self.dataset, _OTHERWISE))

    def pieces(self, example: Example) -> Iterator[Example]:
        """The example itself, or the chunks of it that are evaluated."""
        if self._rule.needs_target and self.protocol.published and not example.targets:
            return
        example = self._with_options(example)
        if example.media == "image":
            yield from _prompted(example, (0,), self._rule.regions if self.protocol.published else "as asked")
        elif not self.protocol.published:
            yield example
        else:
            for chunk in self._cutting(example).chunks(len(example.frames), _shows_something(example)):
                regions = self._rule.regions
                yield from _prompted(example, chunk.frames, regions, f"{example.name}#{chunk.number}")

    def showing(self, piece: Example) -> Showing:
        """How a piece is put to the model."""
        return Showing(self._language_frames(piece), self._words(piece.media), self.forget, self.again)

    def _cutting(self, example: Example) -> Cutting:
        cutting = self._rule.cutting or Cutting()
        if self.length is None:
            return cutting
        return replace(cutting, length=max(_FEWEST, len(example.frames)) if self.length == "whole" else self.length)

    def _language_frames(self, piece: Example) -> tuple[int, ...]:
        until = piece.seen or len(piece.frames)
        if not self.protocol.published:
            until = 1
        return language_frames(self.dataset, until)

    def _words(self, media: Media) -> Wording | None:
        number = self.wording
        if number == "bundle" or (number is None and self._rule.own_words):
            return None
        newline = self.protocol.published and (self.split or "") in self._rule.newline
        return published_wording(number or 0, DEFAULT_WORDING, media=media, newline=newline)

    def _with_options(self, example: Example) -> Example:
        rule, options = self._rule, example.instruction.options
        if rule.threshold is not None:
            options = replace(options, threshold=rule.threshold)
        if self.protocol.published:
            options = replace(options, together=rule.together, anchored=rule.anchored)
        instruction = example.instruction
        order = self.order if len(self.order) == len(instruction.things + instruction.stuff) else instruction.order
        return replace(example, instruction=replace(instruction, options=options, order=order))


def language_frames(dataset: str, frames: int) -> tuple[int, ...]:
    """Which of a piece's frames the language model sees: all, at most 16 or the data set's own number, evenly spaced,
    halves rounded to the even number."""
    most = _SPARSE if RULES.get(dataset, _OTHERWISE).sparse else PROMPT_FRAMES
    return tuple(np.linspace(0, frames - 1, min(most, frames)).round().astype(int).tolist())


def wording_count(dataset: str) -> int:
    """How many wordings a data set was asked about in."""
    return wordings_of(RULES.get(dataset, _OTHERWISE).task)


def _shows_something(example: Example) -> BoolMask:
    """(T,) bool: frames with a pixel of a target or a crowd."""
    shown = np.zeros(len(example.frames), dtype=np.bool_)
    for target in (*example.targets, *(example.crowds if isinstance(example, AnnotatedExample) else ())):
        for frame in np.flatnonzero(~shown):  # frame by frame: masks of a whole clip are large
            shown[frame] = target.masks[int(frame)].any()
    return shown


def _prompted(
    example: Example, frames: tuple[int, ...], regions: Regions, name: str | None = None
) -> Iterator[Example]:
    """These frames of the example, prompted anew on the first of them. None where nothing there has a prompt."""
    piece = replace(_cut(example, frames), name=name or example.name)
    if regions == "own mask":
        yield replace(piece, instruction=replace(piece.instruction, regions=(_mask_prompt(piece, 0),)))
    elif regions == "one per category" and isinstance(piece, PromptedExample):
        if piece.prompts.get(0):
            yield _by_category(piece)
    else:
        yield replace(piece, instruction=replace(piece.instruction, regions=_moved(piece, frames)))


def _by_category(piece: PromptedExample) -> PromptedExample:
    """One region per category that has a prompt on the first frame; the targets are all instances of these categories.
    Which instance stands for its category is drawn, as published, but always in the same way."""
    category_of = {target.id: category for target, category in zip(piece.targets, piece.categories, strict=True)}
    prompts = piece.prompts[0]
    asked = sorted({category_of[id] for id in prompts})
    drawn = {
        category: random.Random(f"{piece.name} {category}").choice(
            sorted(id for id in prompts if category_of[id] == category)
        )
        for category in asked
    }
    kept = [target for target in piece.targets if category_of[target.id] in drawn]
    return replace(
        piece,
        instruction=replace(piece.instruction, regions=tuple(prompts[drawn[category]] for category in asked)),
        conditions=len(asked),
        targets=tuple(replace(target, condition=asked.index(category_of[target.id])) for target in kept),
        categories=tuple(category_of[target.id] for target in kept),
        prompts={0: {id: prompt for id, prompt in prompts.items() if category_of[id] in drawn}},
    )


def _moved(piece: Example, frames: tuple[int, ...]) -> tuple[RegionPrompt, ...]:
    """The instruction's regions, on the frames as they are numbered now. One on a frame that the chunk does not have
    gives way to its object's mask, on the first frame that shows it."""
    return tuple(
        replace(region, frame=frames.index(region.frame)) if region.frame in frames else _mask_prompt(piece, condition)
        for condition, region in enumerate(piece.instruction.regions)
    )


def _mask_prompt(piece: Example, condition: int) -> RegionPrompt:
    for frame in range(len(piece.frames)):
        masks = [target.masks[frame] for target in piece.targets if target.condition == condition]
        if masks and (together := np.any(masks, axis=0)).any():
            return Prompt.mask(together, frame=frame)
    raise piece.bad(f"region {condition + 1} is to be seen on none of its frames, so there is nothing to prompt with")


def _cut(example: Example, frames: tuple[int, ...]) -> Example:
    """The example with these frames only, in this order; the instruction is left as it is."""
    if frames == tuple(range(len(example.frames))):
        return example
    taken = _Taken(frames)
    changed: dict[str, Any] = {
        name: taken.array(getattr(example, name)) for name in _BY_FRAME if hasattr(example, name)
    }
    changed["targets"] = taken.targets(example.targets)
    if isinstance(example, AnnotatedExample):
        changed["crowds"] = taken.targets(example.crowds)
    if isinstance(example, PromptedExample):
        prompts = {place: example.prompts[frame] for place, frame in enumerate(frames) if frame in example.prompts}
        changed["prompts"] = {
            place: {id: replace(prompt, frame=place) for id, prompt in some.items()} for place, some in prompts.items()
        }
    seen = None if example.seen is None else min(example.seen, len(frames))
    return replace(example, seen=seen, **changed)


_BY_FRAME = ("frames", "labelled", "hidden", "ignored", "raw_labels")
assert {one.name for one in fields(AnnotatedExample)} >= set(_BY_FRAME)


class _Taken:
    """Frames of arrays, without a copy where they follow each other; maps of ids stay shared."""

    def __init__(self, frames: tuple[int, ...]) -> None:
        run = frames == tuple(range(frames[0], frames[0] + len(frames)))
        self._key: slice | list[int] = slice(frames[0], frames[0] + len(frames)) if run else list(frames)
        self._maps: dict[int, npt.NDArray[np.integer]] = {}

    def array(self, array: Any) -> Any:
        return None if array is None else array[self._key]

    def targets(self, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        return tuple(replace(target, masks=self._masks(target.masks)) for target in targets)

    def _masks(self, masks: Masks) -> Masks:
        if not isinstance(masks, IdMasks):
            return masks[self._key]
        return replace(masks, ids=self._maps.setdefault(id(masks.ids), masks.ids[self._key]))
