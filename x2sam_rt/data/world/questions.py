"""Questions whose answer is one object, and must be found by looking at the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from x2sam_rt.data.world.clip import WorldClip
from x2sam_rt.data.world.phrases import PAIR, Phrase, does, phrase

_CLEARLY = 1.25  # times larger than the next
_ASIDE = 10 / 128  # of the frame's side between centres, for "left of" and the like
_HIDDEN_PIXELS = 30
_SIDES = (("left of", 0, -1), ("right of", 0, 1), ("above", 1, -1), ("below", 1, 1))


@dataclass(frozen=True)
class Question:
    """kind: one word, to draw all kinds equally often. answer: number of the object."""

    kind: str
    text: str
    answer: int


def questions(clip: WorldClip, rng: np.random.Generator, *, moving: bool) -> list[Question]:
    """Every kind of question that has exactly one true answer in all frames. moving: may speak of motion."""
    kinds: list[Callable[[WorldClip, np.random.Generator], Iterator[Question]]] = [
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


def _extremes(clip: WorldClip, _: np.random.Generator) -> Iterator[Question]:
    radii = [thing.radius for thing in clip.objects]
    order = np.argsort(radii)
    if len(radii) > 1 and radii[order[-1]] > _CLEARLY * radii[order[-2]]:
        yield Question("extreme", "which object is the largest?", int(order[-1]))
    if len(radii) > 1 and radii[order[1]] > _CLEARLY * radii[order[0]]:
        yield Question("extreme", "which object is the smallest?", int(order[0]))


def _textures(clip: WorldClip, _: np.random.Generator) -> Iterator[Question]:
    for number in range(len(clip.objects)):
        said = Phrase(("texture",), clip.objects[number])
        if said.singles_out(clip.objects):
            yield Question("texture", f"which object is {said.meant.texture}?", number)


def _motions(clip: WorldClip, _: np.random.Generator) -> Iterator[Question]:
    for number in range(len(clip.objects)):
        said = Phrase(("motion",), clip.objects[number])
        if said.singles_out(clip.objects):
            yield Question("motion", f"which object {does(said.meant)}?", number)


def _where(clip: WorldClip, rng: np.random.Generator) -> Iterator[Question]:
    for number in range(len(clip.objects)):
        said = phrase(rng, clip.objects, number, moving=False, needed=PAIR)
        yield Question("where", f"where is {said.text}?", number)


def _beside(clip: WorldClip, rng: np.random.Generator) -> Iterator[Question]:
    margin = _ASIDE * clip.frames.shape[1]
    for other, said in _named(clip, rng):
        away = clip.centres - clip.centres[:, other : other + 1]
        for words, axis, sign in _SIDES:
            beyond = away[:, :, axis] * sign
            there = np.flatnonzero((beyond > margin).all(axis=0))
            # Whatever is there for a while only, or hardly, would make the answer doubtful.
            if len(there) == 1 and int((beyond > -margin / 2).any(axis=0).sum()) == 2:
                yield Question("beside", f"what is {words} {said}?", int(there[0]))


def _behind(clip: WorldClip, rng: np.random.Generator) -> Iterator[Question]:
    for other, said in _named(clip, rng):
        hidden = clip.over[:, other].max(axis=0)
        behind = np.flatnonzero(hidden)
        if len(behind) == 1 and hidden[behind[0]] >= _HIDDEN_PIXELS:
            yield Question("behind", f"what hides behind {said}?", int(behind[0]))


def _alike(clip: WorldClip, rng: np.random.Generator) -> Iterator[Question]:
    for other, said in _named(clip, rng):
        for attribute in ("colour", "shape"):
            value = getattr(clip.objects[other], attribute)
            things = enumerate(clip.objects)
            alike = [number for number, thing in things if number != other and getattr(thing, attribute) == value]
            if len(alike) == 1:
                yield Question("alike", f"what has the same {attribute} as {said}?", alike[0])


def _named(clip: WorldClip, rng: np.random.Generator) -> Iterator[tuple[int, str]]:
    """Every object with a phrase true of it alone."""
    for number in range(len(clip.objects)):
        yield number, phrase(rng, clip.objects, number, moving=False).text
