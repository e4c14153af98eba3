"""Which examples each training step learns from, and clips of one length out of videos of any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import floor
from typing import Any

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.example import Example, Target
from x2sam_rt.errors import ConfigError, DataError
from x2sam_rt.tasks.regions import RegionPrompt
from x2sam_rt.tasks.table import Media

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Source:
    """A data set to draw from. name: unique in the mixture. size: how many examples it has. make: builds one from its
    index, 0…size − 1. frames: the length of its clips: one number for all, or each example's own.
    weight: makes it be drawn from that much more often than its size alone would.
    """

    name: str
    media: Media
    size: int
    make: Callable[[int], Example]
    frames: int | Sequence[int] = 1
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"The data set {self.name} is empty; leave it out of the mixture, or check its folder.")
        if not isinstance(self.frames, int) and len(self.frames) != self.size:
            raise DataError(
                f"The data set {self.name} has {self.size} examples, but {len(self.frames)} clip lengths; "
                "give one for all, or one for each."
            )

    def by_length(self) -> dict[int, Sequence[int]]:
        """Indices of the examples of each clip length."""
        if isinstance(self.frames, int):
            return {self.frames: range(self.size)}
        lengths = np.asarray(self.frames)
        return {int(length): np.flatnonzero(lengths == length).tolist() for length in np.unique(lengths)}


@dataclass(frozen=True, eq=False)
class Draw:
    """One example to be made."""

    source: Source
    index: int

    def example(self) -> Example:
        """Raises DataError when the source makes something else than it promised."""
        made = self.source.make(self.index)
        wanted = self.source.frames if isinstance(self.source.frames, int) else self.source.frames[self.index]
        if made.media != self.source.media or len(made.frames) != wanted:
            raise made.bad(
                f"found {made.media} of {len(made.frames)} frames; its data set {self.source.name} promised "
                f"{self.source.media} of {wanted}"
            )
        return made


@dataclass(frozen=True, eq=False)
class _Share:
    """The examples of one source with one clip length, and how likely an example is one of them."""

    source: Source
    indices: Sequence[int]
    chance: float


@dataclass(frozen=True, eq=False)
class Mixture:
    """Batches of several data sets, each batch of one medium and, of clips, of one length (X2SAM, stage 2).

    A data set is drawn from in proportion to size ** temperature: 1 draws every example equally often, 0 every data
    set; 0.1 lets small ones be heard. video_share: part of the steps, 0…1, that learn from clips; they are spread
    evenly. Examples are drawn with replacement. Batches depend on seed and step alone, so a resumed run sees those
    it would have seen.

    Raises ConfigError for numbers out of range, and for a share of clips that the sources cannot provide.
    """

    sources: tuple[Source, ...]
    image_batch: int
    video_batch: int
    video_share: float
    temperature: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        media = {source.media for source in self.sources}
        _require(len(set(names)) == len(names), "source names", names, "all different")
        _require(self.image_batch >= 1, "image_batch", self.image_batch, "1 or more")
        _require(self.video_batch >= 1, "video_batch", self.video_batch, "1 or more")
        _require(0 <= self.video_share <= 1, "video_share", self.video_share, "between 0 and 1")
        _require(self.video_share == 0 or "video" in media, "video_share", self.video_share, "0 without clips")
        _require(self.video_share == 1 or "image" in media, "video_share", self.video_share, "1 without images")
        _require(0 <= self.temperature <= 1, "temperature", self.temperature, "between 0 and 1")

    def media(self, step: int) -> Media:
        """What the step, counted from 0, learns from."""
        is_video = floor((step + 1) * self.video_share) > floor(step * self.video_share)
        return "video" if is_video else "image"

    def draws(self, step: int, part: int = 0) -> tuple[Draw, ...]:
        """Which examples the step learns from; parts are batches of one medium that processes share a step with."""
        random = np.random.default_rng((self.seed, step, part))
        media = self.media(step)
        buckets = self._buckets[media]
        bucket = buckets[random.choice(len(buckets), p=_normalised([sum(s.chance for s in b) for b in buckets]))]
        size = self.video_batch if media == "video" else self.image_batch
        chosen = random.choice(len(bucket), size=size, p=_normalised([share.chance for share in bucket]))
        shares = [bucket[i] for i in chosen]
        return tuple(Draw(s.source, int(s.indices[random.integers(len(s.indices))])) for s in shares)

    def batch(self, step: int, part: int = 0) -> tuple[Example, ...]:
        """The examples of the step."""
        return tuple(draw.example() for draw in self.draws(step, part))

    @cached_property
    def _buckets(self) -> dict[Media, tuple[tuple[_Share, ...], ...]]:
        """For each medium, one bucket per clip length."""
        return {media: self._by_length(media) for media in ("image", "video")}

    def _by_length(self, media: Media) -> tuple[tuple[_Share, ...], ...]:
        buckets: dict[int, list[_Share]] = {}
        for source in self.sources:
            if source.media == media:
                # A bucket is as likely as its examples are together: none is seen more often for its clip's length.
                each = source.weight * source.size**self.temperature / source.size
                for length, indices in source.by_length().items():
                    buckets.setdefault(length, []).append(_Share(source, indices, each * len(indices)))
        return tuple(tuple(bucket) for bucket in buckets.values())


def _normalised(chances: Sequence[float]) -> list[float]:
    total = sum(chances)
    return [chance / total for chance in chances]


def _require(holds: bool, name: str, found: object, wanted: str) -> None:
    if not holds:
        raise ConfigError(f"The mixture's {name}: found {found}; it must be {wanted}.")


def window_indices(start: int, count: int, length: int) -> Indices:
    """Numbers of `count` consecutive frames of a video of `length`; at its end it is played back, and on from its
    beginning."""
    period = max(1, 2 * (length - 1))
    there = (start + np.arange(count)) % period
    return np.where(there < length, there, period - there)


def random_window(example: Example, count: int, rng: np.random.Generator) -> Example:
    """`count` frames of an example at stride 1 (X2SAM, stage 2). They begin anywhere; where it has visual prompts, at
    the first one's frame. Raises DataError, naming the example, when another prompt's frame then lies outside."""
    length = len(example.frames)
    prompted = [region.frame for region in example.instruction.regions]
    start = min(prompted) if prompted else int(rng.integers(max(1, length - count + 1)))
    return select_frames(example, window_indices(start, count, length))


def select_frames(example: Example, frames: Indices) -> Example:
    """The example with these frames only, in this order; pixels no figure counts are background."""
    regions = tuple(_moved(region, frames, example) for region in example.instruction.regions)
    return Example(
        name=example.name,
        media=example.media,
        frames=example.frames[frames],
        instruction=replace(example.instruction, regions=regions),
        conditions=example.conditions,
        targets=tuple(Target(t.condition, t.masks[frames], t.id) for t in example.targets),
        answer=example.answer,
        tags=example.tags,
        labelled=_selected(example.labelled, frames),
        hidden=_selected(example.hidden, frames),
        seen=None if example.seen is None else min(example.seen, len(frames)),
    )


def _selected(array: npt.NDArray[Any] | None, frames: Indices) -> npt.NDArray[Any] | None:
    return None if array is None else array[frames]


def _moved(region: RegionPrompt, frames: Sequence[int] | Indices, example: Example) -> RegionPrompt:
    found = np.flatnonzero(np.asarray(frames) == region.frame)
    if not len(found):
        raise example.bad(
            f"its {region.kind} prompt lies on frame {region.frame}, outside the clip of frames {min(frames)} to "
            f"{max(frames)}; learn from longer clips"
        )
    return replace(region, frame=int(found[0]))
