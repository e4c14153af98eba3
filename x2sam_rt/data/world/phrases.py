"""Phrases that are true of exactly one object of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from x2sam_rt.data.world.objects import WorldObject
from x2sam_rt.data.world.vocabulary import Motion

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
_DOES: dict[Motion, str] = {
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
    meant: WorldObject

    @property
    def text(self) -> str:
        """ "the small red star that moves left"."""
        words = [getattr(self.meant, attribute) for attribute in _ORDER if attribute in self.attributes]
        words.append(self.meant.shape if "shape" in self.attributes else "object")
        moving = f" that {does(self.meant)}" if "motion" in self.attributes else ""
        return f"the {' '.join(words)}{moving}"

    def true_of(self, thing: WorldObject) -> bool:
        return all(getattr(thing, attribute) == getattr(self.meant, attribute) for attribute in self.attributes)

    def singles_out(self, objects: Sequence[WorldObject]) -> bool:
        """Whether it is true of exactly one of them."""
        return sum(map(self.true_of, objects)) == 1

    def without_colour(self) -> Phrase:
        return Phrase(tuple(name for name in self.attributes if name != "colour"), self.meant)


def does(thing: WorldObject) -> str:
    """ "moves left"."""
    return _DOES[thing.motion]


def phrase(
    rng: np.random.Generator,
    objects: Sequence[WorldObject],
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
