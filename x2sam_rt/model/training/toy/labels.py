"""What every pixel of a made-up clip is, for losses that teach features directly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from x2sam_rt.data.example import Example
from x2sam_rt.data.synthetic import COLOURS, SHAPES, STUFF, TEXTURES, SyntheticClip, SyntheticExample
from x2sam_rt.media.types import BoolMask

# Kinds of attributes, in order: category, colour, texture; stuff has category only, so the others begin with "none".
CLASSES = (len(STUFF) + len(SHAPES), 1 + len(COLOURS), 1 + len(TEXTURES))
COLOUR = 1


@dataclass(frozen=True, eq=False)
class DenseLabels:
    """Of a batch of B examples of T frames each. attributes: (B·T, 3, S, S) int64, −1 where unknown. visible: (B·T, 3)
    bool, those of the attributes that a frame shows by itself.
    """

    attributes: Tensor
    visible: Tensor

    @property
    def objects(self) -> Tensor:
        """(B·T, 1, S, S) float: 1 where an object is."""
        return (self.attributes[:, COLOUR, None] > 0).float()


def dense_labels(examples: Sequence[Example], frames: Tensor) -> DenseLabels:
    """Labels of a batch's examples. frames: (B, T, 3, S, S), as the model sees them.

    Raises DataError, naming the example, for one that is no made-up clip, or whose frames were of another size.
    """
    clips = [_clip(example, (int(frames.shape[-2]), int(frames.shape[-1]))) for example in examples]
    attributes = torch.cat([torch.from_numpy(pixel_attributes(clip)) for clip in clips]).long()
    visible = torch.cat([torch.from_numpy(visible_attributes(clip)) for clip in clips])
    return DenseLabels(attributes.to(frames.device), visible.to(frames.device))


def _clip(example: Example, size: tuple[int, int]) -> SyntheticClip:
    if not isinstance(example, SyntheticExample):
        raise example.bad(
            f"it is no SyntheticExample but {type(example).__name__}, so it lacks the labels the recipe's auxiliary "
            "losses learn from; leave them out, or learn from the made-up world"
        )
    if example.clip.ids.shape[1:] != size:
        raise example.bad(
            f"its labels are of {example.clip.ids.shape[1:]} pixels; the losses that take them want {size}"
        )
    return example.clip


def pixel_attributes(clip: SyntheticClip) -> npt.NDArray[np.int8]:
    """(T, 3, H, W): category, colour and texture of what is seen; −1 under an occluder."""
    rows = [(STUFF.index(name), 0, 0) for name in clip.stuff]
    rows += [
        (len(STUFF) + SHAPES.index(thing.shape), 1 + COLOURS.index(thing.colour), 1 + TEXTURES.index(thing.texture))
        for thing in clip.objects
    ]
    # The occluder's id, −1, finds the last row.
    table = np.array([*rows, (-1, -1, -1)], dtype=np.int8)
    return np.ascontiguousarray(table[clip.ids].transpose(0, 3, 1, 2))


def visible_attributes(clip: SyntheticClip) -> BoolMask:
    """(T, 3) bool: which of the attributes each frame shows by itself."""
    flags = np.ones((len(clip.frames), len(CLASSES)), dtype=np.bool_)
    flags[:, COLOUR] = ~clip.desaturated
    return flags
