"""Captions whose phrases have masks."""

from __future__ import annotations

from collections.abc import Sequence

from x2sam_rt.data.world.objects import WorldObject
from x2sam_rt.data.world.phrases import does
from x2sam_rt.model.tokenizer import PHRASE_END, PHRASE_START, SEG


def caption(objects: Sequence[WorldObject], *, moving: bool) -> str:
    """ "<p>a red circle</p> moves left and <p>a blue star</p> stays still. <SEG>.", the objects in the given order.

    moving: say how they move.
    """
    parts = [_part(thing, moving) for thing in objects]
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"{listed}. {SEG}."


def _part(thing: WorldObject, moving: bool) -> str:
    phrase = f"{PHRASE_START}a {thing.colour} {thing.shape}{PHRASE_END}"
    return f"{phrase} {does(thing)}" if moving else phrase
