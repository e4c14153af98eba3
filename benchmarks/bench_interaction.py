"""What clicks and a presence threshold are worth, measured on the made-up world.

python benchmarks/bench_interaction.py BUNDLE [--clips 100]

presence: a phrase per clip that is true of one object, of none but with a colour and a shape that are there ("mixed"),
and of nothing there at all ("foreign"); share of frames whose best score is below each threshold.
clicks: an object is asked for by a point on the first frame. Where a later frame's IoU falls below one half, somebody
clicks there, into the middle of the object and of what was wrongly taken; J of the frames after that.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import timer
import torch
import torch.nn.functional as F

from x2sam_rt.data.synthetic import COLOURS, SHAPES, clip_seed, evaluation_settings, make_clip
from x2sam_rt.data.synthetic.clip import SyntheticClip
from x2sam_rt.evaluation.metrics.masks import region_similarity
from x2sam_rt.media.types import BoolMask
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.session import VideoSession
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import Prompt, RegionPrompt

THRESHOLDS = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95)
FRAMES = 4  # of a clip, for presence
OBJECTS = 3  # of a clip, for clicks
SEEN = 30  # pixels
Correct = Callable[[VideoSession, RegionPrompt, RegionPrompt | None], None]


def phrases(clip: SyntheticClip, rng: np.random.Generator) -> dict[str, str]:
    there = {(thing.colour, thing.shape) for thing in clip.objects}
    colours, shapes = ({getattr(thing, name) for thing in clip.objects} for name in ("colour", "shape"))
    focus = clip.objects[clip.focus]
    pairs = {
        "present": [(focus.colour, focus.shape)],
        "mixed": [(c, s) for c in COLOURS for s in SHAPES if c in colours and s in shapes and (c, s) not in there],
        "foreign": [(c, s) for c in COLOURS for s in SHAPES if c not in colours and s not in shapes],
    }
    chosen = {kind: found[rng.integers(len(found))] for kind, found in pairs.items() if found}
    return {kind: f"the {colour} {shape}" for kind, (colour, shape) in chosen.items()}


def presence(runtime: Runtime, clips: int) -> list[dict[str, object]]:
    scores: dict[str, list[float]] = {"present": [], "mixed": [], "foreign": []}
    for index in range(clips):
        clip = make_clip(clip_seed("seen", index), evaluation_settings())
        for kind, phrase in phrases(clip, np.random.default_rng(index)).items():
            with runtime.stream(phrase) as session:
                scores[kind] += [max(session.step(frame).scores, default=0.0) for frame in clip.frames[:FRAMES]]
    return [
        {"threshold": least, **{kind: float(np.mean(np.array(found) < least)) for kind, found in scores.items()}}
        for least in THRESHOLDS
    ]


def middle(mask: BoolMask) -> tuple[int, int]:
    """(x, y) of a pixel as far from the outside as any."""
    inner = left = F.pad(torch.from_numpy(mask)[None, None].float(), (1, 1, 1, 1))
    while left.any():
        inner, left = left, 1 - F.max_pool2d(1 - left, 3, 1, 1)
    ys, xs = inner[0, 0].nonzero(as_tuple=True)
    return int(xs[len(xs) // 2]) - 1, int(ys[len(ys) // 2]) - 1


def drawn(result: FrameResult) -> BoolMask:
    return result.masks.any(0)


def play(
    runtime: Runtime,
    clip: SyntheticClip,
    first: RegionPrompt,
    at: int = -1,
    correct: Callable[[VideoSession], None] | None = None,
) -> list[BoolMask]:
    """correct: is done after frame `at`."""
    masks = []
    with runtime.stream(Instruction("object", regions=(first,))) as session:
        for index, frame in enumerate(clip.frames):
            masks.append(drawn(session.step(frame)))
            if correct is not None and index == at:
                correct(session)
    return masks


WAYS: dict[str, Correct] = {
    "nothing": lambda session, right, wrong: None,
    "click on the object": lambda session, right, wrong: session.correct(right),
    "the same, memory emptied": lambda session, right, wrong: session.correct(right, keep_memory=False),
    "negative click": lambda session, right, wrong: session.correct(*([wrong] if wrong else [right])),
    "both": lambda session, right, wrong: session.correct(right, *([wrong] if wrong else [])),
    "both, memory emptied": lambda session, right, wrong: session.correct(
        right, *([wrong] if wrong else []), keep_memory=False
    ),
}


def clicks(runtime: Runtime, clips: int) -> list[dict[str, object]]:
    found: dict[str, list[float]] = {name: [] for name in WAYS}
    for index in range(clips):
        clip = make_clip(clip_seed("seen", index), evaluation_settings())
        for number in range(min(OBJECTS, len(clip.objects))):
            truth = clip.mask(number)
            if not truth[0].any():
                continue
            first = Prompt.point(*middle(truth[0]))
            masks = play(runtime, clip, first)
            at = _failure(masks, truth)
            if at is None:
                continue
            right = Prompt.point(*middle(truth[at]), frame=at)
            spilled = masks[at] & ~truth[at]
            wrong = Prompt.point(*middle(spilled), frame=at).negative() if spilled.any() else None
            for name, way in WAYS.items():
                after = play(runtime, clip, first, at, lambda session: way(session, right, wrong))  # noqa: B023
                found[name] += region_similarity(truth[at + 1 :], np.stack(after[at + 1 :])).tolist()
    return [{"correction": name, "J": float(np.mean(values)), "frames": len(values)} for name, values in found.items()]


def _failure(masks: list[BoolMask], truth: BoolMask) -> int | None:
    """The first frame that went wrong and shows the object, with frames behind it."""
    seen = truth[:-1].sum((1, 2)) > SEEN
    wrong = np.flatnonzero((region_similarity(truth, np.stack(masks))[:-1] < 0.5) & seen)
    return int(wrong[0]) if wrong.size else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--clips", type=int, default=100)
    arguments = parser.parse_args()
    with Runtime.load(arguments.bundle) as runtime:
        below, corrected = presence(runtime, arguments.clips), clicks(runtime, arguments.clips)
    for row in below:
        print("  ".join(f"{name} {value:.3f}" for name, value in row.items()))
    for row in corrected:
        print(f"{row['correction']:26}  J {row['J']:.3f} of {row['frames']} frames")
    print(timer.save("interaction", [*below, *corrected]))


if __name__ == "__main__":
    main()
