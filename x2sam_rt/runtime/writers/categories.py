"""Numbers for the labels of a stream, whose instruction may change while it runs."""

from __future__ import annotations

from typing import TypedDict

from x2sam_rt.runtime.results import Segment


class Category(TypedDict):
    """A category as COCO's panoptic JSON lists it; isthing is 0 or 1."""

    id: int
    name: str
    supercategory: str
    isthing: int


class Categories:
    """Gives each (label, thing or stuff) one number: its label_id, unless another label has that already.

    A label_id counts within one instruction, so after a new one the same number can mean another label.
    """

    def __init__(self) -> None:
        self._numbers: dict[tuple[str, bool], int] = {}
        self._taken: set[int] = set()

    def number_of(self, segment: Segment) -> int:
        key = (segment.label, bool(segment.is_thing))
        if key not in self._numbers:
            wanted = int(segment.label_id)
            number = wanted if wanted not in self._taken else max(self._taken) + 1
            self._numbers[key] = number
            self._taken.add(number)
        return self._numbers[key]

    def listed(self) -> list[Category]:
        """All categories met, by number."""
        ordered = sorted(self._numbers.items(), key=lambda item: item[1])
        return [
            Category(id=number, name=label, supercategory="", isthing=int(is_thing))
            for (label, is_thing), number in ordered
        ]
