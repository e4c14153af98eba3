"""Runtimes of a bundle for measuring: on its own backend, or on PyTorch in fp32, which every bundle can be run on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from x2sam_rt.errors import EngineError
from x2sam_rt.evaluation.segmenter import RuntimeSegmenter
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.model.precision import Precision, cast_weights, dtype_of
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import BundleFiles, Manifest
from x2sam_rt.runtime.device import device_for
from x2sam_rt.runtime.engines import find_backend
from x2sam_rt.runtime.engines.engine import Engines, load_engines
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.weights import load_model

BackendChoice = tuple[str, Precision]
REFERENCE: BackendChoice = ("torch", "fp32")


def load_choice(
    folder: Path,
    manifest: Manifest,
    choice: BackendChoice,
    device: str | None = None,
    knobs: ModelKnobs = ModelKnobs(),  # noqa: B008 (frozen)
) -> tuple[Runtime, RuntimeSegmenter]:
    """A runtime to close after use, and the same as something to be measured. manifest: of the bundle in `folder`.
    choice: the bundle's own, or REFERENCE. device, knobs: as for `Runtime.load`.

    Raises EngineError for another choice, or knobs that it cannot have; BundleError for a damaged bundle.
    """
    own, manifest = manifest.precision, _adapted(manifest, choice).turned(knobs)
    backend, files = find_backend(manifest.backend), BundleFiles(folder, manifest.files)
    place = device_for(manifest, device)
    model = load_model(replace(manifest, precision=own), files, place)  # as stored
    if choice[1] != own:
        model = cast_weights(model, dtype_of(choice[1]))
    engines = load_engines(backend, manifest.stages, files, model, place)
    return assemble(files, manifest, model, engines)


def assemble(
    files: BundleFiles, manifest: Manifest, model: X2SAM, engines: Engines
) -> tuple[Runtime, RuntimeSegmenter]:
    """A runtime of a bundle's language side and any engines. model: holds the language side's weights."""
    runtime = Runtime.assemble(files, manifest, model, engines)
    return runtime, RuntimeSegmenter(runtime)


def _adapted(manifest: Manifest, choice: BackendChoice) -> Manifest:
    if choice == (manifest.backend, manifest.precision):
        return manifest
    if choice != REFERENCE:
        raise EngineError(
            f"A bundle for {manifest.backend} {manifest.precision} cannot run on {' '.join(choice)}; export the "
            f"checkpoint with --engine {choice[0]} --precision {choice[1]}."
        )
    backend, precision = choice
    stages = tuple(contract.widened() for contract in manifest.stages)
    return replace(manifest, backend=backend, precision=precision, stages=stages)
