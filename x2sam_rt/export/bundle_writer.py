"""Export: a checkpoint becomes a bundle, one stage and one tensor at a time."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch

from x2sam_rt.export.engines import BuildChoice, build_and_measure, write_engine
from x2sam_rt.export.int8 import Calibration, check_calibration, quantize_stages
from x2sam_rt.export.needs import ExportNeeds, check_needs, export_needs
from x2sam_rt.export.output import bundle_folder, check_output
from x2sam_rt.export.verify import bundled_stages
from x2sam_rt.model.checkpoint.files import tensor_files
from x2sam_rt.model.checkpoint.loading import Checkpoint, empty_model
from x2sam_rt.model.checkpoint.stored import StoredWeights, empty
from x2sam_rt.model.checkpoint.tensor_file import OnBytes, TensorToWrite, write_shards, write_tensors
from x2sam_rt.model.precision import Precision, dtype_of
from x2sam_rt.model.quantization import LanguageWeights
from x2sam_rt.model.stage_contract import StageContract
from x2sam_rt.model.stages import stage_contracts, stage_weights
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.runtime.bundle import (
    LANGUAGE,
    SCHEMA,
    WORDING,
    BuildEnvironment,
    BundleFiles,
    Manifest,
    file_sha256,
    record_files,
)
from x2sam_rt.runtime.device import CPU
from x2sam_rt.runtime.engines import STAGE_WEIGHTS, check_precision, check_targets, find_backend
from x2sam_rt.runtime.engines.engine import OnProgress, backend_module
from x2sam_rt.runtime.engines.tensorrt_build import EngineRecord
from x2sam_rt.runtime.weights import language_names, without_shared_table
from x2sam_rt.tasks.table import DEFAULT_WORDING

OnStep = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class ExportPlan:
    """What is exported and how. backend: a name in `runtime.engines.BACKENDS`. targets: GPUs to build for, as "sm86";
    empty = the backend's choice. language_weights: what the text model's weights are rounded to when the bundle is
    loaded; the bundle holds them whole. language_precision: of the language side's weights; None = as the stages.
    verify: measure every stage against PyTorch. calibration: for int8, and only for it."""

    checkpoint: Checkpoint
    backend: str
    precision: Precision = "fp32"
    targets: tuple[str, ...] = ()
    language_weights: LanguageWeights = "full"
    language_precision: Precision | None = None
    verify: bool = True
    calibration: Calibration | None = None

    @property
    def contracts(self) -> tuple[StageContract, ...]:
        return stage_contracts(self.checkpoint.config, dtype_of(self.precision))

    @property
    def language(self) -> Precision:
        return self.language_precision or ("fp32" if self.precision == "int8" else self.precision)

    @property
    def needs(self) -> ExportNeeds:
        return export_needs(self.checkpoint, self.backend, self.precision, self.language)


def check_request(backend: str, precision: Precision, targets: tuple[str, ...], output: Path, overwrite: bool) -> None:
    """All that can be known before a checkpoint is opened.

    Raises EngineError when the backend is not installed, or does not compute in the precision or for the targets,
    BundleError when `output` exists (unless overwrite replaces a bundle there).
    """
    check_precision(backend, precision)
    check_targets(backend, targets)
    row = find_backend(backend)
    backend_module(row, row.builder)
    check_output(output, overwrite)


def export_bundle(
    plan: ExportPlan,
    output: Path,
    *,
    overwrite: bool = False,
    on_step: OnStep = lambda step: None,
    on_progress: OnProgress = lambda what, done: None,
) -> Manifest:
    """Builds every engine, measures each against PyTorch in fp32 and writes the bundle.

    Memory is taken for one stage at a time, and for one tensor of the language side (`ExportPlan.needs`). A failed or
    killed export leaves nothing that could be loaded (`export.output`). on_step: told what is done next; on_progress:
    what is being built or written, and how much of it is done, 0…1.

    Raises BundleError when `output` exists (unless overwrite replaces a bundle there), disk or memory do not suffice,
    or another process exports to it; EngineError when a stage cannot be built, or the backend does not compute in the
    precision or for the targets; CheckpointError for weights with NaN or infinity.
    """
    check_request(plan.backend, plan.precision, plan.targets, output, overwrite)
    check_calibration(plan.precision, plan.calibration)
    check_needs(plan.needs, output)
    with bundle_folder(output, overwrite=overwrite) as folder:
        errors, skeleton = dict[str, float](), empty_model(plan.checkpoint.config)
        for contract in plan.contracts:
            on_step(contract.name)
            errors |= _build(plan, contract, stage_weights(skeleton, contract.name), folder, on_progress)
        on_step("weights")
        _write_weights(plan, folder, on_progress)
        on_step("manifest")
        manifest = _manifest(plan, folder, errors)
        manifest.save(folder)
        if plan.calibration is not None:
            manifest = _in_int8(plan, plan.calibration, manifest, folder, on_step)
            manifest.save(folder)
    return manifest


def _in_int8(plan: ExportPlan, calibration: Calibration, manifest: Manifest, folder: Path, on_step: OnStep) -> Manifest:
    """The bundle that was just written, its frame stages quantized and measured anew."""
    quantize_stages(folder, manifest, calibration, on_step)
    manifest = replace(manifest, files=record_files(folder))
    on_step("checks")
    files = BundleFiles(folder, manifest.files)
    checks = bundled_stages(manifest, files, CPU) if plan.verify else iter(())
    errors: dict[str, float] = {}
    for check in checks:
        errors[check.stage] = max(check.error, errors.get(check.stage, 0.0))
    return replace(manifest, errors=errors)


def _build(
    plan: ExportPlan, contract: StageContract, names: Iterable[str], folder: Path, on_progress: OnProgress
) -> dict[str, float]:
    """One stage's engine from a model with that stage's weights (names) only. Returns its error, if it was measured."""
    model = plan.checkpoint.part(names, dtype_of(plan.precision))
    choice = BuildChoice(plan.backend, plan.precision, plan.targets)
    write = build_and_measure if plan.verify else write_engine
    error = write(model, contract, choice, folder, on_progress)
    empty(model)
    return {} if error is None else {contract.name: error}


def _write_weights(plan: ExportPlan, folder: Path, on_progress: OnProgress) -> None:
    checkpoint = plan.checkpoint
    stored = without_shared_table(checkpoint.weights)
    spoken = language_names(stored)
    language = _to_write(checkpoint.weights, spoken, dtype_of(plan.language))
    # Also where the engines hold them: `verify` runs the PyTorch model on the user's own machine.
    stages = _to_write(checkpoint.weights, stored - spoken, dtype_of(plan.precision))
    (folder / LANGUAGE).mkdir()
    write_shards(language, folder / LANGUAGE, _counted("language side", language, on_progress))
    (folder / STAGE_WEIGHTS).parent.mkdir(exist_ok=True)
    write_tensors(stages, folder / STAGE_WEIGHTS, _counted("stages", stages, on_progress))
    rows = checkpoint.config.language["text_config"]["vocab_size"]
    Tokenizer.load(checkpoint.tokenizer_folder, rows).save(folder / LANGUAGE / "tokenizer")
    DEFAULT_WORDING.save(folder / WORDING)


def _to_write(weights: StoredWeights, names: Iterable[str], dtype: torch.dtype) -> dict[str, TensorToWrite]:
    def to_write(name: str) -> TensorToWrite:
        weight = weights[name]
        # In its own type: the writer casts piece by piece.
        own = torch.float32 if weight.adapter is not None else weight.stored.dtype
        return TensorToWrite(tuple(weight.stored.shape), dtype, partial(weight.read, own))

    return {name: to_write(name) for name in sorted(names)}


def _counted(what: str, tensors: dict[str, TensorToWrite], on_progress: OnProgress) -> OnBytes:
    total, written = sum(tensor.num_bytes for tensor in tensors.values()), 0

    def on_bytes(count: int) -> None:
        nonlocal written
        written += count
        on_progress(f"{what}, {written / 1e9:.2f} of {total / 1e9:.2f} GB", written / total)

    return on_bytes


def _manifest(plan: ExportPlan, folder: Path, errors: dict[str, float]) -> Manifest:
    config = plan.checkpoint.config
    return Manifest(
        schema=SCHEMA,
        model=replace(config, language=dict(config.language)),
        backend=plan.backend,
        precision=plan.precision,
        stages=plan.contracts,
        files=record_files(folder),
        checkpoint=plan.checkpoint.path.name,
        checkpoint_sha256=source_sha256(plan.checkpoint.path),
        environment=build_environment(plan.backend),
        errors=errors,
        language_precision=plan.language,
        language_weights=plan.language_weights,
        targets=_targets(plan, folder),
    )


def _targets(plan: ExportPlan, folder: Path) -> tuple[str, ...]:
    """The GPUs that the engines were built for: the builder's choice where none were asked for."""
    backend = find_backend(plan.backend)
    if not backend.needs_gpu:
        return ()
    return EngineRecord.load(folder / backend.file.format(stage=plan.contracts[0].name)).targets


def build_environment(backend: str) -> BuildEnvironment:
    """What an export with this backend is made with here and now."""
    packages = {name: version(name) for name in ("x2sam-rt", "torch", *find_backend(backend).packages)}
    return BuildEnvironment(packages, platform.platform())


def source_sha256(path: Path) -> str:
    """Of a checkpoint's tensor file, or of the SHA-256s of its shards, one after the other."""
    digests = [file_sha256(file) for file in tensor_files(path)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
