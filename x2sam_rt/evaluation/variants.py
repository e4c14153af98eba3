"""What is compared: bundles, the backends they can run on, and the knobs of the runtime."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from x2sam_rt.errors import ConfigError, EngineError
from x2sam_rt.evaluation.backends import REFERENCE, BackendChoice
from x2sam_rt.evaluation.protocol import Length
from x2sam_rt.model.knobs import PARSERS as MODEL_PARSERS
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.runtime.asking import ONCE, ReAsk
from x2sam_rt.runtime.bundle import Manifest, load_manifest


@dataclass(frozen=True)
class Knobs:
    """memory: False segments every frame as the first of its stream. model: what is run otherwise than the bundle was
    exported. length: frames of a chunk, "whole" = one chunk per clip; None = the data set's own. wording: number of the
    published wording, "bundle" = the bundle's own words; None = number 0 for data sets with published figures, the
    bundle's words for others. ask: when a video's instruction is asked again, on the frames seen last; live only."""

    memory: bool = True
    model: ModelKnobs = ModelKnobs()  # noqa: RUF009 (frozen)
    length: Length | None = None
    wording: int | Literal["bundle"] | None = None
    ask: ReAsk = ONCE

    @property
    def label(self) -> str:
        """What differs from the defaults; empty where nothing does."""
        parts = [] if self.memory else ["memory=off"]
        parts += [str(self.model)] if str(self.model) else []
        ask = None if self.ask == ONCE else self.ask
        given = (("length", self.length), ("wording", self.wording), ("ask", ask))
        return " ".join([*parts, *(f"{name}={value}" for name, value in given if value is not None)])


@dataclass(frozen=True, eq=False)
class Variant:
    """One column of the table."""

    folder: Path
    manifest: Manifest
    choice: BackendChoice
    knobs: Knobs

    @property
    def name(self) -> str:
        """The bundle's."""
        return self.folder.absolute().name

    def label(self, *, with_folder: bool) -> str:
        parts = [self.name] if with_folder else []
        return " ".join([*parts, *self.choice, *([self.knobs.label] if self.knobs.label else [])])


def plan_variants(
    folders: Sequence[Path], backends: Sequence[str] = (), precisions: Sequence[str] = (), knobs: Sequence[str] = ()
) -> list[Variant]:
    """Every bundle on every backend asked for that it can run on, at every combination of knobs.

    backends, precisions: empty = each bundle as it was exported; otherwise also PyTorch in fp32, which every bundle
    has the weights for. knobs: as for `parse_knobs`.

    Raises EngineError when no bundle can run a backend or precision asked for, ConfigError for an unknown knob,
    BundleError.
    """
    settings = parse_knobs(knobs)
    variants, names = list[Variant](), [folder.absolute().name for folder in folders]
    if len(set(names)) != len(names):
        raise ConfigError(f"Bundles of one name ({', '.join(names)}) could not be told apart; rename their folders.")
    for folder in folders:
        manifest = load_manifest(folder)
        for choice in _choices(manifest, backends, precisions):
            variants += [Variant(folder, manifest, choice, setting) for setting in settings]
    for wanted, found in (
        (backends, {variant.choice[0] for variant in variants}),
        (precisions, {variant.choice[1] for variant in variants}),
    ):
        if missing := sorted(set(wanted) - found):
            raise EngineError(
                f"None of {', '.join(names)} can run {' or '.join(missing)} as asked. A bundle runs as it was "
                "exported, and on torch fp32; export the checkpoint again with --engine and --precision, and give "
                "both bundles."
            )
    return variants


def _choices(manifest: Manifest, backends: Sequence[str], precisions: Sequence[str]) -> list[BackendChoice]:
    own: BackendChoice = (manifest.backend, manifest.precision)
    if not backends and not precisions:
        return [own]
    return [
        choice
        for choice in dict.fromkeys((own, REFERENCE))
        if (not backends or choice[0] in backends) and (not precisions or choice[1] in precisions)
    ]


def parse_knobs(texts: Sequence[str]) -> list[Knobs]:
    """ "memory=on,off", "length=8,whole", "wording=0,1,bundle", "ask=once,every=8" (see `ReAsk.parse`), and those of
    `ModelKnobs`, as "slots=1,4", as all their combinations. Raises ConfigError for anything else."""
    choices: dict[str, list[Any]] = {}
    for text in texts:
        name, _, values = text.partition("=")
        if name not in _PARSERS:
            raise ConfigError(
                f"There is no knob {name!r}; there are {', '.join(_PARSERS)}. Write memory=on,off, slots=1,2,4, "
                "memory_scales=low,low+middle, length=8,16,whole, wording=0,1 or ask=once,every=8."
            )
        choices[name] = [_PARSERS[name](value) for value in values.split(",")]
    combinations = (dict(zip(choices, chosen, strict=True)) for chosen in itertools.product(*choices.values()))
    return list(dict.fromkeys(_knobs(chosen) for chosen in combinations))


def _knobs(chosen: Mapping[str, Any]) -> Knobs:
    model = ModelKnobs(**{name: value for name, value in chosen.items() if name in MODEL_PARSERS})
    if not chosen.get("memory", True):  # then what the memory is like changes nothing
        model = ModelKnobs(image_size=model.image_size, vision_budget=model.vision_budget)
    return Knobs(model=model, **{name: value for name, value in chosen.items() if name not in MODEL_PARSERS})


def _switch(value: str) -> bool:
    if value not in ("on", "off"):
        raise ConfigError(f"memory={value}: wanted on or off.")
    return value == "on"


def _length(value: str) -> Length:
    return "whole" if value == "whole" else _count("length", value, 2)


def _wording(value: str) -> int | Literal["bundle"]:
    return "bundle" if value == "bundle" else _count("wording", value, 0)


def _count(name: str, value: str, least: int) -> int:
    if not value.isdecimal() or int(value) < least:
        raise ConfigError(f"{name}={value}: wanted a number from {least}.")
    return int(value)


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "memory": _switch,
    **MODEL_PARSERS,
    "length": _length,
    "wording": _wording,
    "ask": ReAsk.parse,
}
