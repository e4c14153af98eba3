"""A profile as a table, a picture, a page and JSON."""

from __future__ import annotations

import io
import json
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from rich.table import Table

from x2sam_rt.errors import require_extra
from x2sam_rt.media.atomic import atomic_file
from x2sam_rt.runtime.profile import Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BLUE, _ORANGE, _GREY = "#4472c4", "#ed7d31", "#a5a5a5"


def duration(milliseconds: float) -> str:
    """ "85 µs", "12.3 ms", "4.56 s", "7 min 27 s"."""
    if milliseconds < 1:
        return f"{milliseconds * 1e3:.0f} µs"
    if milliseconds < 999.5:
        return f"{_digits(milliseconds)} ms"
    if milliseconds < 59_995:
        return f"{_digits(milliseconds / 1e3)} s"
    minutes, seconds = divmod(round(milliseconds / 1e3), 60)
    return f"{minutes} min {seconds} s"


def quantity(value: float, unit: str) -> str:
    """ "27.0 TFLOP", "512 MB/s"."""
    for size, prefix in _PREFIXES:
        if value >= 0.9995 * size:
            return f"{_digits(value / size)} {prefix}{unit}"
    return f"{_digits(value)} {unit}"


def _digits(value: float) -> str:
    """Three that count."""
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def frame_rate(per_second: float) -> str:
    """ "23.4 frames/s"; slower than one a second: "8 min 32 s per frame"."""
    return f"{_digits(per_second)} frames/s" if per_second >= 1 else f"{duration(1e3 / per_second)} per frame"


def profile_title(profile: Profile) -> str:
    return f"{profile.frames} frames · {profile.backend} {profile.precision} · {profile.threads} threads"


def profile_facts(profile: Profile) -> list[str]:
    """What is not told of a stage, a line each."""
    lines = [
        f"first mask {duration(profile.first_mask_ms)} · {frame_rate(profile.frames_per_second)}",
        f"language cache {profile.cache_mb:.0f} MiB for {profile.context} tokens · "
        f"resident {profile.resident_mb[0]:.0f} → {profile.resident_mb[-1]:.0f} MiB",
    ]
    if (most := profile.ceilings) is not None:
        lines.append(
            f"ceilings {quantity(most.flop_per_second, 'FLOP/s')} (matrix product), "
            f"{quantity(most.bytes_per_second, 'B/s')} (copy)"
        )
    if (other := profile.comparison) is not None:
        ious = other.ious
        lines.append(
            f"{other.speedup:.2f}× as fast as {other.bundle}, frame by frame · mask IoU with it "
            f"{sum(ious) / len(ious):.4f}, least {min(ious):.4f}"
        )
    return lines


def profile_rows(profile: Profile) -> tuple[list[str], list[list[str]]]:
    """Header and a row per stage, as text."""
    header, rows = ["stage", "p50", "p95", "p99", "mean"], list[list[str]]()
    if profile.comparison is not None:
        header += [f"p50 of {profile.comparison.bundle}"]
    if profile.work:
        header += ["work", "bytes", "rate", "of ceiling"]
    for name, times in profile.stages.items():
        cells = [name, *(duration(value) for value in (times.p50, times.p95, times.p99, times.mean))]
        if (other := profile.comparison) is not None:
            cells.append(duration(other.stages[name].p50) if name in other.stages else "–")
        rows.append(cells + (_work_cells(profile, name) if profile.work else []))
    return header, rows


def _work_cells(profile: Profile, stage: str) -> list[str]:
    if stage not in profile.work:
        return [""] * 4
    work = profile.work[stage]
    rates = quantity(work.flop_per_second, "FLOP/s"), quantity(work.bytes_per_second, "B/s")
    rate = rates[work.bound_by == "memory"]
    return [quantity(work.flop, "FLOP"), quantity(work.bytes, "B"), rate, f"{work.share:.0%} {work.bound_by}"]


