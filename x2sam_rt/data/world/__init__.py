"""A made-up world: short videos of moving coloured shapes, each with exact labels for every task."""

from x2sam_rt.data.world.attributes import ATTRIBUTE_CLASSES
from x2sam_rt.data.world.clip import WorldClip
from x2sam_rt.data.world.examples import example
from x2sam_rt.data.world.objects import WorldObject
from x2sam_rt.data.world.render import make_clip
from x2sam_rt.data.world.scene import still
from x2sam_rt.data.world.settings import WorldSettings, evaluation_settings
from x2sam_rt.data.world.splits import clip_seed, corpus, world_example
from x2sam_rt.data.world.vocabulary import COLOURS, HELD_OUT, SHAPES, STUFF, TEXTURES

__all__ = [
    "ATTRIBUTE_CLASSES",
    "COLOURS",
    "HELD_OUT",
    "SHAPES",
    "STUFF",
    "TEXTURES",
    "WorldClip",
    "WorldObject",
    "WorldSettings",
    "clip_seed",
    "corpus",
    "evaluation_settings",
    "example",
    "make_clip",
    "still",
    "world_example",
]
