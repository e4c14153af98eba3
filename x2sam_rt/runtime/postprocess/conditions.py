"""What the columns of the class logits stand for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Conditions:
    """One label per condition, without the background; is_thing says which are countable things. An answer without
    phrases has none."""

    labels: tuple[str, ...]
    is_thing: tuple[bool, ...]

    def __post_init__(self) -> None:
        assert len(self.labels) == len(self.is_thing), "every condition is a thing or stuff"

    def __len__(self) -> int:
        return len(self.labels)
