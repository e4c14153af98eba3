"""What a metric has counted, to be kept and to be added up.

Every metric has `add` for what it measures, `state` for what it has counted so far, as JSON, `merge` for the state of
another of its kind, and `result`. So an evaluation keeps one state per sample: it goes on after a kill, and its memory
does not grow with the masks it has seen.
"""

from __future__ import annotations

from typing import Any, Protocol

State = Any  # JSON; what is in it is the metric's own affair


class Mergeable(Protocol):
    """A metric, as far as what it has counted goes."""

    def state(self) -> State: ...

    def merge(self, state: State) -> None: ...
