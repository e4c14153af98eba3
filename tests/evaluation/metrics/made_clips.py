"""Seeded labels and predictions for the metrics, from NumPy alone, so that other environments can make them too."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BoolMask = npt.NDArray[np.bool_]
Owners = npt.NDArray[np.int32]
Tubes = list[tuple[int, bool]]  # category, crowd

SEEDS = range(6)
IS_THING = (True, True, True, False, False)
SMALL, MEDIUM = 40.0, 90.0  # areas, for objects of these clips
SIZE = (7, 23, 31)  # frames, rows, columns
_THINGS = 5


@dataclass(frozen=True, eq=False)
class PanopticClip:
    """owners: SIZE, the number of the tube that owns a pixel, from 1; 0 is void."""

    truth: Owners
    true_tubes: Tubes
    predicted: Owners
    found_tubes: Tubes


@dataclass(frozen=True, eq=False)
class Track:
    """masks: SIZE bool. score: 0 for true ones."""

    masks: BoolMask
    category: int
    score: float


def panoptic_clip(seed: int, *, plain: bool = False) -> PanopticClip:
    """Two kinds of stuff and five things that move, with void; predicted with shifts, swaps, misses and inventions.

    plain: without crowds, and no pixel predicted void.
    """
    random = np.random.default_rng([1, seed])
    truth, predicted = np.zeros((2, *SIZE), dtype=np.int32)
    horizon = int(random.integers(8, 14))
    truth[:, :horizon], truth[:, horizon:] = 1, 2
    predicted[:, : horizon + 2], predicted[:, horizon + 2 :] = 1, 2
    true_tubes, found_tubes = [(3, False), (4, False)], [(3, False), (4, False)]
    for number in range(_THINGS):
        disc = _moving_disc(random)
        category = int(random.integers(0, 3))
        true_tubes.append((category, number == 3 and not plain))
        truth[disc] = len(true_tubes)
        if number == 4:
            continue  # never found
        shifted = np.roll(disc, random.integers(-1, 2, size=2), axis=(1, 2))
        found_tubes.append((category if number != 2 else (category + 1) % 3, False))
        predicted[shifted] = len(found_tubes)
        if number == 0:  # changes its number on the way
            found_tubes.append((category, False))
            late = shifted.copy()
            late[: int(random.integers(2, 5))] = False
            predicted[late] = len(found_tubes)
    found_tubes.append((int(random.integers(0, 3)), False))  # is not there
    predicted[_moving_disc(random)] = len(found_tubes)
    truth[:, :5, -6:] = 0
    if not plain:
        predicted[:, -3:, :4] = 0
    return PanopticClip(truth, true_tubes, predicted, found_tubes)


def object_clip(seed: int) -> tuple[BoolMask, BoolMask]:
    """(truth, predicted): one object, both gone in one frame, each alone gone in another."""
    random = np.random.default_rng([2, seed])
    truth = _moving_disc(random)
    predicted = np.roll(truth, random.integers(-3, 4, size=2), axis=(1, 2)) | (random.random(SIZE) < 0.01)
    truth[1] = predicted[1] = False
    truth[3], predicted[4] = False, False
    predicted[5] = truth[5]
    return truth, predicted


def tracks(seed: int) -> tuple[list[Track], list[Track]]:
    """(true, found) tracks of two categories; found ones are shifted, doubled, missing and invented."""
    random = np.random.default_rng([3, seed])
    true, found = [], []
    for number in range(4):
        disc = _moving_disc(random)
        disc[: int(random.integers(0, 3))] = False
        true.append(Track(disc, number % 2, 0.0))
        for _ in range(int(random.integers(0, 3))):
            shifted = np.roll(disc, random.integers(-1, 2, size=2), axis=(1, 2))
            found.append(Track(shifted, number % 2, float(random.integers(1, 1000)) / 1000))
    found.append(Track(_moving_disc(random), 1, float(random.integers(1, 1000)) / 1000))
    return true, found


def digest() -> str:
    """Tells whether two environments make the same clips."""
    sha = hashlib.sha256()
    for seed in SEEDS:
        clip, (true, found) = panoptic_clip(seed), tracks(seed)
        arrays = (clip.truth, clip.predicted, *object_clip(seed), *(track.masks for track in true + found))
        for array in arrays:
            sha.update(array.astype(np.uint8).tobytes())
        names = (clip.true_tubes, clip.found_tubes, [(track.category, track.score) for track in true + found])
        sha.update(repr(names).encode())
    return sha.hexdigest()


def _moving_disc(random: np.random.Generator) -> BoolMask:
    frames, height, width = SIZE
    rows, columns = np.ogrid[:height, :width]
    row, column = random.integers(3, height - 3), random.integers(3, width - 3)
    speed = random.integers(-1, 2, size=2)
    radius = int(random.integers(3, 7))
    masks = [
        (rows - row - t * speed[0]) ** 2 + (columns - column - t * speed[1]) ** 2 <= radius * radius
        for t in range(frames)
    ]
    return np.stack(masks)
