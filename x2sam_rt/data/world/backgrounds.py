"""The two regions behind the objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.world.objects import pick
from x2sam_rt.data.world.settings import WorldSettings
from x2sam_rt.data.world.shapes import Floats
from x2sam_rt.data.world.vocabulary import LOWER_STUFF, STUFF_RGB, UPPER_STUFF, Stuff

_DRIFT = 8  # pixels of a 128-pixel frame that a background moves by in a clip, at most


@dataclass(frozen=True, eq=False)
class Background:
    """names: upper, lower. planes: (T, 3, H, W) uint8. ids: (T, H, W) int16, 0 above the horizon and 1 below."""

    names: tuple[Stuff, Stuff]
    planes: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.int16]


def draw_background(rng: np.random.Generator, settings: WorldSettings) -> Background:
    """A tilted, curved horizon between two textures; in half of the clips the picture drifts slowly."""
    names = (pick(rng, UPPER_STUFF), pick(rng, LOWER_STUFF))
    drift = int(np.ceil(_DRIFT * settings.scale))
    size = settings.side + drift
    y, x = np.mgrid[:size, :size].astype(np.float32)
    lower = y > _horizon(rng, x[0], settings.side)
    upper_picture, lower_picture = (_texture(rng, name, x, y, settings.scale) for name in names)
    picture = np.where(lower, lower_picture, upper_picture)
    offsets = _offsets(rng, settings.frames, drift)
    side = settings.side
    planes = np.stack([picture[:, top : top + side, left : left + side] for top, left in offsets])
    ids = np.stack([lower[top : top + side, left : left + side] for top, left in offsets]).astype(np.int16)
    return Background(names, planes, ids)


def _horizon(rng: np.random.Generator, x: Floats, side: int) -> Floats:
    """Height of the horizon per column, pixels."""
    along = x / side - 0.5
    middle, tilt, curve = rng.uniform(0.38, 0.66), rng.uniform(-0.2, 0.2), rng.uniform(-0.35, 0.35)
    return (side * (middle + tilt * along + curve * along * along)).astype(np.float32)


def _texture(rng: np.random.Generator, name: Stuff, x: Floats, y: Floats, scale: float) -> npt.NDArray[np.uint8]:
    """(3, H, W), the muted colour of the stuff with its own light pattern."""
    colour = np.array(STUFF_RGB[name], np.float32) + np.float32(rng.uniform(-7, 7))
    shading = _pattern(rng, name, x / np.float32(scale), y / np.float32(scale))
    return (colour[:, None, None] + shading).astype(np.uint8)  # far enough from 0 and 255 not to wrap


def _pattern(rng: np.random.Generator, name: Stuff, x: Floats, y: Floats) -> Floats:
    """(H, W), what is added to all channels."""
    phase = np.float32(rng.uniform(0, 6))
    if name == "sky":
        bands: Floats = np.sin(y * np.float32(0.11) + np.sin(x * np.float32(0.05) + phase))
        return y * np.float32(0.14) + bands * 4 - 6
    if name == "wall":
        row = np.floor(y / 12)
        joint = ((y % 12) < 1.2) | (((x + 10 * (row % 2) + phase * 3) % 20) < 1.2)
        return np.where(joint, np.float32(-13), np.float32(0))
    if name == "water":
        ripples: Floats = np.sin(y * np.float32(0.7) + np.sin(x * np.float32(0.16) + phase))
        return ripples * 7
    grain = rng.integers(-12, 13, x.shape, dtype=np.int8).astype(np.float32)
    if name == "sand":
        return grain
    blades: Floats = np.sin(x * np.float32(1.3) + phase)
    return grain * np.float32(0.6) + blades * 6


def _offsets(rng: np.random.Generator, frames: int, drift: int) -> list[tuple[int, int]]:
    """Top and left of the cut-out per frame."""
    ends = rng.integers(0, drift + 1, (2, 2))
    if rng.random() < 0.5:
        ends[1] = ends[0]
    path = np.rint(np.linspace(ends[0], ends[1], frames)).astype(int)
    return [(int(top), int(left)) for top, left in path]
