"""What every post-processing rule starts from: a frame's logits, the conditions' names and a user's options."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from x2sam_rt.errors import ConfigError
from x2sam_rt.runtime.results import Segmentation

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class FrameLogits:
    """mask_logits: (Q, h, w) fp32, on any grid; class_logits: (Q, C + 1) fp32, background last.

    side: S, the segmentor's input side. scaled_size: (height, width) of the frame inside the S×S input, the rest is
    padding. original_size: (height, width) of the frame itself.
    """

    mask_logits: Tensor
    class_logits: Tensor
    side: int
    scaled_size: Size
    original_size: Size

    def probabilities(self, labels: int) -> Tensor:
        """(Q, labels): softmax over the conditions and the background; background and padding left out."""
        return self.class_logits.softmax(-1)[:, :-1][:, :labels]


class PostProcessor(Protocol):
    """Turns a frame's logits into segments; may remember earlier frames of the stream."""

    def __call__(self, frame: FrameLogits) -> Segmentation: ...


@dataclass(frozen=True)
class PostProcessOptions:
    """threshold: the score (for panoptic and object: the class probability) a result must reach; None = the task's own.

    mask_threshold: sigmoid above which a pixel belongs to a mask. overlap: the part of its own area a panoptic
    segment must keep. restart_ids: number new panoptic things from 1 in every frame, as published, where one
    number can mean two things; otherwise a number is never given twice in a stream.
    The defaults are the published ones; the tasks' own thresholds are those of the published recordings.
    """

    threshold: float | None = None
    mask_threshold: float = 0.5
    overlap: float = 0.8
    restart_ids: bool = False

    def __post_init__(self) -> None:
        for name, value in (
            ("threshold", self.threshold),
            ("mask_threshold", self.mask_threshold),
            ("overlap", self.overlap),
        ):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{name}={value}: a number from 0 to 1 is wanted.")

    def resolved(self, task_threshold: float) -> PostProcessOptions:
        return replace(self, threshold=task_threshold) if self.threshold is None else self

    @property
    def least_score(self) -> float:
        assert self.threshold is not None, "options are resolved by Task.postprocessor"
        return self.threshold


@dataclass(frozen=True)
class Conditions:
    """One label per condition, without the background; is_thing says which are countable things. An answer without
    phrases has none."""

    labels: tuple[str, ...]
    is_thing: tuple[bool, ...]

    def __post_init__(self) -> None:
        assert len(self.labels) == len(self.is_thing), "every condition is a thing or stuff"

    def __len__(self) -> int:
        return len(self.labels)


class OneThread:
    """Runs a post-processor without PyTorch's thread pool.

    The work is many small operations, tens of milliseconds in all: a second thread saves little, and where an engine's
    own threads keep the cores busy, waiting for it at the end of every operation has been seen to take seconds.
    The setting is the calling thread's own (OpenMP); it is put back after the call.
    """

    def __init__(self, post: PostProcessor) -> None:
        self._post = post

    def __call__(self, frame: FrameLogits) -> Segmentation:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._post(frame)
        finally:
            torch.set_num_threads(threads)
