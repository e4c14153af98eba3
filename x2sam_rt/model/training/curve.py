"""How the losses of a training run went: a log that survives interruption, and its picture."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from x2sam_rt.documents import read_dataclass
from x2sam_rt.errors import ConfigError, TrainingError
from x2sam_rt.media.atomic import atomic_file, naming_write_errors


@dataclass(frozen=True)
class CurvePoint:
    """One training step. seconds: since training began, over all resumptions. losses: by name, unweighted; steps may
    have different ones.
    """

    step: int
    seconds: float
    learning_rate: float
    losses: dict[str, float]


class LossLog:
    """Appends one JSON line per step, flushed at once, so that a killed run keeps what it logged.

    resumed: the step training goes on after; later lines, of steps that will be done again, are dropped. None begins
    a new log. Raises TrainingError when a new log would overwrite an old one, or an old one cannot be read.
    """

    def __init__(self, path: Path, resumed: int | None = None) -> None:
        if resumed is not None:
            kept = [point for point in read_curve(path) if point.step <= resumed]
            with atomic_file(path) as temporary:
                temporary.write_text("".join(_line(point) for point in kept))
        elif path.is_file() and path.stat().st_size:
            raise TrainingError(f"{path} already holds a loss curve. Resume that run, or train into another folder.")
        self._path = path
        with naming_write_errors(path):
            self._file = path.open("a")

    def write(self, point: CurvePoint) -> None:
        """Raises TrainingError, naming the loss, when one is not finite."""
        for name, value in point.losses.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"The loss {name} is {value} at step {point.step}. Resume from the last checkpoint with a lower "
                    "learning rate."
                )
        with naming_write_errors(self._path):
            self._file.write(_line(point))
            self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> LossLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_curve(path: Path) -> list[CurvePoint]:
    """The logged steps, in order; empty where there is no file. A last line cut off in the middle is left out.

    Raises TrainingError naming the line that is no logged step.
    """
    if not path.is_file():
        return []
    lines = path.read_text().split("\n")[:-1]  # what follows the last line break was never finished
    return [_read_line(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1)]


def smoothed(values: Sequence[float], span: float) -> list[float]:
    """Running mean whose weights fall by 1/e every span values; without the usual pull towards the first value."""
    keep = math.exp(-1 / span)
    total = weight = 0.0
    means = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means


def draw_curve(points: Sequence[CurvePoint], path: Path, *, span: float = 50.0) -> None:
    """Draws every loss, raw and smoothed over about span values, and the learning rate, over the steps. path: `.png`
    or `.svg`.
    """
    from matplotlib.figure import Figure  # a second is too long for every process of a run

    figure = Figure(figsize=(9, 6), layout="constrained")
    losses, rate = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    for name, (steps, values) in _by_loss(points).items():
        (line,) = losses.plot(steps, smoothed(values, span), label=name, linewidth=1.5)
        losses.plot(steps, values, color=line.get_color(), alpha=0.2, linewidth=0.6)
    losses.set_ylabel("loss")
    if points:
        losses.set_yscale("log")
        losses.legend()
    rate.plot([point.step for point in points], [point.learning_rate for point in points], color="#a5a5a5")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("step")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=110)


def _by_loss(points: Sequence[CurvePoint]) -> Mapping[str, tuple[list[int], list[float]]]:
    series: dict[str, tuple[list[int], list[float]]] = {}
    for point in points:
        for name, value in point.losses.items():
            steps, values = series.setdefault(name, ([], []))
            steps.append(point.step)
            values.append(value)
    return series


def _line(point: CurvePoint) -> str:
    return json.dumps(dataclasses.asdict(point)) + "\n"


def _read_line(line: str, where: str) -> CurvePoint:
    try:
        return read_dataclass(CurvePoint, json.loads(line), where)
    except (json.JSONDecodeError, ConfigError) as error:
        raise TrainingError(f"{where}: not a logged step ({error}). Remove the line, or begin a new log.") from error
