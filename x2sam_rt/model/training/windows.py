"""Clips of one length out of examples of any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.example import Example, Target
from x2sam_rt.tasks.regions import RegionPrompt

Indices = npt.NDArray[np.int64]


def frames_from(start: int, count: int, length: int) -> Indices:
    """Numbers of `count` consecutive frames of a video of `length`; at its end it is played back, and on from its
    beginning."""
    period = max(1, 2 * (length - 1))
    there = (start + np.arange(count)) % period
    return np.where(there < length, there, period - there)


def random_window(example: Example, count: int, rng: np.random.Generator) -> Example:
    """`count` frames of an example at stride 1 (X2SAM, stage 2). They begin anywhere; where it has visual prompts, at
    the first one's frame. Raises DataError, naming the example, when another prompt's frame then lies outside."""
    length = len(example.frames)
    prompted = [region.frame for region in example.instruction.regions]
    start = min(prompted) if prompted else int(rng.integers(max(1, length - count + 1)))
    return cut(example, frames_from(start, count, length))


def cut(example: Example, frames: Indices) -> Example:
    """The example with these frames only, in this order; pixels no figure counts are background."""
    regions = tuple(_moved(region, frames, example) for region in example.instruction.regions)
    return Example(
        name=example.name,
        media=example.media,
        frames=example.frames[frames],
        instruction=replace(example.instruction, regions=regions),
        conditions=example.conditions,
        targets=tuple(Target(t.condition, t.masks[frames], t.id) for t in example.targets),
        answer=example.answer,
        tags=example.tags,
        labelled=_taken(example.labelled, frames),
        hidden=_taken(example.hidden, frames),
        attributes=_taken(example.attributes, frames),
        shown=_taken(example.shown, frames),
        seen=None if example.seen is None else min(example.seen, len(frames)),
    )


def _taken(array: npt.NDArray[Any] | None, frames: Indices) -> npt.NDArray[Any] | None:
    return None if array is None else array[frames]


def _moved(region: RegionPrompt, frames: Sequence[int] | Indices, example: Example) -> RegionPrompt:
    found = np.flatnonzero(np.asarray(frames) == region.frame)
    if not len(found):
        raise example.bad(
            f"its {region.kind} prompt lies on frame {region.frame}, outside the clip of frames {min(frames)} to "
            f"{max(frames)}; learn from longer clips"
        )
    return replace(region, frame=int(found[0]))
