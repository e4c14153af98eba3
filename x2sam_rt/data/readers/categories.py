"""The categories a data set's JSON lists, as an instruction names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from x2sam_rt.errors import DataError


@dataclass(frozen=True)
class CategoryList:
    """things, stuff: names in the file's order. conditions: from the file's ids to the index in things + stuff."""

    things: tuple[str, ...]
    stuff: tuple[str, ...]
    conditions: Mapping[int, int]

    @classmethod
    def of(cls, entries: Sequence[Mapping[str, Any]]) -> CategoryList:
        """entries: with "id", "name" and, where there is stuff, "isthing" (0 or 1). Raises ValueError for two of one
        id, KeyError and TypeError where something is missing."""
        things = [entry for entry in entries if entry.get("isthing", 1)]
        stuff = [entry for entry in entries if not entry.get("isthing", 1)]
        conditions = {int(entry["id"]): index for index, entry in enumerate(things + stuff)}
        if len(conditions) != len(entries):
            raise ValueError("two categories of one id")
        names = [str(entry["name"]) for entry in things + stuff]
        return cls(tuple(names[: len(things)]), tuple(names[len(things) :]), conditions)

    def condition(self, category_id: int, origin: str) -> int:
        """The index of a category. Raises DataError, naming `origin`, for an id that is not listed."""
        if category_id not in self.conditions:
            raise DataError(
                f"{origin}: category {category_id} is not among the {len(self.conditions)} listed "
                f"({_shortened(sorted(self.conditions))})."
            )
        return self.conditions[category_id]


def _shortened(ids: list[int]) -> str:
    return ", ".join(map(str, ids)) if len(ids) <= 12 else f"{ids[0]} … {ids[-1]}"
