"""How long frames and instructions took."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from x2sam_rt.evaluation.prediction import Prediction
from x2sam_rt.runtime.results import FrameResult


@dataclass(frozen=True)
class Speed:
    """Milliseconds. frame_p50_ms, frame_p95_ms: a frame from its pixels to its masks, without the instruction; the
    first frame of a clip, which remembers nothing, counts only where there are no others (images). instruction_p50_ms:
    what the language side takes for an instruction, the writing of captions and answers included. asking_mean_ms: what
    asking again costs, shared out over all frames of videos but the first ones. None: no such thing was timed. frames:
    how many the percentiles come from.
    """

    frame_p50_ms: float | None
    frame_p95_ms: float | None
    instruction_p50_ms: float | None
    asking_mean_ms: float | None
    frames: int


class SpeedMeter:
    """Collects the times of predictions."""

    def __init__(self) -> None:
        self._first: list[float] = []
        self._later: list[float] = []
        self._instructions: list[float] = []
        self._asking: list[float] = []

    def watch(self, prediction: Prediction) -> Prediction:
        """The same prediction, timed while one goes through its frames."""
        self._instructions.append(prediction.instruction_ms)
        return replace(prediction, frames=self._timed(prediction))

    def speed(self) -> Speed:
        frames = self._later or self._first
        return Speed(
            _percentile(frames, 50),
            _percentile(frames, 95),
            _percentile(self._instructions, 50),
            float(np.mean(self._asking)) if self._asking else None,
            len(frames),
        )

    def _timed(self, prediction: Prediction) -> Iterator[FrameResult]:
        for result in prediction.frames:
            stages = [milliseconds for stage, milliseconds in result.timings.items() if stage != "language"]
            if stages:  # none where the model drew no masks
                (self._later if result.index else self._first).append(sum(stages))
            if result.index:
                self._asking.append(result.timings.get("language", 0.0))
            yield result


def _percentile(milliseconds: list[float], percent: int) -> float | None:
    return float(np.percentile(milliseconds, percent)) if milliseconds else None
