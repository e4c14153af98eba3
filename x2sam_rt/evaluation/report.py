"""An evaluation as a table, a picture and files."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from x2sam_rt.errors import require_extra
from x2sam_rt.evaluation.results import Evaluation, VariantResult
from x2sam_rt.evaluation.speed import Speed
from x2sam_rt.media.atomic import atomic_file, naming_write_errors

_TELLING = 3
_MARKERS = "osD^vP*X"
_TIMES: dict[str, Callable[[Speed], float | None]] = {
    "frame p50": lambda speed: speed.frame_p50_ms,
    "frame p95": lambda speed: speed.frame_p95_ms,
    "instruction p50": lambda speed: speed.instruction_p50_ms,
    "asking again, per frame": lambda speed: speed.asking_mean_ms,
}
Row = tuple[str, str]


def evaluation_table(evaluation: Evaluation) -> Table:
    """A row per figure, a column per variant; accuracy in percent, times in milliseconds. Figures of one or two objects
    are left out, unless they are all there is."""
    shown = "first frames" if evaluation.live else "whole clips"
    table = Table(title=f"{evaluation.dataset}{f' {evaluation.split}' if evaluation.split else ''} · {shown}")
    table.add_column("part")
    table.add_column("figure")
    table.add_column("of", justify="right")
    for variant in evaluation.variants:
        table.add_column(variant.label, justify="right")
    columns = [_values(variant) for variant in evaluation.variants]
    above = None
    for (part, figure), count in _rows(evaluation).items():
        if above not in (None, part):
            table.add_section()
        cells = [column.get((part, figure)) for column in columns]
        table.add_row(
            part if part != above else "",
            figure,
            str(count),
            *("–" if value is None else f"{100 * value:.1f}" for value in cells),
        )
        above = part
    table.add_section()
    for name, of in _TIMES.items():
        times = [of(variant.speed) for variant in evaluation.variants]
        table.add_row("speed", f"{name}, ms", "", *("–" if time is None else f"{time:.1f}" for time in times))
    return table


def draw_evaluation(evaluation: Evaluation, path: Path) -> None:
    """The headline figure of every part over the milliseconds per frame; a colour per part, a marker per variant.

    path: `.svg` or `.png`. Variants that timed no frame are left out. Raises MissingExtra.
    """
    require_extra("plot")
    from matplotlib import colormaps
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(10, 6), layout="constrained")
    axes = picture.subplots()
    timed = [(variant, time) for variant in evaluation.variants if (time := variant.speed.frame_p50_ms) is not None]
    markers = dict(zip((variant.label for variant, _ in timed), itertools.cycle(_MARKERS), strict=False))
    for label, marker in markers.items():
        axes.plot([], [], marker, color="#404040", label=label)
    axes.set_prop_cycle(color=[colormaps["tab20"](number) for number in range(20)])
    for part in dict.fromkeys(part for variant, _ in timed for part in _headlines(variant)):
        points = sorted(
            (time, 100 * _headlines(variant)[part], markers[variant.label])
            for variant, time in timed
            if part in _headlines(variant)
        )
        (line,) = axes.plot([time for time, _, _ in points], [value for _, value, _ in points], label=part)
        for time, value, marker in points:
            axes.plot(time, value, marker, color=line.get_color())
    axes.set_xlabel("milliseconds per frame (p50)")
    axes.set_ylabel("accuracy, percent")
    axes.set_xlim(0, 1.05 * max((time for _, time in timed), default=1))
    axes.set_ylim(0, 102)
    axes.grid(alpha=0.3)
    picture.legend(loc="outside right upper", fontsize="small")
    with atomic_file(path) as temporary:
        picture.savefig(temporary, format=path.suffix.removeprefix("."), dpi=110)


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """results.json, accuracy_speed.svg and .png in a folder, which is made where it is not there; files of these names
    are replaced. Raises VideoError where the system refuses."""
    with naming_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    evaluation.save(folder / "results.json")
    for suffix in (".svg", ".png"):
        draw_evaluation(evaluation, folder / f"accuracy_speed{suffix}")


def _values(variant: VariantResult) -> dict[Row, float]:
    return {(part.name, figure.name): figure.value for part in variant.parts for figure in part.figures}


def _rows(evaluation: Evaluation) -> dict[Row, int]:
    """What the table has rows for, in order, with how many each is the mean of."""
    rows: dict[Row, int] = {}
    for name in dict.fromkeys(part.name for variant in evaluation.variants for part in variant.parts):
        for variant in evaluation.variants:
            for part in variant.parts:
                if part.name == name:
                    told = (one for one in part.figures if one.headline or one.count >= _TELLING)
                    rows |= {(name, figure.name): figure.count for figure in told}
    return rows


def _headlines(variant: VariantResult) -> dict[str, float]:
    """By what the legend calls them. Controls are left out, as their speed is another, and words, as they have none."""
    return {
        f"{part.name}: {part.headline.name}": part.headline.value
        for part in variant.parts
        if part.memory == variant.memory and part.speed.frame_p50_ms is not None
    }
