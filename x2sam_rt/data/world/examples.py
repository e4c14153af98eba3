"""A clip turned into one example of a task."""

from __future__ import annotations

import numpy as np

from x2sam_rt.data.example import Example
from x2sam_rt.data.world.attributes import attributes, shown
from x2sam_rt.data.world.category_tasks import by_category
from x2sam_rt.data.world.clip import WorldClip
from x2sam_rt.data.world.phrase_tasks import reasoning, referring
from x2sam_rt.data.world.region_tasks import one_region, several_regions
from x2sam_rt.data.world.scene import Draft, Scene, still
from x2sam_rt.data.world.word_tasks import chat, grounded_caption
from x2sam_rt.errors import PromptError
from x2sam_rt.tasks.table import Media, task


def example(
    clip: WorldClip,
    task_name: str,
    rng: np.random.Generator,
    *,
    media: Media,
    phrases: int | None = None,
    name: str = "world",
) -> Example:
    """An example of one task about the clip; an image example shows one of its clear frames, drawn by `still`.

    phrases: how many to refer to, or how many regions of vgd (None: 1 to 3, of referring in a video 1 or 2, and 1
    where colours are drained); a clip with fewer objects gives fewer. Raises PromptError for a task there is not or
    that this medium does not have.
    """
    if media not in (row := task(task_name)).media:
        raise PromptError(f"{row.name} is for {' and '.join(row.media)}s, not for {media}s.")
    scene = Scene(still(clip, rng) if media == "image" else clip, media)
    draft = _draft(row.name, scene, rng, phrases)
    return Example(
        name=name,
        media=media,
        frames=scene.clip.frames,
        instruction=draft.instruction,
        conditions=draft.conditions,
        targets=draft.targets,
        answer=draft.answer,
        tags=draft.tags,
        labelled=np.ones(len(scene.clip.frames), dtype=np.bool_),
        hidden=draft.hidden,
        attributes=attributes(scene.clip),
        shown=shown(scene.clip),
    )


def _draft(task_name: str, scene: Scene, rng: np.random.Generator, count: int | None) -> Draft:
    match task_name:
        case "referring":
            return referring(scene, rng, count)
        case "reasoning":
            return reasoning(scene, rng)
        case "panoptic" | "semantic" | "instance":
            return by_category(task_name, scene, rng)
        case "gcg":
            return grounded_caption(scene)
        case "chat":
            return chat(scene, rng)
        case "interactive" | "object":
            return one_region(task_name, scene, rng)
        case "vgd":
            return several_regions(scene, rng, count)
    raise PromptError(f"The made-up world has no examples of the task {task_name!r}.")
