"""Examples whose objects are told by words."""

from __future__ import annotations

import numpy as np

from x2sam_rt.data.world.objects import pick
from x2sam_rt.data.world.phrases import PAIR, phrase
from x2sam_rt.data.world.questions import questions
from x2sam_rt.data.world.scene import Draft, Scene
from x2sam_rt.tasks.instruction import Instruction


def referring(scene: Scene, rng: np.random.Generator, count: int | None) -> Draft:
    clip = scene.clip
    numbers = scene.choose(rng, count)
    said = []
    for number in numbers:
        # A held-out pair must be named; where colours go, the object must be told by what it will lose.
        by_pair = clip.is_held_out(number) or bool(clip.drained.any())
        needed = PAIR if by_pair else frozenset()
        said.append(phrase(rng, clip.objects, number, moving=scene.moving and not by_pair, needed=needed))
    hidden = scene.hidden(zip(numbers, said, strict=True))
    named = {attribute for one in said for attribute in one.attributes} & {"motion", "texture", "size"}
    return Draft(
        Instruction("referring", phrases=tuple(one.text for one in said)),
        len(numbers),
        tuple(scene.target(number, condition) for condition, number in enumerate(numbers)),
        tags=scene.tags(numbers, hidden) | named,
        hidden=hidden,
    )


def reasoning(scene: Scene, rng: np.random.Generator) -> Draft:
    """One question; of a clip with a held-out pair, one that this pair answers."""
    asked = questions(scene.clip, rng, moving=scene.moving)
    if scene.clip.is_held_out(scene.clip.focus):
        asked = [one for one in asked if one.answer == scene.clip.focus]
    kinds = sorted({one.kind for one in asked})
    kind = pick(rng, kinds)
    question = pick(rng, [one for one in asked if one.kind == kind])
    hidden = scene.hidden([(question.answer, scene.looks(question.answer))])
    return Draft(
        Instruction("reasoning", question=question.text),
        1,
        (scene.target(question.answer, 0),),
        tags=scene.tags([question.answer], hidden) | {question.kind},
        hidden=hidden,
    )
