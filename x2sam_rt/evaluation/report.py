"""An evaluation as a table, a picture and files."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

from rich.table import Table

from x2sam_rt.errors import require_extra
from x2sam_rt.evaluation.evaluators import Score
from x2sam_rt.evaluation.results import Evaluation, Speed, VariantResult
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
    """A row per score, a column per variant; accuracy in percent, times in milliseconds. Scores of one or two objects
    are left out, unless they are all there is. With several wordings: how far they lie apart."""
    title = " ".join(part for part in (evaluation.dataset, evaluation.split) if part)
    table = Table(title=f"{title} · {evaluation.protocol}", caption=_caption(evaluation))
    table.add_column("part")
    table.add_column("score")
    table.add_column("of", justify="right")
    for variant in evaluation.variants:
        table.add_column(variant.label, justify="right")
    if spread := len({variant.wording for variant in evaluation.variants}) > 1:
        table.add_column("spread", justify="right")
    columns = [_values(variant) for variant in evaluation.variants]
    above = None
    for (part, name), count in _rows(evaluation).items():
        if above not in (None, part):
            table.add_section()
        found = [column.get((part, name)) for column in columns]
        cells = ["–" if score is None else _text(score) for score in found]
        values = [_shown(score) for score in found if score is not None]
        apart = [f"{max(values) - min(values):.1f}"] if spread else []
        table.add_row(part if part != above else "", name, str(count), *cells, *apart)
        above = part
    table.add_section()
    for name, of in _TIMES.items():
        times = [of(variant.speed) for variant in evaluation.variants]
        table.add_row("speed", f"{name}, ms", "", *("–" if time is None else f"{time:.1f}" for time in times))
    return table


def _caption(evaluation: Evaluation) -> str | None:
    """What the scores lack."""
    lines = []
    for variant in evaluation.variants:
        for part in variant.parts:
            if part.skipped:
                first = next(iter(part.skipped.values()))
                lines.append(
                    f"{variant.label}, {part.name}: {len(part.skipped)} bad samples skipped; the first: {first}"
                )
            if part.left_out:
                lines.append(f"{variant.label}, {part.name}: {part.left_out} samples the protocol leaves out")
            lines += [f"{part.name}: {need}" for need in part.missing]
    return "\n".join(dict.fromkeys(lines)) or None


def _shown(score: Score) -> float:
    return 100 * score.value if score.percent else score.value


def _text(score: Score) -> str:
    return f"{_shown(score):.1f}" if score.percent else f"{score.value:.2f}"


def draw_evaluation(evaluation: Evaluation, path: Path) -> None:
    """The headline score of every part over the milliseconds per frame; a colour per part, a marker per variant.

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


def _values(variant: VariantResult) -> dict[Row, Score]:
    return {(part.name, score.name): score for part in variant.parts for score in part.scores}


def _rows(evaluation: Evaluation) -> dict[Row, int]:
    """What the table has rows for, in order, with how many each is the mean of."""
    rows: dict[Row, int] = {}
    for name in dict.fromkeys(part.name for variant in evaluation.variants for part in variant.parts):
        for variant in evaluation.variants:
            for part in variant.parts:
                if part.name == name:
                    told = (one for one in part.scores if one.headline or one.count >= _TELLING)
                    rows |= {(name, score.name): score.count for score in told}
    return rows


def _headlines(variant: VariantResult) -> dict[str, float]:
    """By what the legend calls them. Controls are left out, as their speed is another, and words, as they have none."""
    return {
        f"{part.name}: {part.headline.name}": part.headline.value
        for part in variant.parts
        if part.memory == variant.memory and part.speed.frame_p50_ms is not None and part.scores
    }
