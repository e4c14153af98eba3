"""What is evaluated: parts of examples that are measured by one evaluator, and the data sets they come from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from x2sam_rt.data.dataset import Dataset, Sample
from x2sam_rt.data.readers import READERS, read_dataset
from x2sam_rt.documents import there_is_no
from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.evaluators import Evaluator, evaluator_of

MakeEvaluator = Callable[[bool], Evaluator]


@dataclass(frozen=True, eq=False)
class Part:
    """dataset, split: whose protocol it has. order: in which the data set lists its categories. evaluator: made for
    published figures (True) or by the field's own rules. forget: every frame is segmented as the first of its stream,
    whatever the knobs say: a control, which does not count for the speed."""

    name: str
    samples: Sequence[Sample]
    evaluator: MakeEvaluator
    dataset: str = ""
    split: str | None = None
    order: tuple[int, ...] = ()
    forget: bool = False

    @classmethod
    def of(cls, dataset: Dataset, split: str | None = None, *, bert: Path | None = None) -> Part:
        """A whole data set, by its own metric."""

        def make(published: bool) -> Evaluator:
            return evaluator_of(dataset, published=published, bert=bert)

        return cls(dataset.name, dataset.samples, make, dataset.name, split, dataset.order)


def open_parts(name: str, root: Path | None, split: str | None, *, bert: Path | None = None) -> tuple[Part, ...]:
    """The parts of a data set. root: the folder of a public one. split: of a public one; of the synthetic sets "seen"
    or "unseen", None = both. bert: see `CaptionEvaluator`.

    Raises DataError for unknown names, and for a root or split that is missing or not wanted.
    """
    from x2sam_rt.evaluation.synthetic import SYNTHETIC, synthetic_parts  # it is made of parts

    if name in SYNTHETIC:
        if root is not None:
            raise DataError(f"The set {name} is made up as it runs and has no folder; leave out {root}.")
        return synthetic_parts(split, rows=SYNTHETIC[name])
    if name not in READERS:
        raise DataError(there_is_no("data set", name, (*SYNTHETIC, *READERS)))
    if root is None or split is None:
        raise DataError(f"{name} needs its folder and a split of it: --root DIR --split NAME.")
    return (Part.of(read_dataset(name, root, split), split, bert=bert),)
