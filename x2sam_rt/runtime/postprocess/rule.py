"""What every post-processing rule starts from: a frame's logits, the conditions' names and a user's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from x2sam_rt.runtime.device import one_thread
from x2sam_rt.runtime.postprocess.state import RuleState
from x2sam_rt.runtime.results import Segmentation
from x2sam_rt.tasks.table import Conditions

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

    @property
    def device(self) -> torch.device:
        return self.mask_logits.device

    def probabilities(self, labels: int) -> Tensor:
        """(Q, labels): softmax over the conditions and the background; background and padding left out."""
        return self.class_logits.softmax(-1)[:, :-1][:, :labels]

    def wanted_probability(self, conditions: Conditions) -> Tensor:
        """(Q,): of the wanted conditions the most probable one's."""
        probabilities = self.probabilities(len(conditions))
        return torch.stack([probabilities[:, k] for k, wanted in enumerate(conditions.is_thing) if wanted]).amax(0)


class PostProcessor(Protocol):
    """Turns a frame's logits into segments; may remember earlier frames of the stream."""

    def __call__(self, frame: FrameLogits) -> Segmentation: ...

    def state(self) -> RuleState:
        """Nothing, unless a rule says otherwise."""
        return RuleState()

    def restore(self, state: RuleState, logits: torch.Size) -> None:
        """state: with its masks where the frames' logits are. logits: (Q, h, w), the shape of a frame's. Raises
        SnapshotError for what this rule does not remember."""
        state.nothing()


def one_mask(masks: Tensor | None) -> Tensor:
    """The (S, S) bool mask of the one visual prompt of a rule that has exactly one."""
    assert masks is not None, "the rule needs the prompt's mask"
    assert len(masks) == 1, "one prompt, one mask"
    return masks[0] != 0


class OneThread(PostProcessor):
    """Runs a post-processor in `one_thread`."""

    def __init__(self, post: PostProcessor) -> None:
        self._post = post

    def __call__(self, frame: FrameLogits) -> Segmentation:
        with one_thread():
            return self._post(frame)

    def state(self) -> RuleState:
        return self._post.state()

    def restore(self, state: RuleState, logits: torch.Size) -> None:
        self._post.restore(state, logits)