def profile_table(profile: Profile) -> Table:
    header, rows = profile_rows(profile)
    table = Table(title=profile_title(profile), caption="\n".join(profile_facts(profile)))
    for number, column in enumerate(header):
        table.add_column(column, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table


def write_profile(profile: Profile, path: Path) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(json.dumps(profile.to_json(), indent=1) + "\n")


def draw_profile(profile: Profile, path: Path) -> None:
    """Writes a PNG: the median of each stage with its p95 and p99, every frame's time, resident memory, and how near
    the stages come to the machine's ceilings. Raises MissingExtra."""
    figure = _figure(profile)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def write_page(profile: Profile, path: Path) -> None:
    """Writes an HTML page with the table and the pictures in it; it asks for nothing over a network. Raises
    MissingExtra."""
    header, rows = profile_rows(profile)
    body = "\n".join(_row(row, "td") for row in rows)
    facts = "".join(f"<p>{escape(line)}</p>" for line in [*profile_facts(profile), _made_on(profile)])
    page = _PAGE.substitute(
        title=escape(profile_title(profile)), facts=facts, head=_row(header, "th"), body=body, picture=_svg(profile)
    )
    with atomic_file(path) as temporary:
        temporary.write_text(page)


def _made_on(profile: Profile) -> str:
    return f"{profile.machine} · PyTorch {profile.torch}"


def _row(cells: list[str], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"


def _svg(profile: Profile) -> str:
    """The pictures as an element of a page: without a document's head, text left to the browser."""
    figure = _figure(profile)
    from matplotlib import rc_context

    written = io.StringIO()
    with rc_context({"svg.fonttype": "none"}):
        figure.savefig(written, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = written.getvalue()
    return text[text.index("<svg") :]


def _figure(profile: Profile) -> Figure:
    require_extra("plot")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8), layout="constrained")
    (stages, frames), (memory, work) = figure.subplots(2, 2)
    _draw_stages(profile, stages)
    _draw_frames(profile, frames)
    _draw_memory(profile, memory)
    _draw_work(profile, work)
    figure.suptitle(f"{profile.backend} {profile.precision}: {frame_rate(profile.frames_per_second)}")
    return figure


def _draw_stages(profile: Profile, axes: Axes) -> None:
    names = list(profile.stages)[::-1]
    stages = [profile.stages[name] for name in names]
    axes.barh(names, [stage.p50 for stage in stages], color=_BLUE, label="p50")
    axes.plot([stage.p95 for stage in stages], names, "o", color=_ORANGE, label="p95")
    axes.plot([stage.p99 for stage in stages], names, "x", color=_GREY, label="p99")
    axes.set_xlabel("milliseconds per frame")
    axes.legend()


def _draw_frames(profile: Profile, axes: Axes) -> None:
    axes.plot(profile.frame_numbers, profile.frame_ms, ".-", color=_BLUE)
    axes.set_ylim(0, None)
    axes.set_xlabel("frame")
    axes.set_ylabel("milliseconds")
    if profile.comparison is not None:
        iou = axes.twinx()
        iou.plot(profile.frame_numbers, profile.comparison.ious, color=_ORANGE)
        iou.set_ylim(0, 1.02)
        iou.set_ylabel(f"mask IoU with {profile.comparison.bundle}", color=_ORANGE)


def _draw_memory(profile: Profile, axes: Axes) -> None:
    axes.plot(profile.memory_frames, profile.resident_mb, color=_BLUE)
    axes.set_ylim(0, max(profile.resident_mb) * 1.1)
    axes.set_xlabel("frame")
    axes.set_ylabel("resident memory, MiB")


def _draw_work(profile: Profile, axes: Axes) -> None:
    """A roofline: rates over FLOP per byte, under the two ceilings."""
    if profile.ceilings is None:
        axes.set_axis_off()
        return
    compute, memory = profile.ceilings.flop_per_second, profile.ceilings.bytes_per_second
    density = {name: work.flop / work.bytes for name, work in profile.work.items()}
    edges = [min([1.0, *density.values()]) / 2, compute / memory, 20 * max([compute / memory, *density.values()])]
    axes.loglog(edges, [min(compute, memory * edge) / 1e9 for edge in edges], color=_GREY, label="ceilings measured")
    for name, work in profile.work.items():
        axes.loglog(density[name], work.flop_per_second / 1e9, "o", color=_BLUE)
        axes.annotate(f"  {name}", (density[name], work.flop_per_second / 1e9), va="center")
    axes.set_xlabel("FLOP per byte of weights, inputs and outputs")
    axes.set_ylabel("GFLOP/s")
    axes.legend(loc="upper left")


_PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>$title</title>
<style>
body { font: 15px system-ui, sans-serif; margin: 2em auto; max-width: 70em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
tr:last-child td { font-weight: bold; }
svg { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>$title</h1>
$facts
<table>
<thead>$head</thead>
<tbody>
$body
</tbody>
</table>
$picture
</body>
</html>
"""
)
