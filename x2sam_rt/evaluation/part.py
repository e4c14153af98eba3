"""A part of what is evaluated: examples that are measured by one family of figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from x2sam_rt.data.dataset import Dataset, Sample
from x2sam_rt.evaluation.families import family_of
from x2sam_rt.evaluation.figures import Family


@dataclass(frozen=True, eq=False)
class Part:
    """family: makes a fresh one. forget: every frame is segmented as the first of its stream, whatever the knobs say:
    a control, which does not count for the speed."""

    name: str
    samples: Sequence[Sample]
    family: Callable[[], Family]
    forget: bool = False

    @classmethod
    def of(cls, dataset: Dataset) -> Part:
        """A whole data set, by its own metric."""
        return cls(dataset.name, dataset.samples, lambda: family_of(dataset))
