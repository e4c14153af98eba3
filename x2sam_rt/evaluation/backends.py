"""Runtimes of a bundle for measuring: on its own backend, or on PyTorch in fp32, which every bundle can be run on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from x2sam_rt.config import ModelConfig
from x2sam_rt.errors import EngineError
from x2sam_rt.evaluation.segmenter import RuntimeSegmenter
from x2sam_rt.model.precision import cast_weights, dtype_of
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.model.x2sam import X2SAM
from x2sam_rt.runtime.bundle import LANGUAGE, WORDING, Backend, Manifest, Precision, StageSpec, TensorSpec
from x2sam_rt.runtime.engines import Engine, load_engine
from x2sam_rt.runtime.engines.engine import Tensors
from x2sam_rt.runtime.language import LanguageSide
from x2sam_rt.runtime.pipeline import Engines
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.weights import load_language_model, load_reference_model
from x2sam_rt.tasks import DEFAULT_WORDING, Wording

BackendChoice = tuple[Backend, Precision]
REFERENCE: BackendChoice = ("torch", "fp32")


class FiniteEngine:
    """An engine whose outputs must be finite: NaN in logits would otherwise pass for an empty mask.

    run raises EngineError naming the stage and the tensor.
    """

    def __init__(self, engine: Engine) -> None:
        self.spec = engine.spec
        self._engine = engine

    def run(self, inputs: Tensors, outputs: Tensors) -> None:
        self._engine.run(inputs, outputs)
        for name, tensor in outputs.items():
            if not bool(tensor.isfinite().all()):
                raise EngineError(
                    f"Stage {self.spec.name}: its output {name} holds NaN or infinity. Check the engines with "
                    "`x2sam-rt verify`, and the weights they were exported from."
                )

    def close(self) -> None:
        self._engine.close()


def load_choice(folder: Path, manifest: Manifest, choice: BackendChoice) -> tuple[Runtime, RuntimeSegmenter]:
    """A runtime to close after use, and the same as something to be measured. manifest: of the bundle in `folder`; its
    model configuration is the one that runs. choice: the bundle's own, or REFERENCE.

    Raises EngineError for another choice, BundleError for a damaged bundle.
    """
    manifest = _adapted(manifest, choice)
    if manifest.backend == "torch":
        model = cast_weights(load_reference_model(manifest, folder), dtype_of(manifest.precision))
    else:
        model = load_language_model(manifest, folder)
    engines = {name: load_engine(manifest.stage(name), manifest, folder, model) for name in stage_names()}
    # Whatever goes wrong before the mask decoder comes out of it.
    engines["mask_decoder"] = FiniteEngine(engines["mask_decoder"])
    return assemble(folder, manifest, model, engines)


def assemble(
    folder: Path, manifest: Manifest, model: X2SAM, engines: Mapping[str, Engine]
) -> tuple[Runtime, RuntimeSegmenter]:
    """A runtime of a bundle's language side and any engines, by stage. model: holds the language side's weights."""
    rows = manifest.model.language["text_config"]["vocab_size"]
    tokenizer = Tokenizer.load(folder / LANGUAGE / "tokenizer", rows)
    wording = Wording.load(folder / WORDING, DEFAULT_WORDING)
    together = Engines(**engines)
    runtime = Runtime(manifest, together, LanguageSide(model, together.vision_encoder, tokenizer), wording)
    return runtime, RuntimeSegmenter(runtime, wording)


def stage_names() -> tuple[str, ...]:
    return tuple(field.name for field in fields(Engines))


def fp32_spec(spec: StageSpec) -> StageSpec:
    """The contract of a stage when it computes in fp32."""

    def widen(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(t, dtype="float32") if t.dtype == "bfloat16" else t for t in tensors)

    return replace(spec, inputs=widen(spec.inputs), outputs=widen(spec.outputs))


def with_slots(config: ModelConfig, slots: int | None) -> ModelConfig:
    """The same model with another size of memory; None leaves it. Any size runs: only what is remembered differs."""
    return config if slots is None else replace(config, memory=replace(config.memory, slots=slots))


def _adapted(manifest: Manifest, choice: BackendChoice) -> Manifest:
    if choice == (manifest.backend, manifest.precision):
        return manifest
    if choice != REFERENCE:
        raise EngineError(
            f"A bundle for {manifest.backend} {manifest.precision} cannot run on {' '.join(choice)}; export the "
            f"checkpoint with --engine {choice[0]} --precision {choice[1]}."
        )
    backend, precision = choice
    return replace(
        manifest, backend=backend, precision=precision, stages=tuple(fp32_spec(spec) for spec in manifest.stages)
    )
