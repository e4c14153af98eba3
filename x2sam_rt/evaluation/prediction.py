"""What is made of an example: by a runtime, or by anything else that is to be measured the same way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from x2sam_rt.data.example import Example
from x2sam_rt.errors import DataError, EngineError, FrameError, PromptError
from x2sam_rt.runtime.prompt_frames import PROMPT_FRAMES, PromptFrames
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.tasks.marks import LinkedText


@dataclass(frozen=True)
class Showing:
    """live: the language model sees the first frame only, as a live stream begins; otherwise the whole clip, at most
    16 evenly spaced frames of it (the published protocol). forget: every frame is segmented as the first of its
    stream, by the same answer: the control that shows what the memory is worth.
    """

    live: bool = False
    forget: bool = False


@dataclass(frozen=True, eq=False)
class Prediction:
    """frames: one result per frame of the example, in order and in its own size; made while one goes through them,
    which is possible once. text: what the model answered, its phrases linked to `Segment.label_id`. drew: whether the
    answer had the token masks are drawn for; without it no frame has a segment. instruction_ms: how long the language
    model took.
    """

    frames: Iterable[FrameResult]
    text: LinkedText
    drew: bool
    instruction_ms: float


class Segmenter(Protocol):
    """Something that can be measured."""

    def predict(self, example: Example, showing: Showing) -> AbstractContextManager[Prediction]:
        """Leaving the context gives the stream's memory back. Raises, here or while going through the frames,
        FrameError, PromptError or EngineError for what cannot be segmented."""


@contextlib.contextmanager
def predicted(segmenter: Segmenter, example: Example, showing: Showing) -> Iterator[Prediction]:
    """The prediction, with the example's name in every complaint.

    Raises DataError for an example that cannot be asked or segmented, EngineError for an engine that fails on it.
    """
    try:
        with segmenter.predict(example, showing) as prediction:
            yield prediction
    except (FrameError, PromptError) as error:
        raise DataError(f"Example {example.name}: {error}") from error
    except EngineError as error:
        raise EngineError(f"Example {example.name}: {error}") from error


def shown_clip(example: Example, showing: Showing) -> PromptFrames:
    """The frames the language model is shown, and those the visual prompts are drawn on."""
    frames = [torch.from_numpy(np.ascontiguousarray(frame)) for frame in example.frames]
    until = 1 if showing.live else example.seen or len(frames)
    places = np.linspace(0, until - 1, min(PROMPT_FRAMES, until)).round().astype(int)
    prompted = {
        region.frame: frames[region.frame] for region in example.instruction.regions if region.frame < len(frames)
    }
    return PromptFrames(tuple(frames[place] for place in places), prompted)
