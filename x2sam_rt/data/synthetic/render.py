"""Draws clips. Labels come from the same distances as the pictures, so they are exact."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.synthetic.clip import FIRST_OBJECT, OCCLUDER, SyntheticClip
from x2sam_rt.data.synthetic.scene import Occluder, Scene, Track, draw_scene
from x2sam_rt.data.synthetic.settings import LOWER_STUFF, RGB, STUFF_RGB, UPPER_STUFF, ClipSettings, Stuff, pick
from x2sam_rt.data.synthetic.shapes import Floats, darkness, distance
from x2sam_rt.media.types import BoolMask

DESATURATED_OBJECT = 84.0  # the grey every object's colour turns into: darker than all backgrounds
_OCCLUDER_GREY = 32.0
_ATTEMPTS = 100
_FIRST_VISIBLE = 0.5  # of every object, in the first frame
_PATTERN_DEPTH = 0.62  # how much darker the pattern of a texture is
_JITTER = 12  # of a colour, grey levels
_DRIFT = 8  # pixels of a 128-pixel frame that a background moves by in a clip, at most


def make_clip(
    seed: Sequence[int] | int, settings: ClipSettings, edit: Callable[[Scene], Scene] = lambda scene: scene
) -> SyntheticClip:
    """The clip of that seed (numbers of 0 or more); the same seed and settings give the same clip. edit: what is to
    be different in its scene, all else being the same.

    At least half of every object is visible in the first frame.
    """
    numbers = (seed,) if isinstance(seed, int) else tuple(seed)
    for attempt in range(_ATTEMPTS):
        clip = _attempt(np.random.default_rng((*numbers, attempt)), settings, edit)
        if clip is not None:
            return clip
    raise AssertionError(f"no clip of seed {numbers} shows its objects in the first frame: {settings}")


def _attempt(rng: np.random.Generator, settings: ClipSettings, edit: Callable[[Scene], Scene]) -> SyntheticClip | None:
    """None where an object starts more than half hidden."""
    scene = draw_scene(rng, settings)
    background = _draw_background(rng, settings)
    scene = edit(scene).shuffled(rng)
    count = len(scene.objects)
    canvas = _Canvas.over(background, scene.desaturated, count, _border(scene, settings.side))
    whole = np.zeros((settings.frames, count), dtype=np.int64)
    for number in rng.permutation(count):
        whole[:, number] = _paint_object(rng, canvas, scene, int(number))
    if scene.occluder is not None:
        canvas.paint_occluder(scene.occluder)
    visible = np.stack([(canvas.ids == FIRST_OBJECT + n).sum(axis=(1, 2)) for n in range(count)], axis=1)
    if (visible[0] < _FIRST_VISIBLE * whole[0]).any():
        return None
    occluded = 1 - visible / np.maximum(canvas.inside, 1)
    return SyntheticClip(
        frames=canvas.pictures(),
        ids=np.ascontiguousarray(canvas.ids),
        objects=scene.objects,
        stuff=background.names,
        focus=scene.focus,
        desaturated=scene.desaturated,
        visible=visible,
        occluded=occluded.astype(np.float32),
        overlap=canvas.overlap,
        centres=np.stack([track.centres for track in scene.tracks], axis=1),
    )


def _border(scene: Scene, side: int) -> int:
    """Pixels around the picture that hold what its objects reach beyond it."""
    reach = max(scene.reach(number) for number in range(len(scene.objects)))
    beyond = max(float(np.maximum(-track.centres, track.centres - side).max()) for track in scene.tracks)
    return reach + max(0, int(np.ceil(beyond)))


def _paint_object(rng: np.random.Generator, canvas: _Canvas, scene: Scene, number: int) -> npt.NDArray[np.int64]:
    """Paints it on all frames. Returns (T,): its pixels, wherever they lie."""
    thing, track, half = scene.objects[number], scene.tracks[number], scene.reach(number)
    corners = np.rint(track.centres).astype(int) - half
    x, y = _own_axes(track, half)
    signed = distance(thing.shape, x, y, thing.radius)
    alpha = np.clip(0.5 - signed, 0, 1)
    strength = alpha * (1 - np.float32(_PATTERN_DEPTH) * darkness(thing.texture, x, y, thing.radius))
    colour = np.array(RGB[thing.colour], np.float32) + rng.uniform(-_JITTER, _JITTER, 3).astype(np.float32)
    shades = np.where(scene.desaturated[:, None], np.float32(DESATURATED_OBJECT), np.clip(colour, 0, 254))
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


@dataclass(frozen=True, eq=False)
class _Canvas:
    """Colour planes and labels with a border as wide as the largest object reaches, so that nothing needs clipping.

    Planes, because numpy is slow where the innermost axis is three channels.
    inside: (T, objects) pixels an object has within the frame. overlap: as in the clip.
    """

    bordered_planes: npt.NDArray[np.uint8]
    bordered_ids: npt.NDArray[np.int16]
    border: int
    inside: npt.NDArray[np.int64]
    overlap: npt.NDArray[np.int64]

    @classmethod
    def over(cls, background: _Background, desaturated: BoolMask, objects: int, border: int) -> _Canvas:
        frames, side = background.ids.shape[:2]
        bordered = side + 2 * border
        canvas = cls(
            np.zeros((frames, 3, bordered, bordered), np.uint8),
            np.zeros((frames, bordered, bordered), np.int16),
            border,
            np.zeros((frames, objects), np.int64),
            np.zeros((frames, objects, objects), np.int64),
        )
        canvas.planes[:] = background.planes
        canvas.ids[:] = background.ids
        if desaturated.any():
            canvas.planes[desaturated] = _desaturate(background.planes[desaturated])
        return canvas

    @property
    def planes(self) -> npt.NDArray[np.uint8]:
        """(T, 3, H, W), a view."""
        return self.bordered_planes[:, :, self.border : -self.border, self.border : -self.border]

    def pictures(self) -> npt.NDArray[np.uint8]:
        """(T, H, W, 3), a copy."""
        pictures = np.empty((*self.ids.shape, 3), np.uint8)
        for channel in range(3):
            pictures[..., channel] = self.planes[:, channel]
        return pictures

    @property
    def ids(self) -> npt.NDArray[np.int16]:
        """(T, H, W), a view."""
        return self.bordered_ids[:, self.border : -self.border, self.border : -self.border]

    def paint(self, frame: int, left: int, top: int, alpha: Floats, colours: Floats, number: int) -> None:
        """Object `number` on one frame. left, top: of its box, in the frame. alpha: (B, B). colours: (3, B, B),
        already multiplied by alpha.
        """
        rows = slice(top + self.border, top + self.border + alpha.shape[0])
        columns = slice(left + self.border, left + self.border + alpha.shape[1])
        box = self.bordered_planes[frame, :, rows, columns]
        blended = box * (1 - alpha)
        blended += colours
        box[:] = blended
        ids, mask = self.bordered_ids[frame, rows, columns], alpha > 0.5
        below = np.bincount(ids[mask], minlength=FIRST_OBJECT + self.inside.shape[1])
        self.overlap[frame, number] += below[FIRST_OBJECT:]
        ids[mask] = FIRST_OBJECT + number
        side = self.ids.shape[1]
        inner = mask[max(0, -top) : max(0, side - top), max(0, -left) : max(0, side - left)]
        self.inside[frame, number] = np.count_nonzero(inner)

    def paint_occluder(self, occluder: Occluder) -> None:
        alpha = np.clip(0.5 - occluder.distance(self.ids.shape[1]), 0, 1)
        self.ids[alpha > 0.5] = OCCLUDER
        self.planes[:] = self.planes * (1 - alpha)[:, None] + (alpha * np.float32(_OCCLUDER_GREY))[:, None]


def _desaturate(planes: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(T, 3, H, W) with every pixel's mean in all channels."""
    grey = planes.mean(axis=1, keepdims=True, dtype=np.float32).astype(np.uint8)
    return np.broadcast_to(grey, planes.shape)


@dataclass(frozen=True, eq=False)
class _Background:
    """names: upper, lower. planes: (T, 3, H, W) uint8. ids: (T, H, W) int16, 0 above the horizon and 1 below."""

    names: tuple[Stuff, Stuff]
    planes: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.int16]


def _draw_background(rng: np.random.Generator, settings: ClipSettings) -> _Background:
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
    return _Background(names, planes, ids)


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
