"""Questions about a clip: those that one of its objects answers, and those that are answered in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from x2sam_rt.data.synthetic.clip import SyntheticClip
from x2sam_rt.data.synthetic.phrases import PAIR, Attribute, Phrase, draw_phrase, verb_phrase
from x2sam_rt.data.synthetic.settings import PAIRS, SEEN_PAIRS, pick

_CLEARLY = 1.25  # times larger than the next
_ASIDE = 10 / 128  # of the frame's side between centres, for "left of" and the like
_HIDDEN_PIXELS = 30
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_SIDES = (("left of", 0, -1), ("right of", 0, 1), ("above", 1, -1), ("below", 1, 1))
WordQuestion = tuple[str, str]  # and its answer


@dataclass(frozen=True)
class ObjectQuestion:
    """kind: one word, to draw all kinds equally often. answer: number of the object."""

    kind: str
    text: str
    answer: int


def object_questions(clip: SyntheticClip, rng: np.random.Generator, *, moving: bool) -> list[ObjectQuestion]:
    """Every kind of question that has exactly one true answer in all frames. moving: may speak of motion."""
    kinds: list[Callable[[SyntheticClip, np.random.Generator], Iterator[ObjectQuestion]]] = [
        _extremes,
        _textures,
        _beside,
        _behind,
        _alike,
        _where,
    ]
    if moving:
        kinds.append(_motions)
    return [question for kind in kinds for question in kind(clip, rng)]


def _extremes(clip: SyntheticClip, _: np.random.Generator) -> Iterator[ObjectQuestion]:
    radii = [thing.radius for thing in clip.objects]
    order = np.argsort(radii)
    if len(radii) > 1 and radii[order[-1]] > _CLEARLY * radii[order[-2]]:
        yield ObjectQuestion("extreme", "which object is the largest?", int(order[-1]))
    if len(radii) > 1 and radii[order[1]] > _CLEARLY * radii[order[0]]:
        yield ObjectQuestion("extreme", "which object is the smallest?", int(order[0]))


def _textures(clip: SyntheticClip, _: np.random.Generator) -> Iterator[ObjectQuestion]:
    for number in range(len(clip.objects)):
        said = Phrase(("texture",), clip.objects[number])
        if said.singles_out(clip.objects):
            yield ObjectQuestion("texture", f"which object is {said.meant.texture}?", number)


def _motions(clip: SyntheticClip, _: np.random.Generator) -> Iterator[ObjectQuestion]:
    for number in range(len(clip.objects)):
        said = Phrase(("motion",), clip.objects[number])
        if said.singles_out(clip.objects):
            yield ObjectQuestion("motion", f"which object {verb_phrase(said.meant)}?", number)


def _where(clip: SyntheticClip, rng: np.random.Generator) -> Iterator[ObjectQuestion]:
    for number in range(len(clip.objects)):
        said = draw_phrase(rng, clip.objects, number, moving=False, needed=PAIR)
        yield ObjectQuestion("where", f"where is {said.text}?", number)


def _beside(clip: SyntheticClip, rng: np.random.Generator) -> Iterator[ObjectQuestion]:
    margin = _ASIDE * clip.frames.shape[1]
    for other, said in _named(clip, rng):
        away = clip.centres - clip.centres[:, other : other + 1]
        for words, axis, sign in _SIDES:
            beyond = away[:, :, axis] * sign
            there = np.flatnonzero((beyond > margin).all(axis=0))
            # Whatever is there for a while only, or hardly, would make the answer doubtful.
            if len(there) == 1 and int((beyond > -margin / 2).any(axis=0).sum()) == 2:
                yield ObjectQuestion("beside", f"what is {words} {said}?", int(there[0]))


def _behind(clip: SyntheticClip, rng: np.random.Generator) -> Iterator[ObjectQuestion]:
    for other, said in _named(clip, rng):
        hidden = clip.overlap[:, other].max(axis=0)
        behind = np.flatnonzero(hidden)
        if len(behind) == 1 and hidden[behind[0]] >= _HIDDEN_PIXELS:
            yield ObjectQuestion("behind", f"what hides behind {said}?", int(behind[0]))


def _alike(clip: SyntheticClip, rng: np.random.Generator) -> Iterator[ObjectQuestion]:
    for other, said in _named(clip, rng):
        for attribute in ("colour", "shape"):
            value = getattr(clip.objects[other], attribute)
            things = enumerate(clip.objects)
            alike = [number for number, thing in things if number != other and getattr(thing, attribute) == value]
            if len(alike) == 1:
                yield ObjectQuestion("alike", f"what has the same {attribute} as {said}?", alike[0])


def _named(clip: SyntheticClip, rng: np.random.Generator) -> Iterator[tuple[int, str]]:
    """Every object with a phrase true of it alone."""
    for number in range(len(clip.objects)):
        yield number, draw_phrase(rng, clip.objects, number, moving=False).text


def word_question(clip: SyntheticClip, rng: np.random.Generator, *, moving: bool) -> WordQuestion:
    """A question about the clip and its answer, every kind that can be asked equally often."""
    kinds: list[Callable[[SyntheticClip, np.random.Generator], Iterator[WordQuestion]]] = [_count, _presence, _ground]
    kinds += [_colour, _shape, _texture] + ([_motion] if moving else [])
    asked = [found for kind in kinds if (found := list(kind(clip, rng)))]
    return pick(rng, pick(rng, asked))


def _count(clip: SyntheticClip, _: np.random.Generator) -> Iterator[WordQuestion]:
    yield "how many objects are there?", f"{_NUMBERS[len(clip.objects)]}."


def _presence(clip: SyntheticClip, rng: np.random.Generator) -> Iterator[WordQuestion]:
    """As many questions answered yes as no; pairs kept from training are not named unless the clip shows one."""
    there = {thing.pair for thing in clip.objects}
    shown = any(clip.is_held_out(number) for number in range(len(clip.objects)))
    absent = [pair for pair in (PAIRS if shown else SEEN_PAIRS) if pair not in there]
    for pairs, answer in ((sorted(there), "yes."), (absent, "no.")):
        colour, shape = pick(rng, pairs)
        yield f"is there a {colour} {shape}?", answer


def _ground(clip: SyntheticClip, _: np.random.Generator) -> Iterator[WordQuestion]:
    yield "what is at the bottom?", f"{clip.stuff[1]}."
    yield "what is at the top?", f"{clip.stuff[0]}."


def _colour(clip: SyntheticClip, _: np.random.Generator) -> Iterator[WordQuestion]:
    yield from _told(clip, ("shape",), "what colour is {}?", "colour")


def _shape(clip: SyntheticClip, _: np.random.Generator) -> Iterator[WordQuestion]:
    yield from _told(clip, ("colour",), "what shape is {}?", "shape")


def _texture(clip: SyntheticClip, rng: np.random.Generator) -> Iterator[WordQuestion]:
    yield from _told(clip, ("colour", "shape"), "is {} plain, striped or dotted?", "texture")


def _motion(clip: SyntheticClip, rng: np.random.Generator) -> Iterator[WordQuestion]:
    for number, thing in enumerate(clip.objects):
        said = draw_phrase(rng, clip.objects, number, moving=False)
        answer = "it stays still." if thing.motion == "still" else f"{thing.motion}."
        yield f"where does {said.text} move?", answer


def _told(clip: SyntheticClip, by: tuple[Attribute, ...], question: str, asked: Attribute) -> Iterator[WordQuestion]:
    for thing in clip.objects:
        said = Phrase(by, thing)
        if said.singles_out(clip.objects):
            yield question.format(said.text), f"{getattr(thing, asked)}."
