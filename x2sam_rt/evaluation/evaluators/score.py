"""Scores, and what makes them of examples and predictions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from x2sam_rt.data.example import Example
from x2sam_rt.evaluation.metrics import State
from x2sam_rt.evaluation.segmenter import Prediction

Piece = tuple[Example, Prediction]


@dataclass(frozen=True)
class Score:
    """value: higher is better; 0…1 unless `percent` is False. count: how many objects, examples or phrases it comes
    from. headline: the score that stands for its part in the picture."""

    name: str
    value: float
    count: int
    headline: bool = False
    percent: bool = True


class Evaluator(Protocol):
    """Measures samples one by one, and gives scores of many. It keeps nothing itself."""

    def measure(self, pieces: Iterable[Piece]) -> State:
        """What one sample contributes, as JSON. pieces: the sample itself, or the chunks it was cut into, in order;
        each prediction's frames are gone through once, while its piece is at hand. Raises DataError for examples it
        cannot measure."""

    def scores(self, states: Iterable[State]) -> Iterator[Score]:
        """Raises DataError when nothing was measured, and ConfigError when something is not installed."""
