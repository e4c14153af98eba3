"""Where an example of a data set's files comes from: what the readers have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from x2sam_rt.data.example import Example
from x2sam_rt.data.readers.categories import CategoryList
from x2sam_rt.data.readers.files import Frames, read_frames
from x2sam_rt.errors import DataError, PromptError


@dataclass(frozen=True, eq=False)
class FileSample(ABC):
    """name: of the example, unique in its data set. images: the files of its frames, in order."""

    name: str
    images: tuple[Path, ...]

    def load(self) -> Example:
        """Reads the example. Raises DataError, naming it and the file, for whatever cannot be used."""
        frames = read_frames(self.name, self.images)
        try:
            return self.example(frames)
        except PromptError as error:
            raise DataError(f"Example {self.name}: cannot be asked for: {error}") from error

    @abstractmethod
    def example(self, frames: Frames) -> Example:
        """The example, whose frames are read."""

    def labels(self) -> tuple[Path, ...]:
        """The files of its masks, where they are files of their own."""
        return ()


@dataclass(frozen=True, eq=False)
class Contents:
    """What a reader found. categories: where an instruction lists some."""

    samples: tuple[FileSample, ...]
    categories: CategoryList | None = None
