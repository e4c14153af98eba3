"""What every pixel of a clip is, for losses that teach features directly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from x2sam_rt.data.world.clip import WorldClip
from x2sam_rt.data.world.vocabulary import COLOURS, SHAPES, STUFF, TEXTURES
from x2sam_rt.media.types import BoolMask

# Kinds of attributes, in order: category, colour, texture; stuff has category only, so the others begin with "none".
ATTRIBUTE_CLASSES = (len(STUFF) + len(SHAPES), 1 + len(COLOURS), 1 + len(TEXTURES))
_COLOUR = 1


def attributes(clip: WorldClip) -> npt.NDArray[np.int8]:
    """(T, 3, H, W): category, colour and texture of what is seen; −1 under an occluder."""
    rows = [(STUFF.index(name), 0, 0) for name in clip.stuff]
    rows += [
        (len(STUFF) + SHAPES.index(thing.shape), 1 + COLOURS.index(thing.colour), 1 + TEXTURES.index(thing.texture))
        for thing in clip.objects
    ]
    # The occluder's id, −1, finds the last row.
    table = np.array([*rows, (-1, -1, -1)], dtype=np.int8)
    return np.ascontiguousarray(table[clip.ids].transpose(0, 3, 1, 2))


def shown(clip: WorldClip) -> BoolMask:
    """(T, 3) bool: which of the attributes each frame shows by itself."""
    flags = np.ones((len(clip.frames), len(ATTRIBUTE_CLASSES)), dtype=np.bool_)
    flags[:, _COLOUR] = ~clip.drained
    return flags
