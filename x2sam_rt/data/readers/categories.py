"""The categories a data set lists, as X2SAM names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from x2sam_rt.errors import DataError
from x2sam_rt.tasks.published import category_name


@dataclass(frozen=True)
class CategoryList:
    """things, stuff: names, each in the order of their ids. conditions: from ids to the index in things + stuff.
    order: these indices in the order of all ids."""

    things: tuple[str, ...]
    stuff: tuple[str, ...]
    conditions: Mapping[int, int]
    order: tuple[int, ...]

    @classmethod
    def of(cls, entries: Sequence[Mapping[str, Any]], named: Callable[[str], str] = category_name) -> CategoryList:
        """entries: with "id", "name" and, where there is stuff, "isthing" (0 or 1). named: what the instruction calls
        a name. Raises ValueError for two of one id, KeyError and TypeError where something is missing."""
        by_id = sorted(entries, key=lambda entry: int(entry["id"]))
        things = [entry for entry in by_id if entry.get("isthing", 1)]
        stuff = [entry for entry in by_id if not entry.get("isthing", 1)]
        conditions = {int(entry["id"]): index for index, entry in enumerate(things + stuff)}
        if len(conditions) != len(entries):
            raise ValueError("two categories of one id")
        names = [named(str(entry["name"])) for entry in things + stuff]
        order = tuple(conditions[int(entry["id"])] for entry in by_id)
        return cls(tuple(names[: len(things)]), tuple(names[len(things) :]), conditions, order)

    def of_one_kind(self) -> CategoryList:
        """All of them as things, in the order of their ids."""
        names = self.things + self.stuff
        places = {condition: place for place, condition in enumerate(self.order)}
        return CategoryList(
            tuple(names[condition] for condition in self.order),
            (),
            {id: places[condition] for id, condition in self.conditions.items()},
            tuple(range(len(self.order))),
        )

    def __len__(self) -> int:
        return len(self.conditions)

    def condition(self, category_id: int, origin: str) -> int:
        """The index of a category. Raises DataError, naming `origin`, for an id that is not listed."""
        if category_id not in self.conditions:
            raise DataError(
                f"{origin}: category {category_id} is not among the {len(self.conditions)} listed "
                f"({_shortened(sorted(self.conditions))})."
            )
        return self.conditions[category_id]

    def place(self, category_id: int, origin: str) -> int:
        """The place of a category among all ids, sorted. Raises DataError as `condition` does."""
        return self.order.index(self.condition(category_id, origin))


def _shortened(ids: list[int]) -> str:
    return ", ".join(map(str, ids)) if len(ids) <= 12 else f"{ids[0]} … {ids[-1]}"
