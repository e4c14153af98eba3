"""Where the objects are, frame by frame, and how they turn and pulsate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from x2sam_rt.data.world.objects import WorldObject
from x2sam_rt.data.world.settings import WorldSettings
from x2sam_rt.data.world.shapes import REACH, Floats
from x2sam_rt.data.world.vocabulary import DIRECTION, SPEED

_SWELL, _STRETCH, _TURN = 0.08, 0.1, 0.35  # of size, of aspect, radians
_MARGIN = 0.9  # radii between a centre and the frame's edge
_APART = 0.8  # of the sum of two radii, between centres in the first frame
_CANDIDATES = 24


@dataclass(frozen=True, eq=False)
class Track:
    """centres: (T, 2) float32, x and y in pixels. angles: (T,) radians. scales: (T, 2), along the object's axes."""

    centres: Floats
    angles: Floats
    scales: Floats

    def reach(self, radius: float) -> int:
        """Pixels from a centre that hold the whole object, its soft edge too."""
        return int(np.ceil(radius * REACH * float(self.scales.max()))) + 2


def draw_tracks(rng: np.random.Generator, settings: WorldSettings, objects: Sequence[WorldObject]) -> list[Track]:
    """Objects start apart from each other where there is room, and move without reaching an edge."""
    starts = list[Floats]()
    tracks = list[Track]()
    for number, thing in enumerate(objects):
        travel = _travel(rng, settings, thing)
        sums = np.array([thing.radius + other.radius for other in objects[:number]], np.float32)
        starts.append(_start(rng, settings, thing, travel, sums, starts))
        tracks.append(_track(rng, settings, thing, starts[-1], travel))
    return tracks


def _travel(rng: np.random.Generator, settings: WorldSettings, thing: WorldObject) -> Floats:
    """(2,) pixels from the first frame to the last; slower than usual where a long clip would lead out."""
    steps = max(1, settings.frames - 1)
    room = settings.side - 2 * _MARGIN * thing.radius
    way = min(float(rng.uniform(*SPEED)) * settings.scale * steps, room)
    return np.array(DIRECTION[thing.motion], np.float32) * np.float32(way)


def _start(
    rng: np.random.Generator,
    settings: WorldSettings,
    thing: WorldObject,
    travel: Floats,
    sums: Floats,
    starts: Sequence[Floats],
) -> Floats:
    """(2,) the best of some random places. sums: of its radius and those of the objects placed before, at starts."""
    low = _MARGIN * thing.radius + np.maximum(-travel, 0)
    high = settings.side - _MARGIN * thing.radius - np.maximum(travel, 0)
    candidates: Floats = rng.uniform(low, np.maximum(low, high), (_CANDIDATES, 2)).astype(np.float32)
    others = np.reshape(np.array(starts, np.float32), (-1, 2))
    gaps = np.linalg.norm(candidates[:, None] - others, axis=2) / sums
    nearest = gaps.min(axis=1, initial=_APART)  # farther is no better, so the first that is far enough is taken
    best: Floats = candidates[int(nearest.argmax())]
    return best


def _track(
    rng: np.random.Generator, settings: WorldSettings, thing: WorldObject, start: Floats, travel: Floats
) -> Track:
    time = np.arange(settings.frames, dtype=np.float32)
    steps = max(1, settings.frames - 1)
    centres = start + travel * (time / np.float32(steps))[:, None]
    swell, stretch, turn = (_wave(rng, time, limit) for limit in (_SWELL, _STRETCH, _TURN))
    scales = np.stack([1 + swell + stretch / 2, 1 + swell - stretch / 2], axis=1)
    return Track(centres, turn, scales.astype(np.float32))


def _wave(rng: np.random.Generator, time: Floats, limit: float) -> Floats:
    """A slow sine: a period of 12 to 24 frames."""
    rate, phase = 2 * np.pi / rng.uniform(12, 24), rng.uniform(0, 2 * np.pi)
    wave: Floats = np.sin(time * np.float32(rate) + np.float32(phase))
    return wave * np.float32(limit * rng.uniform(0.4, 1))
