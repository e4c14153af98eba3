"""What is in a clip before it is drawn: objects, their tracks, and what takes them or their colours from sight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from x2sam_rt.data.synthetic.settings import (
    DIRECTION,
    HELD_OUT,
    MOTIONS,
    RADIUS,
    SEEN_PAIRS,
    SIZES,
    SPEED,
    TEXTURES,
    ClipSettings,
    Colour,
    Motion,
    Shape,
    Size,
    Texture,
    pick,
)
from x2sam_rt.data.synthetic.shapes import REACH, Floats
from x2sam_rt.media.types import BoolMask

_SWELL, _STRETCH, _TURN = 0.08, 0.1, 0.35  # of size, of aspect, radians
_MARGIN = 0.9  # radii between a centre and the frame's edge
_APART = 0.8  # of the sum of two radii, between centres in the first frame
_CANDIDATES = 24


@dataclass(frozen=True)
class SceneObject:
    """radius: pixels, before its size pulsates."""

    shape: Shape
    colour: Colour
    texture: Texture
    size: Size
    motion: Motion
    radius: float

    @property
    def pair(self) -> tuple[Colour, Shape]:
        return self.colour, self.shape


@dataclass(frozen=True, eq=False)
class Track:
    """centres: (T, 2) float32, x and y in pixels. angles: (T,) radians. scales: (T, 2), along the object's axes."""

    centres: Floats
    angles: Floats
    scales: Floats


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


@dataclass(frozen=True, eq=False)
class Scene:
    """objects, and their tracks in the same order. focus: number of the object that the others were drawn around.
    desaturated: (T,) bool, frames without colour.
    """

    objects: tuple[SceneObject, ...]
    tracks: tuple[Track, ...]
    focus: int
    desaturated: BoolMask
    occluder: Occluder | None

    def reach(self, number: int) -> int:
        """Pixels from an object's centre that hold it whole, its soft edge too."""
        return int(np.ceil(self.objects[number].radius * REACH * float(self.tracks[number].scales.max()))) + 2

    def shuffled(self, rng: np.random.Generator) -> Scene:
        """The same objects in any order."""
        order = [int(number) for number in rng.permutation(len(self.objects))]
        objects, tracks = zip(*((self.objects[number], self.tracks[number]) for number in order), strict=True)
        return replace(self, objects=objects, tracks=tracks, focus=order.index(self.focus))


def draw_scene(rng: np.random.Generator, settings: ClipSettings) -> Scene:
    """The focus object is the first."""
    desaturated = _desaturated(rng, settings)
    objects = _objects(rng, settings, bool(desaturated.any()))
    tracks = _tracks(rng, settings, objects)
    occluder = _occluder(rng, settings, tracks[0], objects[0].radius)
    return Scene(tuple(objects), tuple(tracks), 0, desaturated, occluder)


