"""When the language model is asked again: because time passed, or because the masks changed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from x2sam_rt.errors import ConfigError, SnapshotError
from x2sam_rt.runtime.results import Segmentation

Policy = Literal["once", "every", "on_change"]
_SPELLED = re.compile(
    r"(once|every=(?P<frames>\d{1,9})|on_change(=(?P<threshold>[01]?\.?\d{1,6}))?)(?P<more>(:forget)?(:beside)?)"
)
_PUBLISHED = 8  # frames of the clips the model was trained on and is evaluated on


@dataclass(frozen=True)
class ReAsk:
    """When an instruction is asked again, on the frames seen last.

    once: never. every: every `frames` frames. on_change: when the masks lose consistency. A frame's consistency is the
    IoU of all its masks together with those of the frame before (1 where both have none); once it has been below
    `threshold`, or while there are no masks at all, the instruction is asked again, though not sooner than `frames`
    frames after it was asked last.

    keep_memory: False empties the memory with each new answer. wait: False answers beside the stream. An answer
    without masks then says that there is nothing new: the one in force stays.
    """

    policy: Policy = "once"
    frames: int = _PUBLISHED
    threshold: float = 0.5
    keep_memory: bool = True
    wait: bool = True

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ConfigError(f"An instruction cannot be asked again every {self.frames} frames; wanted 1 or more.")
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"The consistency below which is asked again is {self.threshold}; wanted 0 to 1.")

    @classmethod
    def parse(cls, text: str) -> ReAsk:
        """`once`, `every=8`, `on_change` or `on_change=0.5`; behind it `:forget` (keep_memory=False) and `:beside`
        (wait=False). Raises ConfigError for anything else."""
        found = _SPELLED.fullmatch(text)
        if found is None:
            raise ConfigError(
                f"{text!r} does not say when to ask again; wanted once, every=8 or on_change=0.5, with :forget behind "
                "it to empty the memory."
            )
        frames, threshold, more = found["frames"], found["threshold"], found["more"]
        policy: Policy = "every" if frames else "once" if text.startswith("once") else "on_change"
        return cls(
            policy,
            frames=int(frames) if frames else _PUBLISHED,
            threshold=float(threshold) if threshold else 0.5,
            keep_memory=":forget" not in more,
            wait=":beside" not in more,
        )

    def __str__(self) -> str:
        """As `parse` takes it."""
        number = {"once": "", "every": f"={self.frames}", "on_change": f"={self.threshold:g}"}[self.policy]
        return self.policy + number + ":forget" * (not self.keep_memory) + ":beside" * (not self.wait)


ONCE = ReAsk()


class ReAskState:
    """A policy at work on one stream."""

    def __init__(self, policy: ReAsk) -> None:
        self.policy = policy
        self._since, self._changed = 0, False
        self._before: Tensor | None = None

    def asked(self) -> None:
        """An instruction is asked on the frame that comes next."""
        self._since, self._changed = 0, False

    def state(self) -> tuple[int, bool, Tensor | None]:
        return self._since, self._changed, self._before

    def restore(self, since: int, changed: bool, before: Tensor | None) -> None:
        """Raises SnapshotError for masks that are none."""
        if before is not None and (before.dtype != torch.bool or before.ndim != 2):
            raise SnapshotError(f"The masks before are {before.dtype} {tuple(before.shape)}; wanted (H, W) bool.")
        self._since, self._changed, self._before = since, changed, before

    def observe(self, segmentation: Segmentation) -> None:
        """The frame that was segmented last."""
        self._since += 1
        if self.policy.policy == "on_change":
            masks = segmentation.covered()
            consistency, nothing = _compared(masks, masks if self._before is None else self._before)
            self._changed, self._before = self._changed or consistency < self.policy.threshold or nothing, masks

    @property
    def due(self) -> bool:
        """Whether to ask again before the next frame."""
        if self.policy.policy == "once" or self._since < self.policy.frames:
            return False
        return self.policy.policy == "every" or self._changed


def _compared(now: Tensor, before: Tensor) -> tuple[float, bool]:
    """IoU (1 where both are empty, 0 where the frames differ in size), and whether there is nothing now."""
    if now.shape != before.shape:
        return 0.0, not now.any()
    counts = [mask.count_nonzero() for mask in (now & before, now | before, now)]
    common, union, here = torch.stack(counts).tolist()
    return common / union if union else 1.0, here == 0
