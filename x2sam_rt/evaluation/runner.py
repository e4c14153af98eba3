"""Runs what is to be evaluated, example by example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from x2sam_rt.errors import ConfigError
from x2sam_rt.evaluation.backends import load_choice, with_slots
from x2sam_rt.evaluation.part import Part
from x2sam_rt.evaluation.prediction import Segmenter, Showing, predicted
from x2sam_rt.evaluation.results import Evaluation, PartResult, VariantResult, this_machine, versions
from x2sam_rt.evaluation.speed import SpeedMeter
from x2sam_rt.evaluation.variants import Variant

OnExample = Callable[[str, str], None]


@dataclass(frozen=True)
class Protocol:
    """limit: examples of each part at most, from the first; None = all. live: see `Showing`.

    Raises ConfigError for a limit below 1."""

    limit: int | None = None
    live: bool = False

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"A limit of {self.limit} examples; wanted 1 or more.")

    def examples(self, part: Part) -> int:
        return len(part.samples) if self.limit is None else min(self.limit, len(part.samples))


def run_variants(
    dataset: str,
    split: str | None,
    parts: Sequence[Part],
    variants: Sequence[Variant],
    protocol: Protocol,
    on_example: OnExample = lambda variant, part: None,
) -> Evaluation:
    """Every variant on every part, one after another, one bundle loaded at a time. dataset, split: for the record.
    on_example: told the labels of variant and part after each example.

    Raises DataError naming the example, EngineError naming it too where an engine gave no numbers, BundleError.
    """
    several = len({variant.folder for variant in variants}) > 1
    results = []
    for variant in variants:
        label = variant.label(with_folder=several)
        results.append(_run_variant(variant, label, parts, protocol, on_example))
    return Evaluation(
        dataset, split, protocol.limit, protocol.live, this_machine(), versions(), variants=tuple(results)
    )


def work_of(parts: Sequence[Part], variants: Sequence[Variant], protocol: Protocol) -> int:
    """How many times `on_example` will be told something."""
    return sum(protocol.examples(part) for variant in variants for part in parts_for(variant, parts))


def _run_variant(
    variant: Variant, label: str, parts: Sequence[Part], protocol: Protocol, on_example: OnExample
) -> VariantResult:
    manifest = replace(variant.manifest, model=with_slots(variant.manifest.model, variant.knobs.slots))
    runtime, segmenter = load_choice(variant.folder, manifest, variant.choice, variant.knobs.ask)
    overall, found = SpeedMeter(), []
    with runtime:
        for part in parts_for(variant, parts):
            counted = part.forget != variant.knobs.memory
            meters = [SpeedMeter(), overall] if counted else [SpeedMeter()]
            found.append(measure_part(segmenter, part, protocol, meters, lambda name: on_example(label, name)))
    return VariantResult(
        label=label,
        bundle=variant.name,
        checkpoint_sha256=manifest.checkpoint_sha256,
        backend=variant.choice[0],
        precision=variant.choice[1],
        memory=variant.knobs.memory,
        slots=manifest.model.memory.slots,
        ask=str(variant.knobs.ask),
        parts=tuple(found),
        speed=overall.speed(),
    )


def parts_for(variant: Variant, parts: Sequence[Part]) -> list[Part]:
    """What a variant runs: without memory every part forgets, and the controls would only say the same again."""
    if variant.knobs.memory:
        return list(parts)
    return [replace(part, forget=True) for part in parts if not part.forget]


def measure_part(
    segmenter: Segmenter,
    part: Part,
    protocol: Protocol,
    meters: Sequence[SpeedMeter] = (),
    on_example: Callable[[str], None] = lambda part: None,
) -> PartResult:
    """One part. meters: the first one's speed is the part's. Raises DataError and EngineError naming the example."""
    family, count = part.family(), protocol.examples(part)
    meters = meters or [SpeedMeter()]
    for sample in part.samples[:count]:
        example = sample.load()
        with predicted(segmenter, example, Showing(protocol.live, part.forget)) as prediction:
            for meter in meters:
                prediction = meter.watch(prediction)
            family.add(example, prediction)
        on_example(part.name)
    return PartResult(part.name, count, not part.forget, tuple(family.figures()), meters[0].speed())
