"""Examples by task and number, so that training and evaluation never share a clip."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from x2sam_rt.data.example import Example
from x2sam_rt.data.synthetic.clip import SyntheticClip
from x2sam_rt.data.synthetic.render import make_clip
from x2sam_rt.data.synthetic.settings import SPLITS, ClipSettings, Split, evaluation_settings
from x2sam_rt.data.synthetic.tasks import ClipView, clear_still, draft
from x2sam_rt.errors import ConfigError, PromptError
from x2sam_rt.tasks.marks import spell
from x2sam_rt.tasks.table import DEFAULT_WORDING, TASKS, Media, task

_CORPUS_CLIPS = ClipSettings(side=32, frames=2)  # only the words count


@dataclass(frozen=True, eq=False, kw_only=True)
class SyntheticExample(Example):
    """clip: what its frames show, with everything there is to know about them; of one frame for an image."""

    clip: SyntheticClip


def make_example(
    clip: SyntheticClip,
    task_name: str,
    rng: np.random.Generator,
    *,
    media: Media,
    count: int | None = None,
    name: str = "world",
) -> SyntheticExample:
    """An example of one task about the clip; an image example shows one of its clear frames, as `clear_still` draws it.

    count: how many phrases to refer by, or regions of vgd (None: 1 to 3, of referring in a video 1 or 2, and 1 where
    colours are desaturated); a clip with fewer objects gives fewer. Raises PromptError for a task there is not or that
    this medium does not have.
    """
    if media not in (row := task(task_name)).media:
        raise PromptError(f"{row.name} is for {' and '.join(row.media)}s, not for {media}s.")
    shown = clear_still(clip, rng) if media == "image" else clip
    drafted = draft(row.name, ClipView(shown, media), rng, count)
    return SyntheticExample(
        name=name,
        media=media,
        frames=shown.frames,
        instruction=drafted.instruction,
        conditions=drafted.conditions,
        targets=drafted.targets,
        answer=drafted.answer,
        tags=drafted.tags,
        labelled=np.ones(len(shown.frames), dtype=np.bool_),
        hidden=drafted.hidden,
        clip=shown,
    )


def clip_seed(split: Split, index: int) -> tuple[int, int]:
    """The seed of a split's clip. Splits have no seed in common, nor one with small numbers chosen by hand."""
    if split not in SPLITS:
        raise ConfigError(f"There is no split {split!r}; wanted one of {', '.join(SPLITS)}.")
    return int.from_bytes(split.encode(), "big"), index


def synthetic_example(
    split: Split, index: int, task: str, *, media: Media, settings: ClipSettings | None = None
) -> SyntheticExample:
    """Example number `index` (0 or more) of a split, named world/SPLIT/INDEX/TASK. The clip depends on split, index
    and settings only, so different tasks ask about the same clip.

    settings: None = `ClipSettings()` for train, `evaluation_settings()` for the others; their own split is
    replaced by what this one shows. Raises ConfigError for a split there is not, PromptError for such a task.
    """
    seed = clip_seed(split, index)
    if settings is None:
        settings = ClipSettings() if split == "train" else evaluation_settings()
    clip = make_clip(seed, replace(settings, split="unseen" if split == "unseen" else "seen"))
    rng = np.random.default_rng((*seed, int.from_bytes(f"{task} {media}".encode(), "big")))
    return make_example(clip, task, rng, media=media, name=f"world/{split}/{index}/{task}")


def corpus(count: int, seed: int) -> Iterator[str]:
    """Texts to learn a tokenizer from: instructions with their answers, all tasks in turn, of clips no split has."""
    asked = [(task, media) for task in TASKS.values() for media in task.media]
    for number in range(count):
        task, media = asked[number % len(asked)]
        rng = np.random.default_rng((int.from_bytes(b"corpus", "big"), seed, number))
        clip = make_clip(rng.integers(2**32, size=2).tolist(), _CORPUS_CLIPS)
        made = make_example(clip, task.name, rng, media=media)
        question = made.instruction.question_text(media, DEFAULT_WORDING)
        answer = made.answer or spell(made.instruction.answer_text(DEFAULT_WORDING) or ())
        yield f"{spell(question)}\n{answer}"
