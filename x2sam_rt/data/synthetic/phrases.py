"""Phrases that are true of exactly one object of a clip, and captions of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from x2sam_rt.data.synthetic.scene import SceneObject
from x2sam_rt.data.synthetic.settings import Motion
from x2sam_rt.tasks.marks import Mark, phrase, spell

Attribute = Literal["size", "texture", "colour", "shape", "motion"]

PAIR: frozenset[Attribute] = frozenset({"colour", "shape"})

# How often which attributes are named, where several choices are true of one object only.
_CHOICES: tuple[tuple[tuple[Attribute, ...], float], ...] = (
    (("colour", "shape"), 10),
    (("shape",), 1.5),
    (("colour",), 1.5),
    (("texture", "shape"), 2),
    (("size", "shape"), 1),
    (("size", "colour", "shape"), 2),
    (("texture", "colour", "shape"), 2),
    (("shape", "motion"), 2),
    (("colour", "shape", "motion"), 1.5),
    (("size", "texture", "colour", "shape"), 0.2),
    (("size", "texture", "colour", "shape", "motion"), 0.1),
)
_ORDER: tuple[Attribute, ...] = ("size", "texture", "colour")
_VERB_PHRASES: dict[Motion, str] = {
    "still": "stays still",
    "left": "moves left",
    "right": "moves right",
    "up": "moves up",
    "down": "moves down",
}


@dataclass(frozen=True)
class Phrase:
    """What is said of an object: the attributes that are named, and their values in the object it was made for."""

    attributes: tuple[Attribute, ...]
    meant: SceneObject

    @property
    def text(self) -> str:
        """ "the small red star that moves left"."""
        words = [getattr(self.meant, attribute) for attribute in _ORDER if attribute in self.attributes]
        words.append(self.meant.shape if "shape" in self.attributes else "object")
        moving = f" that {verb_phrase(self.meant)}" if "motion" in self.attributes else ""
        return f"the {' '.join(words)}{moving}"

    def true_of(self, thing: SceneObject) -> bool:
        return all(getattr(thing, attribute) == getattr(self.meant, attribute) for attribute in self.attributes)

    def singles_out(self, objects: Sequence[SceneObject]) -> bool:
        """Whether it is true of exactly one of them."""
        return sum(map(self.true_of, objects)) == 1

    def without_colour(self) -> Phrase:
        return Phrase(tuple(name for name in self.attributes if name != "colour"), self.meant)


def verb_phrase(thing: SceneObject) -> str:
    """ "moves left"."""
    return _VERB_PHRASES[thing.motion]


def draw_phrase(
    rng: np.random.Generator,
    objects: Sequence[SceneObject],
    number: int,
    *,
    moving: bool,
    needed: frozenset[Attribute] = frozenset(),
) -> Phrase:
    """A phrase true of object `number` only, with at least the `needed` attributes. moving: may say how it moves."""
    found = [
        (candidate, weight)
        for attributes, weight in _CHOICES
        if (moving or "motion" not in attributes)
        and needed <= set(attributes)
        and (candidate := Phrase(attributes, objects[number])).singles_out(objects)
    ]
    assert found, f"two objects of a clip never look the same in all: {objects}"
    weights = np.array([weight for _, weight in found])
    return found[int(rng.choice(len(found), p=weights / weights.sum()))][0]


def caption(objects: Sequence[SceneObject], *, moving: bool) -> str:
    """ "<p>a red circle</p> moves left and <p>a blue star</p> stays still. <SEG>.", the objects in the given order.

    moving: say how they move.
    """
    parts = [_part(thing, moving) for thing in objects]
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"{listed}. {Mark.SEG.value}."


def _part(thing: SceneObject, moving: bool) -> str:
    named = spell(phrase((f"a {thing.colour} {thing.shape}",)))
    return f"{named} {verb_phrase(thing)}" if moving else named
