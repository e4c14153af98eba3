"""The words of the made-up world, and what they look like."""

from __future__ import annotations

from typing import Literal, get_args

Shape = Literal["circle", "square", "triangle", "star", "cross"]
Colour = Literal["red", "green", "blue", "yellow", "purple", "cyan"]
Texture = Literal["plain", "striped", "dotted"]
Size = Literal["small", "large"]
Motion = Literal["still", "left", "right", "up", "down"]
Stuff = Literal["sky", "wall", "grass", "water", "sand"]
Split = Literal["train", "seen", "unseen"]

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
