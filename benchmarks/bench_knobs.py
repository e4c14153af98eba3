"""What each knob costs in accuracy and gains in time, beside the exact setting.

    python benchmarks/bench_knobs.py accuracy [--limit 24]    # writes results/knobs_accuracy.json
    python benchmarks/bench_knobs.py speed [--frames 12]      # writes results/knobs_speed.json

accuracy: x2sam-toy on parts of the synthetic set, and the work of a frame of the published model, counted. speed: a
model of full width with random weights at 256², every frame through the exact setting and each other one in turns, from
the moment the memory is full; its ratio is of the sums over the frames.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path

import torch
import torch.nn.functional as F
from bench_frame import full_width, moving_clip, random_model, random_prompt
from rich.console import Console
from rich.table import Table
from timer import save

from x2sam_rt.config import ModelConfig
from x2sam_rt.evaluation.backends import REFERENCE, load_choice
from x2sam_rt.evaluation.parts import open_parts
from x2sam_rt.evaluation.protocol import Protocol
from x2sam_rt.evaluation.runner import measure_part
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.export.engines import build_engines
from x2sam_rt.model.checkpoint.files import embedded_checkpoint
from x2sam_rt.model.checkpoint.loading import load_checkpoint
from x2sam_rt.model.checkpoint.published import PUBLISHED
from x2sam_rt.model.cost import frame_flop
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import load_manifest
from x2sam_rt.runtime.pipeline import Pipeline

PARTS = ("referring", "referring, drained", "referring, occluded", "object")


@dataclass(frozen=True)
class Setting:
    """side: of the trained one. knobs: the others."""

    name: str
    side: Fraction = Fraction(1)
    knobs: ModelKnobs = ModelKnobs()  # noqa: RUF009 (frozen)

    def knobs_of(self, config: ModelConfig) -> ModelKnobs:
        return self.knobs if self.side == 1 else replace(self.knobs, image_size=int(self.side * config.image_size))


EXACT = Setting("exact")
SETTINGS = (
    EXACT,
    Setting("scales low", knobs=ModelKnobs(memory_scales=("low",))),
    Setting("every 2", knobs=ModelKnobs(memory_every=2)),
    Setting("slots 2", knobs=ModelKnobs(slots=2)),
    Setting("image size ¾", Fraction(3, 4)),
    Setting("every 2, read by those only", knobs=ModelKnobs(memory_every=2, memory_reads="writes")),
    Setting("scales low+middle", knobs=ModelKnobs(memory_scales=("low", "middle"))),
    Setting("scales high", knobs=ModelKnobs(memory_scales=("high",))),
    Setting("every 2, gaps in writes", knobs=ModelKnobs(memory_every=2, memory_gaps="writes")),
    Setting("every 3", knobs=ModelKnobs(memory_every=3)),
    Setting("every 3, gaps in writes", knobs=ModelKnobs(memory_every=3, memory_gaps="writes")),
    Setting("slots 1", knobs=ModelKnobs(slots=1)),
    Setting("image size ½", Fraction(1, 2)),
)


@dataclass(frozen=True)
class AccuracyRow:
    """tera_flop: of a frame of the published model with a full memory, on average. scores: each part's headline, in
    percent."""

    setting: str
    knobs: str
    tera_flop: float
    scores: dict[str, float]


@dataclass(frozen=True)
class SpeedRow:
    """ratio: of the exact setting's time for the same frames. frame_ms: median; mean_ms: mean, as frames differ."""

    setting: str
    knobs: str
    frames: int
    ratio: float
    frame_ms: float
    mean_ms: float


def measure_accuracy(limit: int) -> Iterator[AccuracyRow]:
    parts = {part.name: part for part in open_parts("synthetic", None, None)}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        export_bundle(ExportPlan(load_checkpoint(embedded_checkpoint()), "torch", verify=False), folder)
        manifest = load_manifest(folder)
        for setting in SETTINGS:
            knobs = setting.knobs_of(manifest.model)
            runtime, segmenter = load_choice(folder, manifest, REFERENCE, knobs=knobs)
            with runtime:
                found = {name: measure_part(segmenter, parts[name], Protocol(limit=limit))[0] for name in PARTS}
            work = frame_flop(setting.knobs_of(PUBLISHED).turned(PUBLISHED)) / 1e12
            scores = {name: round(100 * part.headline.value, 1) for name, part in found.items()}
            yield AccuracyRow(setting.name, str(knobs), round(work, 2), scores)


def measure_speed(frames: int, side: int) -> Iterator[SpeedRow]:
    model = random_model(full_width(side))
    for setting in SETTINGS:
        yield beside_exact(model, setting, frames)


def beside_exact(model: X2SAM, setting: Setting, frames: int) -> SpeedRow:
    knobs, prompt = setting.knobs_of(model.config), random_prompt(model.config)
    config = knobs.turned(model.config)
    turned = X2SAM(config).eval().requires_grad_(False)
    turned.load_state_dict(model.state_dict())
    with tempfile.TemporaryDirectory() as folder:
        exact = Pipeline(build_engines(model, "torch", Path(folder)), model.config)
        own = Pipeline(build_engines(turned, "torch", Path(folder)), config)
    taken = []
    warm = max(memory.slots * memory.every for memory in (config.memory, model.config.memory)) + 1
    for pixels in moving_clip(model.config.image_size, warm + frames):
        exact.step(pixels, prompt)
        own.step(F.interpolate(pixels, (config.image_size,) * 2, mode="bilinear"), prompt)
        taken.append(tuple(sum(pipeline.timer.take().values()) for pipeline in (own, exact)))
    ours, theirs = zip(*taken[warm:], strict=True)
    ratio = round(sum(ours) / sum(theirs), 3)
    return SpeedRow(
        setting.name, str(knobs), frames, ratio, round(statistics.median(ours), 1), round(statistics.mean(ours), 1)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("accuracy", "speed"))
    parser.add_argument("--limit", type=int, default=24, help="examples of each part")
    parser.add_argument("--frames", type=int, default=12, help="an even number, for what happens every other frame")
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    console = Console(width=160)
    if options.what == "accuracy":
        found = []
        table = Table("setting", "TFLOP per frame, published", *PARTS)
        for row in measure_accuracy(options.limit):
            found.append(asdict(row) | {"limit": options.limit})
            path = save("knobs_accuracy", found)
            table.add_row(row.setting, f"{row.tera_flop:.2f}", *(f"{value:.1f}" for value in row.scores.values()))
            print(row, flush=True)
    else:
        found = []
        table = Table("setting", "of the exact frame's time", "median ms", "mean ms")
        for timed in measure_speed(options.frames, options.side):
            found.append(asdict(timed) | {"side": options.side})
            path = save("knobs_speed", found)
            table.add_row(timed.setting, f"{timed.ratio:.3f}", f"{timed.frame_ms:.1f}", f"{timed.mean_ms:.1f}")
            print(timed, flush=True)
    console.print(table)
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
