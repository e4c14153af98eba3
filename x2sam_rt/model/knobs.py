"""Knobs: what of a trained model may be chosen anew, since its weights fit every choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, get_args

from x2sam_rt.config import SCALES, MemoryConfig, ModelConfig, PixelBudget, Scale, Turns
from x2sam_rt.documents import did_you_mean
from x2sam_rt.errors import ConfigError


@dataclass(frozen=True)
class ModelKnobs:
    """None leaves a knob as the model was trained.

    The first three run the model as it is defined; how well was learnt at its own sizes only. image_size: side of the
    segmentor's input, a multiple of 32. slots: frames the memory holds. vision_budget: most pixels of an image that the
    visual tower sees; a video's budget shrinks in proportion. The others are approximations, see `MemoryConfig`.
    """

    image_size: int | None = None
    slots: int | None = None
    vision_budget: int | None = None
    memory_scales: tuple[Scale, ...] | None = None
    memory_every: int | None = None
    memory_reads: Turns | None = None
    memory_gaps: Turns | None = None

    @classmethod
    def parse(cls, texts: Sequence[str]) -> ModelKnobs:
        """ "image_size=512", "memory_scales=low+middle" and so on, one knob each. Raises ConfigError."""
        found: dict[str, Any] = {}
        for text in texts:
            name, _, value = text.partition("=")
            if name not in PARSERS:
                alike, there = did_you_mean(name, PARSERS), ", ".join(PARSERS)
                raise ConfigError(f"There is no knob {name!r}.{alike} There are {there}. Write knob=value.")
            found[name] = PARSERS[name](value)
        return cls(**found)

    def __str__(self) -> str:
        """What is turned, as `parse` reads it; empty where nothing is."""
        given = ((field.name, getattr(self, field.name)) for field in fields(self))
        return " ".join(f"{name}={_written(value)}" for name, value in given if value is not None)

    def turned(self, config: ModelConfig) -> ModelConfig:
        """Raises ConfigError for what the model cannot have."""
        if self.image_size is not None:
            config = replace(config, image_size=self.image_size)
        if self.vision_budget is not None:
            config = _with_budget(config, self.vision_budget)
        return replace(config, memory=self._memory(config.memory))

    def _memory(self, memory: MemoryConfig) -> MemoryConfig:
        return replace(
            memory,
            slots=self.slots or memory.slots,
            scales=self.memory_scales or memory.scales,
            every=self.memory_every or memory.every,
            reads=self.memory_reads or memory.reads,
            gaps=self.memory_gaps or memory.gaps,
        )


def _with_budget(config: ModelConfig, pixels: int) -> ModelConfig:
    image, video = config.image_budget, config.video_budget
    if not image.min_pixels <= pixels <= image.max_pixels:
        raise ConfigError(
            f"A vision budget of {pixels} pixels; wanted {image.min_pixels} to {image.max_pixels}, as the model was "
            "published with."
        )
    share = pixels / image.max_pixels
    most = max(video.min_pixels, int(video.max_pixels * share))
    return replace(
        config,
        image_budget=PixelBudget(image.min_pixels, pixels),
        video_budget=PixelBudget(video.min_pixels, most),
    )


def _count(name: str, text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"{name}={text}: wanted a number from 1.")
    return int(text)


def _scales(name: str, text: str) -> tuple[Scale, ...]:
    known: Mapping[str, Scale] = {scale: scale for scale in SCALES}
    names = text.split("+")
    if unknown := [scale for scale in names if scale not in known]:
        raise ConfigError(f"{name}={text}: there is no scale {unknown[0]!r}; wanted some of {'+'.join(SCALES)}.")
    return tuple(known[scale] for scale in names)


def _turns(name: str, text: str) -> Turns:
    known: Mapping[str, Turns] = {turns: turns for turns in get_args(Turns)}
    if text not in known:
        raise ConfigError(f"{name}={text}: wanted {' or '.join(known)}.")
    return known[text]


def _written(value: int | str | tuple[str, ...]) -> str:
    return "+".join(value) if isinstance(value, tuple) else str(value)


_READ: Mapping[str, Callable[[str, str], Any]] = {
    "image_size": _count,
    "slots": _count,
    "vision_budget": _count,
    "memory_scales": _scales,
    "memory_every": _count,
    "memory_reads": _turns,
    "memory_gaps": _turns,
}
# By a knob's name: its value from text. Raises ConfigError.
PARSERS: Mapping[str, Callable[[str], Any]] = {name: partial(read, name) for name, read in _READ.items()}
