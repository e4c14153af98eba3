"""The numbers of post-processing a user may change."""

from __future__ import annotations

from dataclasses import dataclass, replace

from x2sam_rt.errors import ConfigError


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
