"""What clips of the made-up world are like: the words that are true of them, how these look, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

import numpy as np

from x2sam_rt.errors import ConfigError

T = TypeVar("T")

Shape = Literal["circle", "square", "triangle", "star", "cross"]
Colour = Literal["red", "green", "blue", "yellow", "purple", "cyan"]
Texture = Literal["plain", "striped", "dotted"]
Size = Literal["small", "large"]
Motion = Literal["still", "left", "right", "up", "down"]
Stuff = Literal["sky", "wall", "grass", "water", "sand"]
Split = Literal["train", "seen", "unseen"]
Pairs = Literal["seen", "unseen"]
Preset = Literal["clear", "desaturated", "occluded"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
TEXTURES: tuple[Texture, ...] = get_args(Texture)
SIZES: tuple[Size, ...] = get_args(Size)
MOTIONS: tuple[Motion, ...] = get_args(Motion)
STUFF: tuple[Stuff, ...] = get_args(Stuff)
SPLITS: tuple[Split, ...] = get_args(Split)
UPPER_STUFF: tuple[Stuff, ...] = ("sky", "wall")
LOWER_STUFF: tuple[Stuff, ...] = ("grass", "water", "sand")

RGB: dict[Colour, tuple[int, int, int]] = {
    "red": (222, 38, 38),
    "green": (36, 176, 56),
    "blue": (40, 76, 230),
    "yellow": (240, 214, 36),
    "purple": (150, 44, 190),
    "cyan": (40, 212, 222),
}
STUFF_RGB: dict[Stuff, tuple[int, int, int]] = {
    "sky": (176, 188, 202),
    "wall": (178, 170, 162),
    "grass": (128, 142, 114),
    "water": (116, 134, 146),
    "sand": (190, 180, 156),
}
# Radius in pixels of a 128-pixel frame, and speed in such pixels per frame.
RADIUS: dict[Size, tuple[float, float]] = {"small": (13.0, 16.0), "large": (20.0, 26.0)}
SPEED = (1.0, 3.5)
DIRECTION: dict[Motion, tuple[int, int]] = {
    "still": (0, 0),
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}

# Never shown in training: what is said about them shows whether colour and shape were learnt apart.
# Every colour occurs once and no shape more than twice, so each word stays common in training.
HELD_OUT: frozenset[tuple[Colour, Shape]] = frozenset(
    {
        ("red", "star"),
        ("green", "circle"),
        ("blue", "cross"),
        ("yellow", "triangle"),
        ("purple", "square"),
        ("cyan", "star"),
    }
)
PAIRS: tuple[tuple[Colour, Shape], ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
SEEN_PAIRS: tuple[tuple[Colour, Shape], ...] = tuple(pair for pair in PAIRS if pair not in HELD_OUT)


@dataclass(frozen=True)
class ClipSettings:
    """side: of the square frames, pixels; everything scales with it. frames: per clip. min_objects, max_objects:
    both included. same_colour, same_shape: probability that another object shares the focus object's colour
    (shape). twins: probability of one that shares both and differs in texture or size. desaturated: probability that
    colours go for some frames; desaturated_frames: how many (None: 2 to half the clip). occluder: probability of a dark
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
    desaturated: float = 0.25
    desaturated_frames: int | None = None
    occluder: float = 0.15
    split: Pairs = "seen"

    def __post_init__(self) -> None:
        if self.side < 32 or self.frames < 1:
            raise ConfigError(f"{self.frames} frames of {self.side} pixels; wanted at least 1 of at least 32 pixels.")
        if not 1 <= self.min_objects <= self.max_objects <= 6:
            raise ConfigError(f"{self.min_objects} to {self.max_objects} objects; wanted from 1 to at most 6.")
        for name in ("same_colour", "same_shape", "twins", "desaturated", "occluder"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ConfigError(f"{name} is {value}; a probability from 0 to 1 is wanted.")
        if self.desaturated_frames is not None and not 1 <= self.desaturated_frames < max(2, self.frames):
            raise ConfigError(
                f"{self.desaturated_frames} desaturated frames of {self.frames}; wanted at least 1, and the first "
                "keeps its colours."
            )
        if self.split not in ("seen", "unseen"):
            raise ConfigError(f"split is {self.split!r}; 'seen' or 'unseen' is wanted.")

    @property
    def scale(self) -> float:
        """Pixels of this world per pixel of the 128-pixel one its sizes and speeds are given in."""
        return self.side / 128


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of the choices, all equally likely."""
    return choices[int(rng.integers(len(choices)))]


def evaluation_settings(preset: Preset = "clear", split: Pairs = "seen") -> ClipSettings:
    """Clips to measure with, 8 frames each. clear: nothing hidden. desaturated: 3 such frames and a second object of
    the focus object's shape, texture and size, so that only memory tells them apart. occluded: with an occluder.
    """
    if preset == "desaturated":
        return ClipSettings(desaturated=1, desaturated_frames=3, same_shape=1, twins=0, occluder=0, split=split)
    return ClipSettings(desaturated=0, occluder=float(preset == "occluded"), split=split)
