"""The objects of a clip: what words are true of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from x2sam_rt.data.world.settings import WorldSettings
from x2sam_rt.data.world.vocabulary import (
    COLOURS,
    HELD_OUT,
    MOTIONS,
    RADIUS,
    SEEN_PAIRS,
    SHAPES,
    SIZES,
    TEXTURES,
    Colour,
    Motion,
    Shape,
    Size,
    Texture,
)

T = TypeVar("T")


@dataclass(frozen=True)
class WorldObject:
    """radius: pixels, before its size pulsates."""

    shape: Shape
    colour: Colour
    texture: Texture
    size: Size
    motion: Motion
    radius: float

    @property
    def pair(self) -> tuple[Colour, Shape]:
        return self.colour, self.shape

    @property
    def shape_index(self) -> int:
        return SHAPES.index(self.shape)

    @property
    def colour_index(self) -> int:
        return COLOURS.index(self.colour)

    @property
    def texture_index(self) -> int:
        return TEXTURES.index(self.texture)


def draw_objects(rng: np.random.Generator, settings: WorldSettings, drained: bool) -> list[WorldObject]:
    """The focus object first, then those that are easily taken for it, then others.

    drained: colours will go, so the object of the same shape looks the same in all else.
    """
    count = int(rng.integers(settings.min_objects, settings.max_objects + 1))
    pairs = sorted(HELD_OUT) if settings.split == "unseen" else SEEN_PAIRS
    focus = _object(rng, settings, pick(rng, pairs))
    others = _look_alikes(rng, settings, focus, drained)[: count - 1]
    while len(others) < count - 1:
        taken = {focus.pair, *(other.pair for other in others)}
        others.append(_object(rng, settings, pick(rng, [pair for pair in SEEN_PAIRS if pair not in taken])))
    return [focus, *others]


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    return choices[int(rng.integers(len(choices)))]


def _look_alikes(
    rng: np.random.Generator, settings: WorldSettings, focus: WorldObject, drained: bool
) -> list[WorldObject]:
    """At most one twin, one of the same shape and one of the same colour; the order is drawn, as a clip may have no
    room for all, but where colours go the one of the same shape is the first.
    """
    found = list[WorldObject]()
    twin, same_shape, same_colour = rng.random(3) < (settings.twins, settings.same_shape, settings.same_colour)
    if same_shape:
        pairs = [pair for pair in SEEN_PAIRS if pair[1] == focus.shape and pair != focus.pair]
        alike = _object(rng, settings, pick(rng, pairs))
        if drained:
            alike = replace(alike, texture=focus.texture, size=focus.size, radius=focus.radius)
        found.append(alike)
    if same_colour:
        pairs = [pair for pair in SEEN_PAIRS if pair[0] == focus.colour and pair != focus.pair]
        found.insert(0 if not drained and rng.random() < 0.5 else len(found), _object(rng, settings, pick(rng, pairs)))
    if twin and not drained and settings.split == "seen":
        found.insert(0, _twin(rng, settings, focus))
    return found


def _twin(rng: np.random.Generator, settings: WorldSettings, focus: WorldObject) -> WorldObject:
    twin = _object(rng, settings, focus.pair)
    if rng.random() < 0.5:
        return replace(twin, texture=pick(rng, [texture for texture in TEXTURES if texture != focus.texture]))
    size = pick(rng, [size for size in SIZES if size != focus.size])
    return replace(twin, size=size, radius=_radius(rng, settings, size))


def _object(rng: np.random.Generator, settings: WorldSettings, pair: tuple[Colour, Shape]) -> WorldObject:
    colour, shape = pair
    size = pick(rng, SIZES)
    return WorldObject(shape, colour, pick(rng, TEXTURES), size, pick(rng, MOTIONS), _radius(rng, settings, size))


def _radius(rng: np.random.Generator, settings: WorldSettings, size: Size) -> float:
    return float(rng.uniform(*RADIUS[size])) * settings.scale
