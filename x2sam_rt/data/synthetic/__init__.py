"""A made-up world: short videos of moving coloured shapes, each with exact labels for every task."""

from x2sam_rt.data.synthetic.clip import SyntheticClip
from x2sam_rt.data.synthetic.examples import SyntheticExample, clip_seed, corpus, make_example, synthetic_example
from x2sam_rt.data.synthetic.render import make_clip
from x2sam_rt.data.synthetic.settings import (
    COLOURS,
    HELD_OUT,
    SHAPES,
    STUFF,
    TEXTURES,
    ClipSettings,
    evaluation_settings,
)
from x2sam_rt.data.synthetic.streams import make_stream

__all__ = [
    "COLOURS",
    "HELD_OUT",
    "SHAPES",
    "STUFF",
    "TEXTURES",
    "ClipSettings",
    "SyntheticClip",
    "SyntheticExample",
    "clip_seed",
    "corpus",
    "evaluation_settings",
    "make_clip",
    "make_example",
    "make_stream",
    "synthetic_example",
]
