"""Figures, and the families of them that examples are measured by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from x2sam_rt.data.example import Example
from x2sam_rt.evaluation.prediction import Prediction


@dataclass(frozen=True)
class Figure:
    """value: 0…1, higher is better. count: how many objects, examples or phrases it comes from. headline: the figure
    that stands for its family in the picture."""

    name: str
    value: float
    count: int
    headline: bool = False


class Family(Protocol):
    """Takes examples one by one and then gives its figures."""

    def add(self, example: Example, prediction: Prediction) -> None:
        """Goes through the prediction's frames. Raises DataError for examples the family cannot measure."""

    def figures(self) -> Iterator[Figure]:
        """Raises DataError when nothing was measured."""
