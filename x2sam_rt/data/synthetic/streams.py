"""Long clips in which what a phrase names changes: another object comes to be it, leaves, and comes back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from x2sam_rt.data.synthetic.clip import SyntheticClip
from x2sam_rt.data.synthetic.phrases import Phrase
from x2sam_rt.data.synthetic.render import make_clip
from x2sam_rt.data.synthetic.scene import Scene, Track
from x2sam_rt.data.synthetic.settings import ClipSettings
from x2sam_rt.data.synthetic.shapes import Floats
from x2sam_rt.media.types import BoolMask

STREAM_FRAMES = 64
_SETTINGS = ClipSettings(
    frames=STREAM_FRAMES, min_objects=2, max_objects=3, same_shape=1, same_colour=0, twins=0, desaturated=0, occluder=0
)
_WAY = 6  # frames that an object takes to leave, and to come back


@dataclass(frozen=True, eq=False)
class SyntheticStream:
    """frames: (T, H, W, 3) uint8. phrase: what is asked for. masks: (T, H, W) bool, of what the phrase is true of in
    each frame; empty while it is away. changes, leaves, returns: the frames at which another object comes to be what
    the phrase names, is out of sight, and is whole again."""

    frames: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
    phrase: str
    masks: BoolMask
    changes: int
    leaves: int
    returns: int


def make_stream(seed: tuple[int, ...]) -> SyntheticStream:
    """The stream of that seed. Two objects of one shape exchange their colours, so that memory alone follows the wrong
    one; the one that now is named then leaves the picture for a while."""
    rng = np.random.default_rng((*seed, STREAM_FRAMES))
    changes, leaves = int(rng.integers(12, 20)), int(rng.integers(30, 36))
    returns = leaves + int(rng.integers(12, 18))
    before = make_clip(seed, _SETTINGS, lambda scene: _leave(scene, leaves, returns))
    after = make_clip(seed, _SETTINGS, lambda scene: _exchange(_leave(scene, leaves, returns)))
    named, next_named = before.focus, _alike(before)
    phrase = Phrase(("colour", "shape"), before.objects[named])
    assert after.objects[next_named].pair == before.objects[named].pair
    return SyntheticStream(
        frames=np.concatenate((before.frames[:changes], after.frames[changes:])),
        phrase=phrase.text,
        masks=np.concatenate((before.mask(named)[:changes], after.mask(next_named)[changes:])),
        changes=changes,
        leaves=leaves,
        returns=returns,
    )


def _alike(found: SyntheticClip | Scene) -> int:
    """The other object of the focus object's shape."""
    focus = found.objects[found.focus]
    return next(
        number for number, thing in enumerate(found.objects) if number != found.focus and thing.shape == focus.shape
    )


def _exchange(scene: Scene) -> Scene:
    """The focus object and the one like it, each in the other's colour."""
    objects, one, other = list(scene.objects), scene.focus, _alike(scene)
    objects[one] = replace(scene.objects[one], colour=scene.objects[other].colour)
    objects[other] = replace(scene.objects[other], colour=scene.objects[one].colour)
    return replace(scene, objects=tuple(objects))


def _leave(scene: Scene, leaves: int, returns: int) -> Scene:
    """The object that will be named is away from frame `leaves` until its way back, which ends at `returns`."""
    tracks, number = list(scene.tracks), _alike(scene)
    tracks[number] = _aside(tracks[number], scene.reach(number), leaves, returns)
    return replace(scene, tracks=tuple(tracks))


def _aside(track: Track, reach: int, leaves: int, returns: int) -> Track:
    """Out over the left edge and back the same way. reach: pixels between its centre and its own edge, at most."""
    time = np.arange(len(track.centres))
    share = np.interp(time, [leaves - _WAY, leaves, returns - _WAY, returns], [0, 1, 1, 0])
    centres: Floats = track.centres.copy()
    centres[:, 0] -= (share * (centres[:, 0] + reach)).astype(np.float32)
    return replace(track, centres=centres)
