"""Does training learn? A few minutes of the toy's recipe, and what became of its losses.

    python -m x2sam_rt.model.training.toy.smoke FOLDER [--scale 0.05]

Exit code 1 when a loss that must fall did not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from x2sam_rt.model.training.curve import CurvePoint, read_curve
from x2sam_rt.model.training.launch import Run
from x2sam_rt.model.training.toy.model import toy_model
from x2sam_rt.model.training.toy.recipe import toy_recipe
from x2sam_rt.model.training.trainer import LOG_FILE, LossValues

MUST_FALL = ("mask_bce", "dice", "next_token")
_FALLEN = 0.8  # of the first mean: noise moves it less
_SPAN = 20  # steps that a mean is taken of
_LINE_EVERY = 20


@dataclass(frozen=True)
class Course:
    """A loss at the beginning and at the end of a run, each the mean of some steps."""

    name: str
    first: float
    last: float

    @property
    def fell(self) -> bool:
        return self.last < _FALLEN * self.first


def courses(points: Sequence[CurvePoint]) -> list[Course]:
    """Of every loss, in the order they first appear; of runs that are shorter, means of a quarter of the steps."""
    series: dict[str, list[float]] = {}
    for point in points:
        for name, value in point.losses.items():
            series.setdefault(name, []).append(value)
    found = []
    for name, values in series.items():
        span = max(1, min(_SPAN, len(values) // 4))
        found.append(Course(name, sum(values[:span]) / span, sum(values[-span:]) / span))
    return found


def learnt(found: Sequence[Course]) -> bool:
    """Whether all that must fall is there and fell."""
    return {course.name for course in found if course.fell} >= set(MUST_FALL)


def _print_step(step: int, losses: LossValues) -> None:
    if step % _LINE_EVERY == 0:
        print(step, " ".join(f"{name} {value:.3f}" for name, value in losses.items()), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Does training learn?")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=0.05)
    arguments = parser.parse_args()
    Run(arguments.folder, toy_model, toy_recipe, arguments.scale).start(lambda _steps: _print_step)
    found = courses(read_curve(arguments.folder / LOG_FILE))
    for course in found:
        print(
            f"{course.name:16} {course.first:8.3f} -> {course.last:8.3f}  {'fell' if course.fell else 'DID NOT FALL'}"
        )
    return 0 if learnt(found) else 1


if __name__ == "__main__":
    sys.exit(main())
