"""What each task asks about a clip, and which answer and masks are right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.example import Target
from x2sam_rt.data.synthetic.clip import SyntheticClip
from x2sam_rt.data.synthetic.phrases import PAIR, Attribute, Phrase, caption, draw_phrase
from x2sam_rt.data.synthetic.questions import object_questions, word_question
from x2sam_rt.data.synthetic.scene import SceneObject
from x2sam_rt.data.synthetic.settings import SHAPES, STUFF, pick
from x2sam_rt.errors import PromptError
from x2sam_rt.media.types import BoolMask
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import POINT_RADIUS, SCRIBBLE_RADIUS, Prompt, PromptKind, RegionPrompt
from x2sam_rt.tasks.table import Media

_OCCLUDED = 0.4  # of an object: from here on a frame does not show by itself which object is meant
_LOOKS: tuple[Attribute, ...] = ("size", "texture", "colour", "shape")
_FOCUS = 0.7  # how often the first object asked for is the one that others were drawn to resemble
_ALL = 0.6  # how often every category there is is given, rather than some with those that are seen
KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
# Pixels that points should be away from the object's edge, the first that is possible.
_POINT_DEPTHS, _SCRIBBLE_DEPTHS = (8, 6, 4, 3, 2, 1), (2, 1)


@dataclass(frozen=True, eq=False)
class Draft:
    """What a task makes of a clip; the fields are those of an example."""

    instruction: Instruction
    conditions: int
    targets: tuple[Target, ...]
    answer: str | None = None
    tags: frozenset[str] = frozenset()
    hidden: BoolMask | None = None


@dataclass(frozen=True, eq=False)
class ClipView:
    """clip: of one frame if the medium is an image."""

    clip: SyntheticClip
    media: Media

    @property
    def objects(self) -> tuple[SceneObject, ...]:
        return self.clip.objects

    @property
    def moving(self) -> bool:
        """Whether it may be said how objects move."""
        return self.media == "video" and len(self.clip.frames) > 1

    def target(self, number: int, condition: int) -> Target:
        return Target(condition, self.clip.mask(number), number)

    def choose(self, rng: np.random.Generator, count: int | None) -> list[int]:
        """Different objects to ask for. None: 1 to 3 in an image, 1 or 2 in a video, 1 where colours are desaturated.

        The first is the focus object more often than not, and always where it is a held-out pair or colours go.
        """
        desaturated = bool(self.clip.desaturated.any())
        if count is None:
            count = 1 if desaturated else int(rng.integers(1, 4 if self.media == "image" else 3))
        numbers = [int(number) for number in rng.permutation(len(self.objects))]
        if desaturated or self.clip.is_held_out(self.clip.focus) or rng.random() < _FOCUS:
            numbers.sort(key=lambda number: number != self.clip.focus)
        return numbers[:count]

    def tags(self, numbers: Sequence[int], hidden: BoolMask) -> frozenset[str]:
        """Of an example that asks for these objects."""
        found = {"unseen"} if any(map(self.clip.is_held_out, numbers)) else set()
        if len(numbers) == 1:
            found |= self._look_alikes(numbers[0])
        if (hidden & self.clip.desaturated).any():
            found.add("desaturated")
        if self._occluded(numbers).any():
            found.add("occluded")
        return frozenset(found)

    def hidden(self, meant: Iterable[tuple[int, Phrase]]) -> BoolMask:
        """(T,) bool: frames that do not show by themselves which objects are meant, each as its phrase says."""
        flags = np.zeros(len(self.clip.frames), dtype=np.bool_)
        for number, said in meant:
            flags |= self._occluded([number])
            if not said.without_colour().singles_out(self.objects):
                flags |= self.clip.desaturated
        return flags

    def looks(self, number: int) -> Phrase:
        """All that can be seen of an object in one frame."""
        return Phrase(_LOOKS, self.objects[number])

    def _occluded(self, numbers: Sequence[int]) -> BoolMask:
        occluded = self.clip.occluded[:, list(numbers)].max(axis=1, initial=0)
        flags: BoolMask = occluded > _OCCLUDED
        return flags

    def _look_alikes(self, number: int) -> set[str]:
        meant = self.objects[number]
        others = [thing for thing in self.objects if thing is not meant]
        found = {"same_colour"} if any(thing.colour == meant.colour for thing in others) else set()
        return found | ({"same_shape"} if any(thing.shape == meant.shape for thing in others) else set())


def clear_still(clip: SyntheticClip, rng: np.random.Generator) -> SyntheticClip:
    """One frame of the clip, in colour, in which much of every object is seen (the first always is such a one)."""
    clear = ~clip.desaturated & (clip.occluded <= 1 - _OCCLUDED).all(axis=1)
    clear[0] = True
    return clip.still(int(pick(rng, np.flatnonzero(clear).tolist())))


def draft(task: str, view: ClipView, rng: np.random.Generator, count: int | None = None) -> Draft:
    """What a task of that name asks. count: of phrases or regions, as in `make_example`."""
    match task:
        case "referring":
            return _referring(view, rng, count)
        case "reasoning":
            return _reasoning(view, rng)
        case "panoptic" | "semantic" | "instance":
            return _by_category(task, view, rng)
        case "gcg":
            return _grounded_caption(view)
        case "chat":
            return _chat(view, rng)
        case "interactive" | "object":
            return _by_regions(task, view, rng, 1)
        case "vgd":
            return _by_regions(task, view, rng, int(rng.integers(1, 4)) if count is None else count)
    raise PromptError(f"The made-up world has no examples of the task {task!r}.")


def _referring(view: ClipView, rng: np.random.Generator, count: int | None) -> Draft:
    clip = view.clip
    numbers = view.choose(rng, count)
    said = []
    for number in numbers:
        # A held-out pair must be named; where colours go, the object must be told by what it will lose.
        by_pair = clip.is_held_out(number) or bool(clip.desaturated.any())
        needed = PAIR if by_pair else frozenset()
        said.append(draw_phrase(rng, clip.objects, number, moving=view.moving and not by_pair, needed=needed))
    hidden = view.hidden(zip(numbers, said, strict=True))
    named = {attribute for one in said for attribute in one.attributes} & {"motion", "texture", "size"}
    return Draft(
        Instruction("referring", phrases=tuple(one.text for one in said)),
        len(numbers),
        tuple(view.target(number, condition) for condition, number in enumerate(numbers)),
        tags=view.tags(numbers, hidden) | named,
        hidden=hidden,
    )


def _reasoning(view: ClipView, rng: np.random.Generator) -> Draft:
    """One question; of a clip with a held-out pair, one that this pair answers."""
    asked = object_questions(view.clip, rng, moving=view.moving)
    if view.clip.is_held_out(view.clip.focus):
        asked = [one for one in asked if one.answer == view.clip.focus]
    kinds = sorted({one.kind for one in asked})
    kind = pick(rng, kinds)
    question = pick(rng, [one for one in asked if one.kind == kind])
    hidden = view.hidden([(question.answer, view.looks(question.answer))])
    return Draft(
        Instruction("reasoning", question=question.text),
        1,
        (view.target(question.answer, 0),),
        tags=view.tags([question.answer], hidden) | {question.kind},
        hidden=hidden,
    )


def _by_category(task: str, view: ClipView, rng: np.random.Generator) -> Draft:
    clip = view.clip
    things = _names(rng, SHAPES, {thing.shape for thing in clip.objects})
    stuff = _names(rng, STUFF, set(clip.stuff))
    targets = [view.target(number, things.index(thing.shape)) for number, thing in enumerate(clip.objects)]
    for region, name in enumerate(clip.stuff):
        condition = len(things) + stuff.index(name)
        targets.append(Target(condition, clip.stuff_mask(region), len(clip.objects) + region))
    return Draft(
        Instruction(task, things=things, stuff=stuff),
        len(things) + len(stuff),
        tuple(target for target in targets if target.masks[:].any()),
        tags=frozenset({"unseen"} if clip.is_held_out(clip.focus) else ()),
    )


def _names(rng: np.random.Generator, names: tuple[str, ...], present: set[str]) -> tuple[str, ...]:
    """In any order: all of them, or those present and some more."""
    share = 1.0 if rng.random() < _ALL else float(rng.uniform(0, 0.7))
    return tuple(str(name) for name in rng.permutation(names) if name in present or rng.random() < share)


def _grounded_caption(view: ClipView) -> Draft:
    """All objects, from left to right as they stand in the first frame."""
    numbers = [int(number) for number in np.argsort(view.clip.centres[0, :, 0], kind="stable")]
    hidden = view.hidden((number, view.looks(number)) for number in numbers)
    return Draft(
        Instruction("gcg"),
        len(numbers),
        tuple(view.target(number, condition) for condition, number in enumerate(numbers)),
        answer=caption([view.objects[number] for number in numbers], moving=view.moving),
        tags=view.tags(numbers, hidden),
        hidden=hidden,
    )


def _chat(view: ClipView, rng: np.random.Generator) -> Draft:
    question, answer = word_question(view.clip, rng, moving=view.moving)
    tags = frozenset({"unseen"} if view.clip.is_held_out(view.clip.focus) else ())
    return Draft(Instruction("chat", question=question), 0, (), answer=answer, tags=tags)


def _by_regions(task: str, view: ClipView, rng: np.random.Generator, count: int) -> Draft:
    numbers = view.choose(rng, count)
    prompts = tuple(_region(view, rng, number) for number in numbers)
    hidden = view.hidden((number, view.looks(number)) for number in numbers)
    return Draft(
        Instruction(task, regions=prompts),
        len(numbers),
        tuple(view.target(number, condition) for condition, number in enumerate(numbers)),
        tags=view.tags(numbers, hidden) | {prompt.kind for prompt in prompts},
        hidden=hidden,
    )


def _region(view: ClipView, rng: np.random.Generator, number: int) -> RegionPrompt:
    """On the first frame that shows the object."""
    frame = int(np.flatnonzero(view.clip.visible[:, number])[0])
    return draw_region(rng, view.clip.mask(number)[frame], frame)


def draw_region(rng: np.random.Generator, mask: BoolMask, frame: int) -> RegionPrompt:
    """A prompt of a random kind. mask: (H, W) bool, what is seen of the object on that frame; not empty.

    Points and scribbles have any radius up to the published one, which is large for small frames.
    """
    kind = pick(rng, KINDS)
    if kind == "mask":
        return Prompt.mask(mask, frame)
    if kind == "box":
        return _box(rng, mask, frame)
    if kind == "point":
        x, y = _some(rng, _deep(mask, _POINT_DEPTHS), 1)[0]
        return Prompt.point(x, y, frame, radius=int(rng.integers(4, POINT_RADIUS + 1)))
    vertices = sorted(_some(rng, _deep(mask, _SCRIBBLE_DEPTHS), 3))
    return Prompt.scribble(vertices, frame, radius=int(rng.integers(2, SCRIBBLE_RADIUS + 1)))


def _box(rng: np.random.Generator, mask: BoolMask, frame: int) -> RegionPrompt:
    """Around the object, its sides 0.9 to 1.1 of what they should be."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    edges = []
    for first, last in ((columns[0], columns[-1] + 1), (rows[0], rows[-1] + 1)):
        middle, half = (first + last) / 2, (last - first) / 2 * rng.uniform(0.9, 1.1)
        edges.append((float(middle - half), float(middle + half)))
    (left, right), (top, bottom) = edges
    return Prompt.box(left, top, right, bottom, frame)


def _deep(mask: BoolMask, depths: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """(n, 2) rows and columns of the pixels well inside, as deep as there are any."""
    height, width = mask.shape
    for depth in depths:
        edged = np.pad(mask, depth)
        up, down = edged[: -2 * depth, depth:-depth], edged[2 * depth :, depth:-depth]
        left, right = edged[depth:-depth, : -2 * depth], edged[depth:-depth, 2 * depth :]
        inside = mask & up & down & left & right
        assert inside.shape == (height, width), "padding and cutting cancel"
        if inside.any():
            return np.argwhere(inside)
    return np.argwhere(mask)


def _some(rng: np.random.Generator, pixels: npt.NDArray[np.int64], count: int) -> list[tuple[float, float]]:
    """x and y of `count` of the pixels."""
    chosen = pixels[rng.integers(len(pixels), size=count)]
    return [(float(column), float(row)) for row, column in chosen]
