"""The synthetic sets: clips of the made-up world, of seeds that training never draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from x2sam_rt.data.dataset import Dataset, Metric
from x2sam_rt.data.example import Example, Target
from x2sam_rt.data.synthetic import SHAPES, STUFF, clip_seed, evaluation_settings, make_clip, make_example, make_stream
from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.evaluators import AnswerEvaluator, Evaluator, LinkingEvaluator, evaluator_of
from x2sam_rt.evaluation.parts import MakeEvaluator, Part
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.table import Media

Clips = Literal["clear", "desaturated", "occluded"]
Pairs = Literal["seen", "unseen"]
PAIRS: tuple[Pairs, ...] = ("seen", "unseen")
_LONGEST = 96  # tokens of an answer; true ones have half as many, and a model that never stops costs no more
_LOOK_ALIKES = frozenset({"same_colour", "same_shape"})


@dataclass(frozen=True)
class SyntheticSample:
    """Example `index` of a task. phrases: how many to refer to; None = as the world draws. given: the true answer is
    asked with, so that the masks alone are the model's. frames: of the clip; None = the world's own number."""

    name: str
    task: str
    media: Media
    clips: Clips
    pairs: Pairs
    index: int
    phrases: int | None
    given: bool = False
    frames: int | None = None

    def load(self) -> Example:
        seed = clip_seed(self.pairs, self.index)
        settings = evaluation_settings(self.clips, self.pairs)
        clip = make_clip(seed, settings if self.frames is None else replace(settings, frames=self.frames))
        rng = np.random.default_rng((*seed, int.from_bytes(f"{self.task} {self.media}".encode(), "big")))
        made = make_example(clip, self.task, rng, media=self.media, count=self.phrases, name=self.name)
        alone = self.phrases == 1 and not made.tags & _LOOK_ALIKES
        return replace(
            made,
            instruction=replace(made.instruction, max_new_tokens=_LONGEST, answer=made.answer if self.given else None),
            tags=made.tags | {"no look-alike"} if alone else made.tags,
        )


@dataclass(frozen=True)
class _Row:
    """Examples of one task. control: measured once more without memory. given: as in `SyntheticSample`."""

    name: str
    task: str
    media: Media
    count: int
    metric: Metric | Literal["caption", "answer"]
    clips: Clips = "clear"
    pairs: Pairs = "seen"
    phrases: int | None = None
    control: bool = False
    given: bool = False
    frames: int | None = None

    def parts(self) -> list[Part]:
        samples = tuple(self._sample(index) for index in range(self.count))
        found = [Part(self.name, samples, self._evaluator(samples))]
        if self.control:
            found.append(Part(f"{self.name}, without memory", samples, self._evaluator(samples), forget=True))
        return found

    def _sample(self, index: int) -> SyntheticSample:
        name = f"synthetic/{self.name}/{index}"
        return SyntheticSample(
            name, self.task, self.media, self.clips, self.pairs, index, self.phrases, self.given, self.frames
        )

    def _evaluator(self, samples: tuple[SyntheticSample, ...]) -> MakeEvaluator:
        match self.metric:
            case "caption":
                return lambda published: LinkingEvaluator()
            case "answer":
                return lambda published: AnswerEvaluator()
        dataset = Dataset(self.name, self.metric, samples, things=SHAPES, stuff=STUFF)

        def make(published: bool) -> Evaluator:
            return evaluator_of(dataset, published=False)  # there are no published figures to be like

        return make


_ROWS = (
    _Row("referring", "referring", "video", 64, "j_and_f", phrases=1),
    _Row("referring, unseen pairs", "referring", "video", 64, "j_and_f", pairs="unseen", phrases=1),
    _Row("referring, drained", "referring", "video", 32, "j_and_f", "desaturated", phrases=1, control=True),
    _Row("referring, occluded", "referring", "video", 32, "j_and_f", "occluded", phrases=1, control=True),
    _Row("referring, images", "referring", "image", 64, "giou", phrases=1),
    _Row("reasoning", "reasoning", "video", 32, "j_and_f"),
    _Row("object", "object", "video", 48, "j_and_f"),
    _Row("vgd", "vgd", "video", 24, "vgd"),
    _Row("panoptic", "panoptic", "video", 24, "panoptic_video"),
    _Row("panoptic, images", "panoptic", "image", 48, "panoptic_image"),
    _Row("instance, images", "instance", "image", 48, "ap_image"),
    _Row("gcg", "gcg", "video", 24, "caption"),
    _Row("gcg, images", "gcg", "image", 32, "caption"),
    _Row("gcg, true captions", "gcg", "video", 24, "caption", given=True),
    _Row("chat", "chat", "video", 48, "answer"),
)


@dataclass(frozen=True)
class StreamSample:
    """Stream `index`: of its frames the language model is shown the first, and later what asking again shows it."""

    name: str
    index: int

    def load(self) -> Example:
        stream = make_stream(clip_seed("seen", self.index))
        return Example(
            name=self.name,
            media="video",
            frames=stream.frames,
            instruction=Instruction(phrases=(stream.phrase,)),
            conditions=1,
            targets=(Target(0, stream.masks, 0),),
            seen=1,
        )


@dataclass(frozen=True)
class _Streams:
    """Streams in which what is named changes."""

    name: str
    count: int
    pairs: Pairs = "seen"

    def parts(self) -> list[Part]:
        samples = tuple(StreamSample(f"synthetic/{self.name}/{index}", index) for index in range(self.count))
        return [Part.of(Dataset(self.name, "j_and_f", samples))]


# Clips many times as long as those that the model learned from: does it gain or lose by what it remembers?
_LONG = (
    _Row("referring", "referring", "video", 12, "j_and_f", phrases=1, frames=64),
    _Row("object", "object", "video", 12, "j_and_f", frames=64),
    _Row("panoptic", "panoptic", "video", 8, "panoptic_video", frames=64),
)
# When is it worth asking again?
_CHANGING = (_Streams("streams", 12),)
SYNTHETIC: Mapping[str, Sequence[_Row | _Streams]] = {
    "synthetic": _ROWS,
    "synthetic-long": _LONG,
    "synthetic-streams": _CHANGING,
}


def synthetic_parts(pairs: str | None = None, rows: Sequence[_Row | _Streams] = _ROWS) -> tuple[Part, ...]:
    """Always the same examples. pairs: "seen" or "unseen" for the parts that ask about colours and shapes that
    training showed together, or never did; None = both. Raises DataError for another name."""
    if pairs not in (None, *PAIRS):
        raise DataError(f"The synthetic set has no split {pairs!r}; there are {' and '.join(PAIRS)}.")
    return tuple(part for row in rows if pairs in (None, row.pairs) for part in row.parts())
