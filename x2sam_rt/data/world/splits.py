"""Examples by number, so that training and evaluation never share a clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from x2sam_rt.data.example import Example
from x2sam_rt.data.world.examples import example
from x2sam_rt.data.world.render import make_clip
from x2sam_rt.data.world.settings import WorldSettings, evaluation_settings
from x2sam_rt.data.world.vocabulary import SPLITS, Split
from x2sam_rt.errors import ConfigError
from x2sam_rt.tasks.marks import spell
from x2sam_rt.tasks.table import DEFAULT_WORDING, TASKS, Media

_CORPUS_CLIPS = WorldSettings(side=32, frames=2)  # only the words count


def clip_seed(split: Split, index: int) -> tuple[int, int]:
    """The seed of a split's clip. Splits have no seed in common, nor one with small numbers chosen by hand."""
    if split not in SPLITS:
        raise ConfigError(f"There is no split {split!r}; wanted one of {', '.join(SPLITS)}.")
    return int.from_bytes(split.encode(), "big"), index


def world_example(
    split: Split, index: int, task: str, *, media: Media, settings: WorldSettings | None = None
) -> Example:
    """Example number `index` (0 or more) of a split, named world/SPLIT/INDEX/TASK. The clip depends on split, index
    and settings only, so different tasks ask about the same clip.

    settings: None = `WorldSettings()` for train, `evaluation_settings()` for the others; their own split is
    replaced by what this one shows. Raises ConfigError for a split there is not, PromptError for such a task.
    """
    seed = clip_seed(split, index)
    if settings is None:
        settings = WorldSettings() if split == "train" else evaluation_settings()
    clip = make_clip(seed, replace(settings, split="unseen" if split == "unseen" else "seen"))
    rng = np.random.default_rng((*seed, int.from_bytes(f"{task} {media}".encode(), "big")))
    return example(clip, task, rng, media=media, name=f"world/{split}/{index}/{task}")


def corpus(count: int, seed: int) -> Iterator[str]:
    """Texts to learn a tokenizer from: instructions with their answers, all tasks in turn, of clips no split has."""
    asked = [(task, media) for task in TASKS.values() for media in task.media]
    for number in range(count):
        task, media = asked[number % len(asked)]
        rng = np.random.default_rng((int.from_bytes(b"corpus", "big"), seed, number))
        clip = make_clip(rng.integers(2**32, size=2).tolist(), _CORPUS_CLIPS)
        made = example(clip, task.name, rng, media=media)
        question = made.instruction.question_text(media, DEFAULT_WORDING)
        answer = made.answer or spell(made.instruction.answer_text(DEFAULT_WORDING) or ())
        yield f"{spell(question)}\n{answer}"
