"""Runs what is to be evaluated, sample by sample."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from x2sam_rt.data.dataset import Sample
from x2sam_rt.errors import DataError
from x2sam_rt.evaluation.backends import load_choice
from x2sam_rt.evaluation.evaluators import CaptionEvaluator, Evaluator, Piece
from x2sam_rt.evaluation.parts import Part
from x2sam_rt.evaluation.protocol import Presentation, Protocol
from x2sam_rt.evaluation.results import (
    Evaluation,
    PartResult,
    SpeedMeter,
    VariantResult,
    this_machine,
    versions,
)
from x2sam_rt.evaluation.sample_log import SampleLog, SampleRecord
from x2sam_rt.evaluation.segmenter import Segmenter, predicted
from x2sam_rt.evaluation.variants import Knobs, Variant

OnSample = Callable[[str, str], None]


@dataclass(frozen=True)
class Job:
    """What is run. dataset, split: for the record. folder: where samples are kept as they are measured, to go on from
    after a kill; None keeps them in memory. device: as for `Runtime.load`."""

    dataset: str
    split: str | None
    parts: tuple[Part, ...]
    protocol: Protocol
    folder: Path | None = None
    device: str | None = None

    def samples(self, part: Part) -> Sequence[Sample]:
        return part.samples if self.protocol.limit is None else part.samples[: self.protocol.limit]

    def work(self, variants: Sequence[Variant]) -> int:
        """How many times `on_sample` will be told something."""
        return sum(len(self.samples(part)) for variant in variants for part in parts_for(variant.knobs, self.parts))


def run_variants(job: Job, variants: Sequence[Variant], on_sample: OnSample = lambda variant, part: None) -> Evaluation:
    """Every variant on every part, one after another, one bundle loaded at a time. on_sample: told the labels of
    variant and part after each sample.

    Raises DataError naming the example, EngineError naming it too where an engine gave no numbers, BundleError, and
    ConfigError for a folder with another run's samples.
    """
    several = len({variant.folder for variant in variants}) > 1
    results = [_run_variant(job, variant, variant.label(with_folder=several), on_sample) for variant in variants]
    return Evaluation(
        job.dataset,
        job.split,
        job.protocol.name,
        job.protocol.limit,
        this_machine(),
        versions(),
        variants=tuple(results),
    )


def parts_for(knobs: Knobs, parts: Sequence[Part]) -> list[Part]:
    """What a variant runs: without memory every part forgets, and the controls would only say the same again."""
    if knobs.memory:
        return list(parts)
    return [replace(part, forget=True) for part in parts if not part.forget]


def _run_variant(job: Job, variant: Variant, label: str, on_sample: OnSample) -> VariantResult:
    knobs = variant.knobs
    runtime, segmenter = load_choice(variant.folder, variant.manifest, variant.choice, job.device, knobs.model)
    overall, found = SpeedMeter(), []
    with runtime:
        for part in parts_for(knobs, job.parts):
            log = _open_log(job, variant, label, part)
            result, meter = measure_part(segmenter, part, job.protocol, knobs, log, lambda name: on_sample(label, name))
            if part.forget != knobs.memory:
                overall.merge(meter.state())
            found.append(result)
    return VariantResult(
        label=label,
        bundle=variant.name,
        checkpoint_sha256=runtime.manifest.checkpoint_sha256,
        backend=variant.choice[0],
        precision=variant.choice[1],
        memory=knobs.memory,
        model=str(knobs.model),
        slots=runtime.manifest.model.memory.slots,
        length=knobs.length,
        wording=knobs.wording,
        ask=str(knobs.ask),
        parts=tuple(found),
        speed=overall.speed(),
    )


def _open_log(job: Job, variant: Variant, label: str, part: Part) -> SampleLog:
    if job.folder is None:
        return SampleLog(None, {})
    path = job.folder / "samples" / _file_name(label) / f"{_file_name(part.name)}.jsonl"
    identity: dict[str, Any] = {
        "dataset": job.dataset,
        "split": job.split,
        "part": part.name,
        "protocol": job.protocol.name,
        "checkpoint_sha256": variant.manifest.checkpoint_sha256,
        "backend": variant.choice[0],
        "precision": variant.choice[1],
        "memory": variant.knobs.memory,
        "model": str(variant.knobs.model),
        "length": variant.knobs.length,
        "wording": variant.knobs.wording,
        "ask": str(variant.knobs.ask),
        "x2sam-rt": version("x2sam-rt"),
    }
    return SampleLog(path, identity)


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.+=-]+", "_", text)


def measure_part(
    segmenter: Segmenter,
    part: Part,
    protocol: Protocol,
    knobs: Knobs = Knobs(),  # noqa: B008 (frozen)
    log: SampleLog | None = None,
    on_sample: Callable[[str], None] = lambda part: None,
) -> tuple[PartResult, SpeedMeter]:
    """One part, and the times of its frames. log: what was measured before, and where more is kept.

    Raises DataError and EngineError naming the example, unless the protocol skips what is bad.
    """
    evaluator = part.evaluator(protocol.published)
    shown = Presentation(
        part.dataset, part.split, protocol, knobs.length, knobs.wording, part.forget, part.order, knobs.ask
    )
    log = log or SampleLog(None, {})
    samples = part.samples if protocol.limit is None else part.samples[: protocol.limit]
    for sample in samples:
        if sample.name not in log:
            log.add(_measure(segmenter, sample, evaluator, shown))
        on_sample(part.name)
    return _summary(part, evaluator, log, [sample.name for sample in samples])


def _measure(segmenter: Segmenter, sample: Sample, evaluator: Evaluator, shown: Presentation) -> SampleRecord:
    pieces = _Pieces(segmenter, sample, shown)
    try:
        state = evaluator.measure(pieces)
    except DataError as error:
        if not shown.protocol.skip_bad:
            raise
        return SampleRecord(sample.name, 0, None, None, skipped=str(error))
    return SampleRecord(sample.name, pieces.count, state, pieces.meter.state())


class _Pieces:
    """The pieces of a sample with their predictions, each made when it is reached and gone when it was measured."""

    def __init__(self, segmenter: Segmenter, sample: Sample, shown: Presentation) -> None:
        self._segmenter, self._sample, self._shown = segmenter, sample, shown
        self.meter, self.count = SpeedMeter(), 0

    def __iter__(self) -> Iterator[Piece]:
        for piece in self._shown.pieces(self._sample.load()):
            with predicted(self._segmenter, piece, self._shown.showing(piece)) as prediction:
                self.count += 1
                yield piece, self.meter.watch(prediction)


def _summary(part: Part, evaluator: Evaluator, log: SampleLog, names: list[str]) -> tuple[PartResult, SpeedMeter]:
    meter, skipped, measured, empty = SpeedMeter(), dict[str, str](), 0, 0
    for record in log.records(names):
        if record.skipped is not None:
            skipped[record.sample] = record.skipped
            continue
        meter.merge(record.times)
        measured, empty = measured + bool(record.pieces), empty + (not record.pieces)
    states = (record.state for record in log.records(names) if record.skipped is None and record.pieces)
    scores = tuple(evaluator.scores(states)) if measured else ()
    missing = tuple(evaluator.missing()) if isinstance(evaluator, CaptionEvaluator) else ()
    result = PartResult(part.name, measured, empty, skipped, not part.forget, scores, missing, meter.speed())
    return result, meter
