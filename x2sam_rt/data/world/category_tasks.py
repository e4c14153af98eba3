"""Examples whose pixels are told by category."""

from __future__ import annotations

import numpy as np

from x2sam_rt.data.example import Target
from x2sam_rt.data.world.scene import Draft, Scene
from x2sam_rt.data.world.vocabulary import SHAPES, STUFF
from x2sam_rt.tasks.instruction import Instruction

_ALL = 0.6  # how often every category of the world is given, rather than some with those that are there


def by_category(task: str, scene: Scene, rng: np.random.Generator) -> Draft:
    clip = scene.clip
    things = _names(rng, SHAPES, {thing.shape for thing in clip.objects})
    stuff = _names(rng, STUFF, set(clip.stuff))
    targets = [scene.target(number, things.index(thing.shape)) for number, thing in enumerate(clip.objects)]
    for region, name in enumerate(clip.stuff):
        condition = len(things) + stuff.index(name)
        targets.append(Target(condition, clip.stuff_mask(region), len(clip.objects) + region))
    return Draft(
        Instruction(task, things=things, stuff=stuff),
        len(things) + len(stuff),
        tuple(target for target in targets if target.masks.any()),
        tags=frozenset({"unseen"} if clip.is_held_out(clip.focus) else ()),
    )


def _names(rng: np.random.Generator, names: tuple[str, ...], present: set[str]) -> tuple[str, ...]:
    """In any order: all of them, or those present and some more."""
    share = 1.0 if rng.random() < _ALL else float(rng.uniform(0, 0.7))
    return tuple(str(name) for name in rng.permutation(names) if name in present or rng.random() < share)
