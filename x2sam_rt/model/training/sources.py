"""What a model is tuned on: data sets of the readers as sources of a mixture, or all of the paper's that are there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from x2sam_rt.data.dataset import Dataset
from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.readers import READERS, PromptedExample, read_dataset
from x2sam_rt.documents import there_is_no
from x2sam_rt.errors import DataError
from x2sam_rt.model.training.mixture import Mixture, Source, random_window, select_frames, window_indices

PAPER = "paper"  # in the place of a data set's name: the paper's mixture
# What X2SAM's second stage learns from, as far as there are readers: chat, ReasonVOS and GranD-f's train are missing.
PAPER_SETS = (
    "coco-panoptic",
    "refcoco",
    "refcoco+",
    "refcocog",
    "grefcoco",
    "reasonseg",
    "coco-interactive",
    "coco-vgd",
    "vipseg",
    "vspw",
    "youtube-vis19",
    "ref-youtube-vos",
    "ref-davis17",
    "revos",
    "gcg-video",
    "youtube-vos",
    "v-vgd-yt19",
    "v-vgd-vipseg",
)
MASKS = "sa-1b"
TEMPERATURE = 0.1  # X2SAM, stage 2
_WINDOWS = 1000  # different clips that a video is good for
_SPREAD = 2  # a caption's clip is that many times as long as others, its frames spread over the video (X2SAM: 16 for 8)


@dataclass(frozen=True)
class Found:
    """sources: of the data sets that are there. left_out: the others' names, and why."""

    sources: tuple[Source, ...]
    left_out: tuple[tuple[str, str], ...] = ()

    def mixture(self, seed: int) -> Mixture:
        """Clips take that part of the steps that their data sets have of all chances (X2SAM, stage 2)."""
        chances = {
            media: sum(_chance(one) for one in self.sources if one.media == media) for media in ("image", "video")
        }
        share = chances["video"] / (chances["image"] + chances["video"])
        return Mixture(
            self.sources, image_batch=1, video_batch=1, video_share=share, temperature=TEMPERATURE, seed=seed
        )


def _chance(source: Source) -> float:
    return float(source.weight * source.size**TEMPERATURE)


def find_sources(names: Sequence[str], root: Path, split: str | None, frames: int, seed: int) -> Found:
    """names: of READERS; PAPER stands for all of the paper's. split: None = each set's own for training. frames: of a
    clip; a caption's has twice as many.

    Raises DataError for a named set that cannot be read, and where there is none of the paper's.
    """
    sources, left_out = [], []
    wanted = [one for given in names for one in (PAPER_SETS if given == PAPER else (given,))]
    for name in dict.fromkeys(wanted):
        try:
            sources.append(read_source(name, root, split, frames, seed))
        except DataError as error:
            if PAPER not in names or name in names:
                raise
            left_out.append((name, str(error)))
    if not sources:
        reasons = "\n".join(f"{name}: {reason}" for name, reason in left_out)
        raise DataError(f"{root}: holds none of the paper's data sets.\n{reasons}")
    return Found(tuple(sources), tuple(left_out))


def read_source(name: str, root: Path, split: str | None, frames: int, seed: int) -> Source:
    """A data set to draw from; of its videos, clips. Raises DataError."""
    dataset = read_dataset(name, root, _training_split(name) if split is None else split)
    row = READERS[name]
    if row.media == "image":
        return Source(name, "image", len(dataset), make_clips(dataset, 1, seed))
    length = frames * _SPREAD if row.task == "gcg" else frames
    # Videos count once, however many clips they are good for.
    weight = _WINDOWS**-TEMPERATURE
    return Source(name, "video", len(dataset) * _WINDOWS, make_clips(dataset, length, seed), length, weight)


def _training_split(name: str) -> str:
    if name not in READERS:
        raise DataError(there_is_no("reader for", name, (PAPER, *READERS)))
    splits = [split for split in READERS[name].splits if split.startswith("train")]
    if not splits:
        raise DataError(f"{name} has no split to train on, only {', '.join(READERS[name].splits)}; name one.")
    return splits[0]


def make_clips(dataset: Dataset, frames: int, seed: int) -> Callable[[int], Example]:
    """Example `index`, counted round: a clip of an example that has something to be found."""

    def make(index: int) -> Example:
        for number in range(index, index + len(dataset)):
            example = dataset[number % len(dataset)]
            if example.targets:
                return training_clip(example, frames, np.random.default_rng((seed, index)))
        raise DataError(f"{dataset.name}: none of its examples has a target, so there is nothing to learn.")

    return make


def training_clip(example: Example, frames: int, rng: np.random.Generator) -> Example:
    """`frames` frames of an example: consecutive ones, or for captions spread over the video (X2SAM, stage 2).

    Raises DataError as `random_window` does.
    """
    if example.instruction.task == "gcg" and example.media == "video":
        spread = np.linspace(0, len(example.frames) - 1, frames).round().astype(np.int64)
        return select_frames(example, spread)
    if isinstance(example, PromptedExample):
        return _prompted_window(example, frames, rng)
    return random_window(example, frames, rng)


def _prompted_window(example: PromptedExample, count: int, rng: np.random.Generator) -> Example:
    """A window with the objects that have a prompt in it, each on the first frame that has one. Where a window would
    have none, it begins with the first prompt."""
    length = len(example.frames)
    window = window_indices(int(rng.integers(max(1, length - count + 1))), count, length)
    if not any(frame in example.prompts for frame in window.tolist()):
        window = window_indices(min(example.prompts), count, length)
    prompts: dict[int, tuple[int, int]] = {}  # of each object: place in the window, and frame
    for place, frame in enumerate(window.tolist()):
        for id in example.prompts.get(frame, {}):
            prompts.setdefault(id, (place, frame))
    regions = [replace(example.prompts[frame][id], frame=place) for id, (place, frame) in prompts.items()]
    masks = {target.id: target.masks for target in example.targets}
    return Example(
        name=example.name,
        media=example.media,
        frames=example.frames[window],
        instruction=replace(example.instruction, regions=tuple(regions)),
        conditions=len(prompts),
        targets=tuple(Target(number, masks[id][window], id) for number, id in enumerate(prompts)),
        tags=example.tags,
    )
