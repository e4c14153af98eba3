"""Examples whose objects are told by visual prompts."""

from __future__ import annotations

import numpy as np

from x2sam_rt.data.world.prompting import region
from x2sam_rt.data.world.scene import Draft, Scene
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import RegionPrompt


def one_region(task: str, scene: Scene, rng: np.random.Generator) -> Draft:
    return _by_regions(task, scene, rng, scene.choose(rng, 1))


def several_regions(scene: Scene, rng: np.random.Generator, count: int | None) -> Draft:
    return _by_regions("vgd", scene, rng, scene.choose(rng, int(rng.integers(1, 4)) if count is None else count))


def _by_regions(task: str, scene: Scene, rng: np.random.Generator, numbers: list[int]) -> Draft:
    prompts = tuple(_prompt(scene, rng, number) for number in numbers)
    hidden = scene.hidden((number, scene.looks(number)) for number in numbers)
    return Draft(
        Instruction(task, regions=prompts),
        len(numbers),
        tuple(scene.target(number, condition) for condition, number in enumerate(numbers)),
        tags=scene.tags(numbers, hidden) | {prompt.kind for prompt in prompts},
        hidden=hidden,
    )


def _prompt(scene: Scene, rng: np.random.Generator, number: int) -> RegionPrompt:
    """On the first frame that shows the object."""
    frame = int(np.flatnonzero(scene.clip.visible[:, number])[0])
    return region(rng, scene.clip.mask(number)[frame], frame)
