"""Post-processing of one 1080p frame, per task, beside the same rules written down literally.

    python benchmarks/bench_postprocess.py --threads 2

200 queries, 133 categories; 20 or 40 queries survive, all others are background.
Every result is compared with the literal one before it is timed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, dataclass

import naive_postprocess as naive
import numpy as np
import timer
import torch

from x2sam_rt.runtime.postprocess import make_postprocessor
from x2sam_rt.runtime.postprocess.rule import FrameLogits, PostProcessor
from x2sam_rt.runtime.results import Segmentation
from x2sam_rt.tasks.instruction import PostProcessOptions
from x2sam_rt.tasks.table import TASKS, Conditions

SIZE, SIDE, GRID = (1080, 1920), 1024, 256
QUERIES, CATEGORIES, THINGS = 200, 133, 80
SEGMENTS = (20, 40)
BUDGET_MS = 300.0


@dataclass(frozen=True)
class Row:
    task: str
    segments: int
    times: timer.Comparison

    def __str__(self) -> str:
        own = self.times.own
        budget = "within" if own.median_ms <= BUDGET_MS else "OVER"
        return (
            f"{self.task:10} {self.segments:3} segments   best {own.best_ms:6.1f}   median {own.median_ms:6.1f}"
            f"   p99 {own.p99_ms:6.1f} ms, {budget} {BUDGET_MS:.0f}"
            f"   literal {self.times.baseline.median_ms:7.1f} ms   {self.times.speedup:6.1f} ×"
        )


def scene(segments: int, conditions: int, seed: int = 0) -> FrameLogits:
    """Discs on bands that fill the frame around them, one query each; a fifth of the segments are bands. Outlines are
    ragged. Query k finds condition k (modulo their number); bands find stuff where there is stuff."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    bands = max(1, segments // 5)
    columns = int(np.ceil(np.sqrt(segments - bands)))
    step = GRID / columns
    masks = torch.full((QUERIES, GRID, GRID), -8.0)
    outside = torch.full((GRID, GRID), 6.0)
    for k in range(segments - bands):
        centre_y, centre_x = (k // columns + 0.5) * step, (k % columns + 0.5) * step
        radius = step * (0.2 + 0.2 * float(torch.rand(1, generator=generator)))
        masks[bands + k] = (radius - torch.hypot(y - centre_y, x - centre_x)).clamp(-12, 8)
        outside = torch.minimum(outside, -masks[bands + k])
    for k in range(bands):
        middle, half = (k + 0.5) * GRID / bands, 0.5 * GRID / bands
        masks[k] = torch.minimum(outside, half - (y - middle).abs()).clamp(-12, 6)
    masks += 0.5 * torch.randn(masks.shape, generator=generator)
    classes = torch.randn(QUERIES, conditions + 1, generator=generator)
    classes[:, -1] += 8
    for k in range(segments):
        classes[k, (THINGS + k if k < bands else k) % conditions] += 18
    return FrameLogits(masks, classes, SIDE, (SIDE, SIDE), SIZE)


def post_processor(task: str, conditions: int) -> PostProcessor:
    labels = tuple(f"label {k}" for k in range(conditions))
    things = tuple(k < THINGS or task == "instance" for k in range(conditions))
    row = TASKS[task]
    assert row.rule is not None, "measured tasks draw masks"
    return make_postprocessor(row.rule, Conditions(labels, things), PostProcessOptions().resolved(row.threshold))


@dataclass(frozen=True)
class Case:
    """naive: gives the masks in our order. conditions: of the class logits."""

    task: str
    conditions: int
    naive: Callable[[FrameLogits], naive.Found]


def cases(segments: int) -> list[Case]:
    return [
        Case("panoptic", CATEGORIES, lambda frame: naive.panoptic(frame, CATEGORIES, 0.3)),
        Case("instance", CATEGORIES, lambda frame: naive.instance(frame, CATEGORIES, 0.3, (True,) * CATEGORIES)),
        Case("referring", 1, lambda frame: naive.phrases(frame, 1)),
        Case("gcg", segments, lambda frame: naive.phrases(frame, segments)),
    ]


def check(found: Segmentation, wanted: naive.Found) -> None:
    assert len(found.segments) == len(wanted), f"{len(found.segments)} segments, literally {len(wanted)}"
    for segment, (label, score, mask) in zip(found.segments, wanted, strict=True):
        assert segment.label_id == label, f"label {segment.label_id}, literally {label}"
        assert abs(segment.score - score) < 1e-4, f"score {segment.score}, literally {score}"
        assert np.mean(segment.mask != mask.numpy()) < 1e-3, f"the masks of {segment.label} differ"


def ready(case: Case, segments: int) -> tuple[Callable[[], Segmentation], Callable[[], object], int]:
    """Ours and the literal form, checked against each other, and how many segments they find. Ours is in the steady
    state of a stream: there is a frame before this one, so identities are matched too."""
    frame = scene(segments, case.conditions)
    post = post_processor(case.task, case.conditions)
    found = post(frame)
    check(found, case.naive(frame))
    return lambda: post(frame), lambda: case.naive(frame), len(found.segments)


def measure(case: Case, twice: Case, rounds: int) -> list[Row]:
    """`case` with some segments, `twice` with twice as many; both beside the literal form, and beside each other."""
    rows, runs = [], []
    for one, segments in zip((case, twice), SEGMENTS, strict=True):
        own, literal, found = ready(one, segments)
        rows.append(Row(one.task, found, timer.compare(own, literal, rounds=rounds)))
        runs.append(own)
        print(rows[-1], flush=True)
    growth = timer.compare(*runs, rounds=5 * rounds).speedup
    print(f"{case.task:10} {rows[0].segments} → {rows[1].segments} segments: {growth:.2f} × the time", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    pairs = zip(cases(SEGMENTS[0]), cases(SEGMENTS[1]), strict=True)
    rows = [row for case, twice in pairs for row in measure(case, twice, arguments.rounds)]
    shape = {"frame": SIZE, "grid": GRID, "queries": QUERIES, "categories": CATEGORIES, "budget_ms": BUDGET_MS}
    print(timer.save("postprocess", [shape | asdict(row) | {"times": row.times} for row in rows]))


if __name__ == "__main__":
    main()
