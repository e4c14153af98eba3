"""Looks through a data set's folder before anything runs on it: what is there, what is missing, how many samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from x2sam_rt.data.readers import READERS, FileSample, read_folder
from x2sam_rt.data.readers.folders import open_folder
from x2sam_rt.documents import there_is_no
from x2sam_rt.errors import DataError


@dataclass(frozen=True)
class SplitCheck:
    """One split. root: the folder it was looked for in. pieces: files and folders that were found. samples: how many
    there are. files: how many images and masks they need; missing: those that are not there. problem: why it cannot
    be read, or what is wrong with its first sample whose files are there; None if nothing was found wrong."""

    split: str
    root: Path
    pieces: tuple[Path, ...] = ()
    samples: int = 0
    files: int = 0
    missing: tuple[Path, ...] = ()
    problem: str | None = None

    @property
    def readable(self) -> bool:
        return self.samples > 0

    @property
    def usable(self) -> bool:
        return self.readable and not self.missing and self.problem is None


def check_dataset(name: str, root: str | Path, splits: Sequence[str] = ()) -> tuple[SplitCheck, ...]:
    """Reads the lists of a data set and looks for every file they name; of the masks, one sample's are read.

    splits: None given: all that the set is known to have. Raises DataError for an unknown name and a missing folder.
    """
    if name not in READERS:
        raise DataError(there_is_no("reader for", name, READERS))
    return tuple(_check_split(name, Path(root), split) for split in splits or READERS[name].splits)


def _check_split(name: str, root: Path, split: str) -> SplitCheck:
    row = READERS[name]
    folder = open_folder(name, root, row.home, split, row.parts)
    try:
        samples = read_folder(folder).samples
    except DataError as error:
        return SplitCheck(split, folder.root, tuple(folder.found), problem=str(error))
    files = {path for sample in samples for path in (*sample.images, *sample.labels())}
    missing = tuple(sorted(path for path in files if not path.is_file()))
    return SplitCheck(
        split,
        folder.root,
        tuple(dict.fromkeys(folder.found)),
        len(samples),
        len(files),
        missing,
        _first_problem(samples, frozenset(missing)),
    )


def _first_problem(samples: Iterable[FileSample], missing: frozenset[Path]) -> str | None:
    whole = (sample for sample in samples if missing.isdisjoint((*sample.images, *sample.labels())))
    if (first := next(whole, None)) is None:
        return None
    try:
        first.load()
    except DataError as error:
        return str(error)
    return None
