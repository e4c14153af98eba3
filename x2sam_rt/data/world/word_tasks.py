"""Examples whose answer the model must write."""

from __future__ import annotations

import numpy as np

from x2sam_rt.data.world.captions import caption
from x2sam_rt.data.world.chat import exchange
from x2sam_rt.data.world.scene import Draft, Scene
from x2sam_rt.tasks.instruction import Instruction


def chat(scene: Scene, rng: np.random.Generator) -> Draft:
    question, answer = exchange(scene.clip, rng, moving=scene.moving)
    tags = frozenset({"unseen"} if scene.clip.is_held_out(scene.clip.focus) else ())
    return Draft(Instruction("chat", question=question), 0, (), answer=answer, tags=tags)


def grounded_caption(scene: Scene) -> Draft:
    """All objects, from left to right as they stand in the first frame."""
    numbers = [int(number) for number in np.argsort(scene.clip.centres[0, :, 0], kind="stable")]
    hidden = scene.hidden((number, scene.looks(number)) for number in numbers)
    return Draft(
        Instruction("gcg"),
        len(numbers),
        tuple(scene.target(number, condition) for condition, number in enumerate(numbers)),
        answer=caption([scene.objects[number] for number in numbers], moving=scene.moving),
        tags=scene.tags(numbers, hidden),
        hidden=hidden,
    )
