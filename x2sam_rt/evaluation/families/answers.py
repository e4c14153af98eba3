"""Answers in words."""

from __future__ import annotations

from collections.abc import Iterator

from x2sam_rt.data.example import Example
from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.figures import Figure
from x2sam_rt.evaluation.prediction import Prediction


class AnswerFamily:
    """An answer is right when it is the true one, word for word; upper and lower case and spaces do not matter."""

    def __init__(self) -> None:
        self._right = self._asked = 0

    def add(self, example: Example, prediction: Prediction) -> None:
        if example.answer is None:
            raise example.bad("it has no answer to compare with")
        self._right += _plain(prediction.text.text) == _plain(example.answer)
        self._asked += 1

    def figures(self) -> Iterator[Figure]:
        if not self._asked:
            raise DataError("Right answers of none: no example was added.")
        yield Figure("right answers", self._right / self._asked, self._asked, headline=True)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
