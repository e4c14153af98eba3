"""Draws clips. Labels come from the same distances as the pictures, so they are exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.world.backgrounds import draw_background
from x2sam_rt.data.world.canvas import Canvas
from x2sam_rt.data.world.clip import FIRST_OBJECT, WorldClip
from x2sam_rt.data.world.hiding import DRAINED_OBJECT, draw_drained, draw_occluder
from x2sam_rt.data.world.objects import WorldObject, draw_objects
from x2sam_rt.data.world.settings import WorldSettings
from x2sam_rt.data.world.shapes import Floats, distance
from x2sam_rt.data.world.tracks import Track, draw_tracks
from x2sam_rt.data.world.vocabulary import RGB, Texture
from x2sam_rt.media.types import BoolMask

_ATTEMPTS = 100
_FIRST_VISIBLE = 0.5  # of every object, in the first frame
_PATTERN_DEPTH = 0.62  # how much darker the pattern of a texture is
_JITTER = 12  # of a colour, grey levels


def make_clip(seed: Sequence[int] | int, settings: WorldSettings) -> WorldClip:
    """The clip of that seed (numbers of 0 or more); the same seed and settings give the same clip.

    At least half of every object is visible in the first frame.
    """
    numbers = (seed,) if isinstance(seed, int) else tuple(seed)
    for attempt in range(_ATTEMPTS):
        clip = _attempt(np.random.default_rng((*numbers, attempt)), settings)
        if clip is not None:
            return clip
    raise AssertionError(f"no clip of seed {numbers} shows its objects in the first frame: {settings}")


def _attempt(rng: np.random.Generator, settings: WorldSettings) -> WorldClip | None:
    """None where an object starts more than half hidden."""
    drained = draw_drained(rng, settings)
    objects = draw_objects(rng, settings, bool(drained.any()))
    tracks = draw_tracks(rng, settings, objects)
    occluder = draw_occluder(rng, settings, tracks[0], objects[0].radius)
    background = draw_background(rng, settings)
    # The focus object was drawn first; in the clip it may be any.
    order = [int(number) for number in rng.permutation(len(objects))]
    objects, tracks = [objects[number] for number in order], [tracks[number] for number in order]
    canvas = Canvas.over(background, drained, len(objects), max(map(_reach, objects, tracks)))
    whole = np.zeros((settings.frames, len(objects)), dtype=np.int64)
    for number in rng.permutation(len(objects)):
        whole[:, number] = _paint_object(rng, canvas, int(number), objects[number], tracks[number], drained)
    if occluder is not None:
        canvas.paint_occluder(occluder)
    visible = np.stack([(canvas.ids == FIRST_OBJECT + n).sum(axis=(1, 2)) for n in range(len(objects))], axis=1)
    if (visible[0] < _FIRST_VISIBLE * whole[0]).any():
        return None
    covered = 1 - visible / np.maximum(canvas.inside, 1)
    return WorldClip(
        frames=canvas.pictures(),
        ids=np.ascontiguousarray(canvas.ids),
        objects=tuple(objects),
        stuff=background.names,
        focus=order.index(0),
        drained=drained,
        visible=visible,
        covered=covered.astype(np.float32),
        over=canvas.over_pixels,
        centres=np.stack([track.centres for track in tracks], axis=1),
    )


def _reach(thing: WorldObject, track: Track) -> int:
    return track.reach(thing.radius)


def _paint_object(
    rng: np.random.Generator, canvas: Canvas, number: int, thing: WorldObject, track: Track, drained: BoolMask
) -> npt.NDArray[np.int64]:
    """Paints it on all frames. Returns (T,): its pixels, wherever they lie."""
    half = _reach(thing, track)
    corners = np.rint(track.centres).astype(int) - half
    x, y = _own_axes(track, half)
    signed = distance(thing.shape, x, y, thing.radius)
    alpha = np.clip(0.5 - signed, 0, 1)
    strength = alpha * (1 - np.float32(_PATTERN_DEPTH) * _pattern(thing.texture, x, y, thing.radius))
    colour = np.array(RGB[thing.colour], np.float32) + rng.uniform(-_JITTER, _JITTER, 3).astype(np.float32)
    shades = np.where(drained[:, None], np.float32(DRAINED_OBJECT), np.clip(colour, 0, 254))
    for frame, (left, top) in enumerate(corners.tolist()):
        canvas.paint(frame, left, top, alpha[frame], strength[frame] * shades[frame][:, None, None], number)
    counts: npt.NDArray[np.int64] = np.count_nonzero(alpha > 0.5, axis=(1, 2))
    return counts


def _own_axes(track: Track, half: int) -> tuple[Floats, Floats]:
    """x and y of a box's pixels, (T, B, B) each, from the object's centre along its own turned, stretched axes."""
    reach = np.arange(-half, half + 1, dtype=np.float32)
    beside = track.centres - np.rint(track.centres)
    dx = reach[None, None, :] - beside[:, 0, None, None]
    dy = reach[None, :, None] - beside[:, 1, None, None]
    cos, sin = np.cos(track.angles)[:, None, None], np.sin(track.angles)[:, None, None]
    across, down = track.scales[:, 0, None, None], track.scales[:, 1, None, None]
    return dx * (cos / across) + dy * (sin / across), dy * (cos / down) - dx * (sin / down)


def _pattern(texture: Texture, x: Floats, y: Floats, radius: float) -> Floats | np.float32:
    """(T, B, B) from 0 to 1: where the texture is dark."""
    if texture == "plain":
        return np.float32(0)
    if texture == "striped":
        return _soft(np.sin(x * np.float32(2 * np.pi / (0.3 * radius + 3.2))) * 2.5 + 0.4)
    rate = np.float32(np.pi / (0.22 * radius + 2.6))
    return _soft((np.cos(x * rate) * np.cos(y * rate) - 0.42) * 4)


def _soft(values: Floats) -> Floats:
    return np.clip(values, np.float32(0), np.float32(1))
