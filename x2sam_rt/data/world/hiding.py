"""What makes a frame not show by itself which object is meant: colours drained, or a dark thing in front."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.world.settings import WorldSettings
from x2sam_rt.data.world.shapes import Floats
from x2sam_rt.data.world.tracks import Track

DRAINED_OBJECT = 84.0  # the grey every object's colour turns into: darker than all backgrounds
OCCLUDER_GREY = 32.0


def draw_drained(rng: np.random.Generator, settings: WorldSettings) -> npt.NDArray[np.bool_]:
    """(T,) bool: no frame, or a run of frames after the first."""
    drained = np.zeros(settings.frames, dtype=np.bool_)
    if settings.frames < 3 or rng.random() >= settings.drained:
        return drained
    count = settings.drained_frames or int(rng.integers(2, max(3, settings.frames // 2 + 1)))
    last_start = settings.frames - count
    to_the_end = rng.random() < 0.3
    start = last_start if to_the_end else int(rng.integers(min(2, last_start), last_start + 1))
    drained[start : start + count] = True
    return drained


def drain(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(T, 3, H, W) with every pixel's mean in all channels."""
    grey = planes.mean(axis=1, keepdims=True, dtype=np.float32).astype(np.uint8)
    return np.broadcast_to(grey, planes.shape)


@dataclass(frozen=True, eq=False)
class Occluder:
    """A disc, or a bar across its way. centres: (T, 2). half: radius, or half the bar's width, pixels. along: (2,)
    unit vector of its way.
    """

    bar: bool
    centres: Floats
    half: float
    along: Floats

    def distance(self, side: int) -> Floats:
        """(T, side, side): pixels to its outline, negative inside."""
        axis = np.arange(side, dtype=np.float32)
        dx = axis[None, None, :] - self.centres[:, 0, None, None]
        dy = axis[None, :, None] - self.centres[:, 1, None, None]
        away: Floats = np.abs(dx * self.along[0] + dy * self.along[1]) if self.bar else np.sqrt(dx * dx + dy * dy)
        return away - np.float32(self.half)


def draw_occluder(rng: np.random.Generator, settings: WorldSettings, focus: Track, radius: float) -> Occluder | None:
    """None, or one that comes from outside, is over the focus object in the middle of the clip, and goes on."""
    if settings.frames < 3 or rng.random() >= settings.occluder:
        return None
    bar = bool(rng.random() < 0.5)
    half = (0.9 if bar else 1.15) * radius + float(rng.uniform(4, 8)) * settings.scale
    meeting = float(rng.uniform(0.4, 0.7)) * (settings.frames - 1)
    place = focus.centres[round(meeting)]
    tilt, rightward = float(rng.uniform(-0.4, 0.4)), place[0] > settings.side / 2  # the longer way in is the faster
    along = np.array([np.cos(tilt) if rightward else -np.cos(tilt), np.sin(tilt)], np.float32)
    # It starts as far back as takes it just out of the frame.
    to_edge = float(place[0] if rightward else settings.side - place[0])
    speed = (to_edge + half + 2) / meeting
    time = np.arange(settings.frames, dtype=np.float32)
    centres = place + along * ((time - np.float32(meeting)) * np.float32(speed))[:, None]
    return Occluder(bar, centres.astype(np.float32), half, along)
