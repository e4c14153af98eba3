"""Runtimes of a bundle for measuring: on its own backend, or on PyTorch in fp32, which every bundle can be run on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from x2sam_rt.errors import EngineError
from x2sam_rt.evaluation.segmenter import RuntimeSegmenter
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.model.precision import Precision, cast_weights, dtype_of
from x2sam_rt.model.stage_contract import Tensors
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import Manifest
from x2sam_rt.runtime.device import device_for
from x2sam_rt.runtime.engines import find_backend
from x2sam_rt.runtime.engines.engine import BoundStage, Engine, Engines, load_engines
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.weights import load_model

BackendChoice = tuple[str, Precision]
REFERENCE: BackendChoice = ("torch", "fp32")


class FiniteEngine:
    """An engine whose outputs must be finite: NaN in logits would otherwise pass for an empty mask.

    What is bound raises EngineError naming the stage and the tensor.
    """

    recordable = False  # the host looks at the outputs

    def __init__(self, engine: Engine) -> None:
        self.contract, self.device = engine.contract, engine.device
        self._engine = engine

    def bind(self, inputs: Tensors, outputs: Tensors) -> BoundStage:
        run, stage = self._engine.bind(inputs, outputs), self.contract.name

        def run_and_check() -> None:
            run()
            _check_finite(stage, outputs)

        return run_and_check

    def close(self) -> None:
        self._engine.close()


def _check_finite(stage: str, outputs: Tensors) -> None:
    for name, tensor in outputs.items():
        if not bool(tensor.isfinite().all()):
            raise EngineError(
                f"Stage {stage}: its output {name} holds NaN or infinity. Check the engines with "
                "`x2sam-rt verify`, and the weights they were exported from."
            )


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
    backend = find_backend(manifest.backend)
    place = device_for(backend, device)
    model = load_model(manifest, folder, place)
    if choice[1] != own:
        model = cast_weights(model, dtype_of(choice[1]))
    engines = load_engines(backend, manifest.stages, folder, model, place)
    # Whatever goes wrong before the mask decoder comes out of it.
    engines = replace(engines, mask_decoder=FiniteEngine(engines.mask_decoder))
    return assemble(folder, manifest, model, engines)


def assemble(folder: Path, manifest: Manifest, model: X2SAM, engines: Engines) -> tuple[Runtime, RuntimeSegmenter]:
    """A runtime of a bundle's language side and any engines. model: holds the language side's weights."""
    runtime = Runtime.assemble(folder, manifest, model, engines)
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
