"""Captions whose phrases have masks."""

from __future__ import annotations

from collections.abc import Sequence

from x2sam_rt.data.world.objects import WorldObject
from x2sam_rt.data.world.phrases import does
from x2sam_rt.tasks.marks import Mark, phrase, spell


def caption(objects: Sequence[WorldObject], *, moving: bool) -> str:
    """ "<p>a red circle</p> moves left and <p>a blue star</p> stays still. <SEG>.", the objects in the given order.

    moving: say how they move.
    """
    parts = [_part(thing, moving) for thing in objects]
    listed = f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]
    return f"{listed}. {Mark.SEG.value}."


def _part(thing: WorldObject, moving: bool) -> str:
    named = spell(phrase((f"a {thing.colour} {thing.shape}",)))
    return f"{named} {does(thing)}" if moving else named
