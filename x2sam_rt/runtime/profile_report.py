"""A profile as a table, as JSON and as a picture."""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table

from x2sam_rt.runtime.profile import Profile
from x2sam_rt.runtime.replacement import replacing


def profile_table(profile: Profile) -> Table:
    title = f"{profile.frames} frames · {profile.backend} {profile.precision} · {profile.threads} threads"
    table = Table(
        title=title,
        caption=(
            f"first mask {profile.first_mask_ms:.0f} ms · {profile.frames_per_second:.1f} frames/s · "
            f"resident {profile.resident_mb[0]:.0f} → {profile.resident_mb[-1]:.0f} MiB"
        ),
    )
    table.add_column("stage")
    for column in ("p50 ms", "p95 ms", "p99 ms", "mean ms"):
        table.add_column(column, justify="right")
    for name, times in profile.stages.items():
        table.add_row(name, *(f"{value:.2f}" for value in (times.p50, times.p95, times.p99, times.mean)))
    return table


def write_profile(profile: Profile, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(profile.to_json(), indent=1) + "\n")


def draw_profile(profile: Profile, path: Path) -> None:
    """Writes a PNG: the median of each stage with its p95 and p99, and resident memory over the stream."""
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    bars, memory = figure.subplots(1, 2)
    names = list(profile.stages)[::-1]
    stages = [profile.stages[name] for name in names]
    bars.barh(names, [s.p50 for s in stages], color="#4472c4", label="p50")
    bars.plot([s.p95 for s in stages], names, "o", color="#ed7d31", label="p95")
    bars.plot([s.p99 for s in stages], names, "x", color="#a5a5a5", label="p99")
    bars.set_xlabel("milliseconds per frame")
    bars.legend()
    memory.plot(profile.memory_frames, profile.resident_mb)
    memory.set_ylim(0, max(profile.resident_mb) * 1.1)
    memory.set_xlabel("frame")
    memory.set_ylabel("resident memory, MiB")
    figure.suptitle(f"{profile.backend} {profile.precision}: {profile.frames_per_second:.1f} frames/s")
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
