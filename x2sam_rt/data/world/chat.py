"""Questions with short answers in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from x2sam_rt.data.world.clip import WorldClip
from x2sam_rt.data.world.objects import pick
from x2sam_rt.data.world.phrases import Attribute, Phrase, phrase
from x2sam_rt.data.world.vocabulary import PAIRS, SEEN_PAIRS

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
Exchange = tuple[str, str]


def exchange(clip: WorldClip, rng: np.random.Generator, *, moving: bool) -> Exchange:
    """A question about the clip and its answer, every kind that can be asked equally often."""
    kinds: list[Callable[[WorldClip, np.random.Generator], Iterator[Exchange]]] = [_count, _presence, _ground]
    kinds += [_colour, _shape, _texture] + ([_motion] if moving else [])
    asked = [found for kind in kinds if (found := list(kind(clip, rng)))]
    return pick(rng, pick(rng, asked))


def _count(clip: WorldClip, _: np.random.Generator) -> Iterator[Exchange]:
    yield "how many objects are there?", f"{_NUMBERS[len(clip.objects)]}."


def _presence(clip: WorldClip, rng: np.random.Generator) -> Iterator[Exchange]:
    """As many questions answered yes as no; pairs kept from training are not named unless the clip shows one."""
    there = {thing.pair for thing in clip.objects}
    shown = any(clip.is_held_out(number) for number in range(len(clip.objects)))
    absent = [pair for pair in (PAIRS if shown else SEEN_PAIRS) if pair not in there]
    for pairs, answer in ((sorted(there), "yes."), (absent, "no.")):
        colour, shape = pick(rng, pairs)
        yield f"is there a {colour} {shape}?", answer


def _ground(clip: WorldClip, _: np.random.Generator) -> Iterator[Exchange]:
    yield "what is at the bottom?", f"{clip.stuff[1]}."
    yield "what is at the top?", f"{clip.stuff[0]}."


def _colour(clip: WorldClip, _: np.random.Generator) -> Iterator[Exchange]:
    yield from _told(clip, ("shape",), "what colour is {}?", "colour")


def _shape(clip: WorldClip, _: np.random.Generator) -> Iterator[Exchange]:
    yield from _told(clip, ("colour",), "what shape is {}?", "shape")


def _texture(clip: WorldClip, rng: np.random.Generator) -> Iterator[Exchange]:
    yield from _told(clip, ("colour", "shape"), "is {} plain, striped or dotted?", "texture")


def _motion(clip: WorldClip, rng: np.random.Generator) -> Iterator[Exchange]:
    for number, thing in enumerate(clip.objects):
        said = phrase(rng, clip.objects, number, moving=False)
        answer = "it stays still." if thing.motion == "still" else f"{thing.motion}."
        yield f"where does {said.text} move?", answer


def _told(clip: WorldClip, by: tuple[Attribute, ...], question: str, asked: Attribute) -> Iterator[Exchange]:
    for thing in clip.objects:
        said = Phrase(by, thing)
        if said.singles_out(clip.objects):
            yield question.format(said.text), f"{getattr(thing, asked)}."
