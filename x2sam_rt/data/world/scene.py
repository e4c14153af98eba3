"""A clip seen as an example's medium, and what examples say about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from x2sam_rt.data.example import Target
from x2sam_rt.data.world.clip import WorldClip
from x2sam_rt.data.world.objects import WorldObject, pick
from x2sam_rt.data.world.phrases import Attribute, Phrase
from x2sam_rt.media.types import BoolMask
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.table import Media

_COVERED = 0.4  # of an object: from here on a frame does not show by itself which object is meant
_LOOKS: tuple[Attribute, ...] = ("size", "texture", "colour", "shape")
_FOCUS = 0.7  # how often the first object asked for is the one that others were drawn to resemble


@dataclass(frozen=True, eq=False)
class Draft:
    """What a task makes of a scene; the fields are those of an example."""

    instruction: Instruction
    conditions: int
    targets: tuple[Target, ...]
    answer: str | None = None
    tags: frozenset[str] = frozenset()
    hidden: BoolMask | None = None


@dataclass(frozen=True, eq=False)
class Scene:
    """clip: of one frame if the medium is an image."""

    clip: WorldClip
    media: Media

    @property
    def objects(self) -> tuple[WorldObject, ...]:
        return self.clip.objects

    @property
    def moving(self) -> bool:
        """Whether it may be said how objects move."""
        return self.media == "video" and len(self.clip.frames) > 1

    def target(self, number: int, condition: int) -> Target:
        return Target(condition, self.clip.mask(number), number)

    def choose(self, rng: np.random.Generator, count: int | None) -> list[int]:
        """Different objects to ask for. None: 1 to 3 in an image, 1 or 2 in a video, 1 where colours are drained.

        The first is the focus object more often than not, and always where it is a held-out pair or colours go.
        """
        drained = bool(self.clip.drained.any())
        if count is None:
            count = 1 if drained else int(rng.integers(1, 4 if self.media == "image" else 3))
        numbers = [int(number) for number in rng.permutation(len(self.objects))]
        if drained or self.clip.is_held_out(self.clip.focus) or rng.random() < _FOCUS:
            numbers.sort(key=lambda number: number != self.clip.focus)
        return numbers[:count]

    def tags(self, numbers: Sequence[int], hidden: BoolMask) -> frozenset[str]:
        """Of an example that asks for these objects."""
        found = {"unseen"} if any(map(self.clip.is_held_out, numbers)) else set()
        if len(numbers) == 1:
            found |= self._look_alikes(numbers[0])
        if (hidden & self.clip.drained).any():
            found.add("drained")
        if self._covered(numbers).any():
            found.add("occluded")
        return frozenset(found)

    def hidden(self, meant: Iterable[tuple[int, Phrase]]) -> BoolMask:
        """(T,) bool: frames that do not show by themselves which objects are meant, each as its phrase says."""
        flags = np.zeros(len(self.clip.frames), dtype=np.bool_)
        for number, said in meant:
            flags |= self._covered([number])
            if not said.without_colour().singles_out(self.objects):
                flags |= self.clip.drained
        return flags

    def looks(self, number: int) -> Phrase:
        """All that can be seen of an object in one frame."""
        return Phrase(_LOOKS, self.objects[number])

    def _covered(self, numbers: Sequence[int]) -> BoolMask:
        covered = self.clip.covered[:, list(numbers)].max(axis=1, initial=0)
        flags: BoolMask = covered > _COVERED
        return flags

    def _look_alikes(self, number: int) -> set[str]:
        meant = self.objects[number]
        others = [thing for thing in self.objects if thing is not meant]
        found = {"same_colour"} if any(thing.colour == meant.colour for thing in others) else set()
        return found | ({"same_shape"} if any(thing.shape == meant.shape for thing in others) else set())


def still(clip: WorldClip, rng: np.random.Generator) -> WorldClip:
    """One frame of the clip, in colour, in which much of every object is seen (the first always is such a one)."""
    clear = ~clip.drained & (clip.covered <= 1 - _COVERED).all(axis=1)
    clear[0] = True
    return clip.still(int(pick(rng, np.flatnonzero(clear).tolist())))
