"""What can be evaluated on, by name."""

from __future__ import annotations

from pathlib import Path

from x2sam_rt.data.readers import READERS, read_dataset
from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.part import Part
from x2sam_rt.evaluation.synthetic import synthetic_parts

SYNTHETIC = "synthetic"
DATASETS = (SYNTHETIC, *READERS)


def open_parts(name: str, root: Path | None, split: str | None) -> tuple[Part, ...]:
    """The parts of a data set. root: the folder of a public one. split: of a public one; of the synthetic set "seen"
    or "unseen", None = both.

    Raises DataError for unknown names, and for a root or split that is missing or not wanted.
    """
    if name == SYNTHETIC:
        if root is not None:
            raise DataError(f"The synthetic set is made up as it runs and has no folder; leave out {root}.")
        return synthetic_parts(split)
    if name not in READERS:
        raise DataError(f"There is no data set {name!r}; there are {', '.join(DATASETS)}.")
    if root is None or split is None:
        raise DataError(f"{name} needs its folder and a split of it: --root DIR --split NAME.")
    return (Part.of(read_dataset(name, root, split)),)
