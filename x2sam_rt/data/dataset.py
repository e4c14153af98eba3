"""A data set: labelled examples that are loaded one at a time, and what their results are measured by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from x2sam_rt.data.example import Example
from x2sam_rt.errors import DataError

Metric = Literal[
    "j_and_f",
    "giou",
    "semantic",
    "semantic_video",
    "panoptic_image",
    "panoptic_video",
    "ap_image",
    "ap_video",
    "vgd",
    "vgd_image",
    "vgd_video",
    "gcg_image",
    "gcg_video",
]


class Sample(Protocol):
    """Where one example comes from, without its pixels."""

    @property
    def name(self) -> str:
        """The example's name, unique in its data set."""

    def load(self) -> Example:
        """Reads the example. Raises DataError, naming it and the file, for whatever cannot be used."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples by number. metric: the family of figures they are measured by. things, stuff: the category names that
    an instruction lists, in that order, where there are categories; targets then belong to an index of things + stuff.
    order: these indices in the order the data set itself has them; () = as they are.

    Raises DataError without samples, and for two of one name.
    """

    name: str
    metric: Metric
    samples: tuple[Sample, ...]
    things: tuple[str, ...] = ()
    stuff: tuple[str, ...] = ()
    order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.samples:
            raise DataError(f"Data set {self.name}: it holds no examples. Check its folder and the name of the split.")
        names = [sample.name for sample in self.samples]
        if len(set(names)) != len(names):
            doubled = next(name for name in names if names.count(name) > 1)
            raise DataError(f"Data set {self.name}: two examples are called {doubled}.")

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Example:
        """Loads an example. Raises IndexError past the end, DataError for what cannot be used."""
        return self.samples[index].load()

    def __iter__(self) -> Iterator[Example]:
        """The examples in order, each loaded when it is reached."""
        return (sample.load() for sample in self.samples)
