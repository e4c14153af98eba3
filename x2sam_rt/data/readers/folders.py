"""A data set's folder: where its pieces may lie, in its authors' layout or X2SAM's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from x2sam_rt.errors import DataError


@dataclass(frozen=True)
class DataFolder:
    """What is to be read. name: of the data set. root: its own folder. split, part: "test/short" is the part "short"
    of the split "test"; part "" is all of it. found: what `look` and `find` came upon."""

    name: str
    root: Path
    split: str
    part: str = ""
    found: list[Path] = field(default_factory=list, compare=False)

    @property
    def full_split(self) -> str:
        return f"{self.split}/{self.part}" if self.part else self.split

    def example(self, *parts: object) -> str:
        """The name of an example, the same whether all of the split is read or a part."""
        return "/".join(map(str, (self.name, self.split, *parts)))

    def places(self, patterns: Sequence[str]) -> list[Path]:
        """Paths below the root; "{split}" stands for the split."""
        return [self.root / pattern.format(split=self.split) for pattern in patterns]

    def find(self, what: str, *patterns: str) -> Path:
        """The first of several places that is there. Raises DataError, naming what was looked for and where."""
        if (found := self.look(*patterns)) is not None:
            return found
        wanted = " or ".join(str(place.relative_to(self.root)) for place in self.places(patterns))
        raise DataError(
            f"{self.root}: has no {what} of {self.name}, split {self.split!r}; looked for {wanted}. "
            f"It holds {_listing(self.root)}. Check the folder and the name of the split (docs/evaluation.md)."
        )

    def look(self, *patterns: str) -> Path | None:
        place = next((place for place in self.places(patterns) if place.exists()), None)
        if place is not None:
            self.found.append(place)
        return place


def open_folder(name: str, root: Path, home: str, split: str, parts: Sequence[str]) -> DataFolder:
    """home: where X2SAM's `datas` has the set: root may be that folder of all sets, or the set's own.

    Raises DataError for a folder that is not there and a part the set does not have.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Name the folder that {name} was unpacked into.")
    split, _, part = split.partition("/")
    if part and part not in parts:
        known = f"the parts are {', '.join(parts)}" if parts else "its splits have no parts"
        raise DataError(f"{name} has no split {split + '/' + part!r}: {known}.")
    return DataFolder(name, root / home if (root / home).is_dir() else root, split, part)


def _listing(root: Path) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in root.iterdir())
    if not names:
        return "nothing"
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