def _desaturated(rng: np.random.Generator, settings: ClipSettings) -> BoolMask:
    """(T,) bool: no frame, or a run of frames after the first."""
    desaturated = np.zeros(settings.frames, dtype=np.bool_)
    if settings.frames < 3 or rng.random() >= settings.desaturated:
        return desaturated
    count = settings.desaturated_frames or int(rng.integers(2, max(3, settings.frames // 2 + 1)))
    last_start = settings.frames - count
    to_the_end = rng.random() < 0.3
    start = last_start if to_the_end else int(rng.integers(min(2, last_start), last_start + 1))
    desaturated[start : start + count] = True
    return desaturated


def _objects(rng: np.random.Generator, settings: ClipSettings, desaturated: bool) -> list[SceneObject]:
    """The focus object first, then those that are easily taken for it, then others.

    desaturated: colours will go, so the object of the same shape looks the same in all else.
    """
    count = int(rng.integers(settings.min_objects, settings.max_objects + 1))
    pairs = sorted(HELD_OUT) if settings.split == "unseen" else SEEN_PAIRS
    focus = _object(rng, settings, pick(rng, pairs))
    others = _look_alikes(rng, settings, focus, desaturated)[: count - 1]
    while len(others) < count - 1:
        taken = {focus.pair, *(other.pair for other in others)}
        others.append(_object(rng, settings, pick(rng, [pair for pair in SEEN_PAIRS if pair not in taken])))
    return [focus, *others]


def _look_alikes(
    rng: np.random.Generator, settings: ClipSettings, focus: SceneObject, desaturated: bool
) -> list[SceneObject]:
    """At most one twin, one of the same shape and one of the same colour; the order is drawn, as a clip may have no
    room for all, but where colours go the one of the same shape is the first.
    """
    found = list[SceneObject]()
    twin, same_shape, same_colour = rng.random(3) < (settings.twins, settings.same_shape, settings.same_colour)
    if same_shape:
        pairs = [pair for pair in SEEN_PAIRS if pair[1] == focus.shape and pair != focus.pair]
        alike = _object(rng, settings, pick(rng, pairs))
        if desaturated:
            alike = replace(alike, texture=focus.texture, size=focus.size, radius=focus.radius)
        found.append(alike)
    if same_colour:
        pairs = [pair for pair in SEEN_PAIRS if pair[0] == focus.colour and pair != focus.pair]
        place = 0 if not desaturated and rng.random() < 0.5 else len(found)
        found.insert(place, _object(rng, settings, pick(rng, pairs)))
    if twin and not desaturated and settings.split == "seen":
        found.insert(0, _twin(rng, settings, focus))
    return found


def _twin(rng: np.random.Generator, settings: ClipSettings, focus: SceneObject) -> SceneObject:
    twin = _object(rng, settings, focus.pair)
    if rng.random() < 0.5:
        return replace(twin, texture=pick(rng, [texture for texture in TEXTURES if texture != focus.texture]))
    size = pick(rng, [size for size in SIZES if size != focus.size])
    return replace(twin, size=size, radius=_radius(rng, settings, size))


def _object(rng: np.random.Generator, settings: ClipSettings, pair: tuple[Colour, Shape]) -> SceneObject:
    colour, shape = pair
    size = pick(rng, SIZES)
    return SceneObject(shape, colour, pick(rng, TEXTURES), size, pick(rng, MOTIONS), _radius(rng, settings, size))


def _radius(rng: np.random.Generator, settings: ClipSettings, size: Size) -> float:
    return float(rng.uniform(*RADIUS[size])) * settings.scale


def _tracks(rng: np.random.Generator, settings: ClipSettings, objects: Sequence[SceneObject]) -> list[Track]:
    """Objects start apart from each other where there is room, and move without reaching an edge."""
    starts = list[Floats]()
    tracks = list[Track]()
    for number, thing in enumerate(objects):
        travel = _travel(rng, settings, thing)
        sums = np.array([thing.radius + other.radius for other in objects[:number]], np.float32)
        starts.append(_start(rng, settings, thing, travel, sums, starts))
        tracks.append(_track(rng, settings, thing, starts[-1], travel))
    return tracks


def _travel(rng: np.random.Generator, settings: ClipSettings, thing: SceneObject) -> Floats:
    """(2,) pixels from the first frame to the last; slower than usual where a long clip would lead out."""
    steps = max(1, settings.frames - 1)
    room = settings.side - 2 * _MARGIN * thing.radius
    way = min(float(rng.uniform(*SPEED)) * settings.scale * steps, room)
    return np.array(DIRECTION[thing.motion], np.float32) * np.float32(way)


def _start(
    rng: np.random.Generator,
    settings: ClipSettings,
    thing: SceneObject,
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
    rng: np.random.Generator, settings: ClipSettings, thing: SceneObject, start: Floats, travel: Floats
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


def _occluder(rng: np.random.Generator, settings: ClipSettings, focus: Track, radius: float) -> Occluder | None:
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
