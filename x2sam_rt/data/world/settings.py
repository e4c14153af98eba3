"""What clips of the made-up world are like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from x2sam_rt.errors import ConfigError

Pairs = Literal["seen", "unseen"]
Preset = Literal["clear", "hidden", "occluded"]


@dataclass(frozen=True)
class WorldSettings:
    """side: of the square frames, pixels; everything scales with it. frames: per clip. min_objects, max_objects:
    both included. same_colour, same_shape: probability that another object shares the focus object's colour
    (shape). twins: probability of one that shares both and differs in texture or size. drained: probability that
    colours go for some frames; drained_frames: how many (None: 2 to half the clip). occluder: probability of a dark
    thing sweeping over. split: "unseen" makes the focus object a held-out pair, "seen" shows none.

    Raises ConfigError for values no clip can have.
    """

    side: int = 128
    frames: int = 8
    min_objects: int = 2
    max_objects: int = 4
    same_colour: float = 0.5
    same_shape: float = 0.5
    twins: float = 0.08
    drained: float = 0.25
    drained_frames: int | None = None
    occluder: float = 0.15
    split: Pairs = "seen"

    def __post_init__(self) -> None:
        if self.side < 32 or self.frames < 1:
            raise ConfigError(f"{self.frames} frames of {self.side} pixels; wanted at least 1 of at least 32 pixels.")
        if not 1 <= self.min_objects <= self.max_objects <= 6:
            raise ConfigError(f"{self.min_objects} to {self.max_objects} objects; wanted from 1 to at most 6.")
        for name in ("same_colour", "same_shape", "twins", "drained", "occluder"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ConfigError(f"{name} is {value}; a probability from 0 to 1 is wanted.")
        if self.drained_frames is not None and not 1 <= self.drained_frames < max(2, self.frames):
            raise ConfigError(
                f"{self.drained_frames} drained frames of {self.frames}; wanted at least 1, and the first stays clear."
            )
        if self.split not in ("seen", "unseen"):
            raise ConfigError(f"split is {self.split!r}; 'seen' or 'unseen' is wanted.")

    @property
    def scale(self) -> float:
        """Pixels of this world per pixel of the 128-pixel one its sizes and speeds are given in."""
        return self.side / 128


def evaluation_settings(preset: Preset = "clear", split: Pairs = "seen") -> WorldSettings:
    """Clips to measure with, 8 frames each. clear: nothing hidden. hidden: 3 drained frames and a second object of
    the focus object's shape, texture and size, so that only memory tells them apart. occluded: with an occluder.
    """
    if preset == "hidden":
        return WorldSettings(drained=1, drained_frames=3, same_shape=1, twins=0, occluder=0, split=split)
    return WorldSettings(drained=0, occluder=float(preset == "occluded"), split=split)
