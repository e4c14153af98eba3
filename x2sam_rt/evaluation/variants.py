"""What is compared: bundles, the backends they can run on, and the knobs of the runtime."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from x2sam_rt.errors import ConfigError, EngineError
from x2sam_rt.evaluation.backends import REFERENCE, BackendChoice
from x2sam_rt.evaluation.protocol import Length
from x2sam_rt.runtime.asking import ONCE, ReAsk
from x2sam_rt.runtime.bundle import Manifest, load_manifest


@dataclass(frozen=True)
class Knobs:
    """memory: False segments every frame as the first of its stream. slots: how many past frames are remembered; None
    = as many as the model was trained with. length: frames of a chunk, "whole" = one chunk per clip; None = the data
    set's own. wording: number of the published wording, "bundle" = the bundle's own words; None = number 0 for data
    sets with published figures, the bundle's words for others. ask: when a video's instruction is asked again, on
    the frames seen last; live only."""

    memory: bool = True
    slots: int | None = None
    length: Length | None = None
    wording: int | Literal["bundle"] | None = None
    ask: ReAsk = ONCE

    @property
    def label(self) -> str:
        """What differs from the defaults; empty where nothing does."""
        parts = [] if self.memory else ["memory=off"]
        ask = None if self.ask == ONCE else self.ask
        given = (("slots", self.slots), ("length", self.length), ("wording", self.wording), ("ask", ask))
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
    """ "memory=on,off", "slots=1,4", "length=8,whole", "wording=0,1,bundle" and "ask=once,every=8" (see `ReAsk.parse`)
    as all their combinations. Raises ConfigError for anything else."""
    memory, slots, ask = [True], list[int | None]([None]), [ONCE]
    lengths, wordings = list[Length | None]([None]), list[int | Literal["bundle"] | None]([None])
    for text in texts:
        name, _, values = text.partition("=")
        match name:
            case "memory":
                memory = [_switch(value) for value in values.split(",")]
            case "slots":
                slots = [_count(name, value, 1) for value in values.split(",")]
            case "length":
                lengths = ["whole" if value == "whole" else _count(name, value, 2) for value in values.split(",")]
            case "wording":
                wordings = ["bundle" if value == "bundle" else _count(name, value, 0) for value in values.split(",")]
            case "ask":
                ask = [ReAsk.parse(value) for value in values.split(",")]
            case _:
                raise ConfigError(
                    f"There is no knob {name!r}; write memory=on,off, slots=1,2,4, length=8,16,whole, wording=0,1 or "
                    "ask=once,every=8."
                )
    # Without memory their number changes nothing.
    chosen = itertools.product(memory, slots, lengths, wordings, ask)
    knobs = (Knobs(on, count if on else None, length, wording, policy) for on, count, length, wording, policy in chosen)
    return list(dict.fromkeys(knobs))


def _switch(value: str) -> bool:
    if value not in ("on", "off"):
        raise ConfigError(f"memory={value}: wanted on or off.")
    return value == "on"


def _count(name: str, value: str, least: int) -> int:
    if not value.isdecimal() or int(value) < least:
        raise ConfigError(f"{name}={value}: wanted a number from {least}.")
    return int(value)
