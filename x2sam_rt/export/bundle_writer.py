"""Export: a loaded checkpoint becomes a bundle, complete or not at all."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file

from x2sam_rt.errors import BundleError
from x2sam_rt.export.engines import BuildChoice, build_and_measure
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.precision import Precision, cast_weights, dtype_of
from x2sam_rt.model.quantization import LanguageWeights
from x2sam_rt.model.stage_contract import StageContract
from x2sam_rt.model.stages import stage_contracts
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.runtime.bundle import (
    LANGUAGE,
    MANIFEST,
    SCHEMA,
    WORDING,
    BuildEnvironment,
    Manifest,
    file_sha256,
    record_files,
)
from x2sam_rt.runtime.engines import STAGE_WEIGHTS, check_precision, check_targets, find_backend
from x2sam_rt.runtime.engines.engine import OnProgress
from x2sam_rt.runtime.weights import LANGUAGE_WEIGHTS, split_weights
from x2sam_rt.tasks.table import DEFAULT_WORDING

OnStep = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class ExportPlan:
    """What is exported and how. backend: a name in `runtime.engines.BACKENDS`. targets: GPUs to build for, as "sm86";
    empty = the backend's choice. language_weights: what the text model's weights are rounded to when the bundle is
    loaded; the bundle holds them whole."""

    checkpoint: Checkpoint
    backend: str
    precision: Precision = "fp32"
    targets: tuple[str, ...] = ()
    language_weights: LanguageWeights = "full"

    @property
    def contracts(self) -> tuple[StageContract, ...]:
        return stage_contracts(self.checkpoint.model.config, dtype_of(self.precision))


def export_bundle(
    plan: ExportPlan,
    output: Path,
    *,
    overwrite: bool = False,
    on_step: OnStep = lambda step: None,
    on_progress: OnProgress = lambda what, done: None,
) -> Manifest:
    """Builds every engine, measures each against PyTorch in fp32 and writes the bundle.

    Everything goes to a folder beside `output`, which is renamed when it is complete; a failed or killed export
    leaves nothing that could be loaded. The checkpoint's weights are cast to the plan's precision in place. on_step:
    told what is done next; on_progress: what a stage's builder does, and how much of it is done, 0…1.

    Raises BundleError when `output` exists (unless overwrite replaces a bundle there) or the disk cannot take it,
    EngineError when a stage cannot be built, or the backend does not compute in the precision or for the targets.
    """
    check_precision(plan.backend, plan.precision)
    check_targets(plan.backend, plan.targets)
    _check_output(output, overwrite)
    cast_weights(plan.checkpoint.model, dtype_of(plan.precision))
    choice = BuildChoice(plan.backend, plan.precision, plan.targets)
    with _written_beside(output) as folder:
        errors = {}
        for contract in plan.contracts:
            on_step(contract.name)
            errors[contract.name] = build_and_measure(plan.checkpoint.model, contract, choice, folder, on_progress)
        on_step("weights")
        _write_weights(plan.checkpoint, folder)
        DEFAULT_WORDING.save(folder / WORDING)
        on_step("manifest")
        manifest = _manifest(plan, folder, errors)
        manifest.save(folder)
    return manifest


def _write_weights(checkpoint: Checkpoint, folder: Path) -> None:
    (folder / LANGUAGE).mkdir()
    language, stages = split_weights(checkpoint.model)
    save_file(language, folder / LANGUAGE_WEIGHTS)
    # Also where the engines hold them: `verify` runs the PyTorch model on the user's own machine.
    (folder / STAGE_WEIGHTS).parent.mkdir(exist_ok=True)
    save_file(stages, folder / STAGE_WEIGHTS)
    rows = checkpoint.model.config.language["text_config"]["vocab_size"]
    Tokenizer.load(checkpoint.tokenizer_folder, rows).save(folder / LANGUAGE / "tokenizer")


def _manifest(plan: ExportPlan, folder: Path, errors: dict[str, float]) -> Manifest:
    config = plan.checkpoint.model.config
    return Manifest(
        schema=SCHEMA,
        model=replace(config, language=dict(config.language)),
        backend=plan.backend,
        precision=plan.precision,
        stages=plan.contracts,
        files=record_files(folder),
        checkpoint=plan.checkpoint.path.name,
        checkpoint_sha256=file_sha256(plan.checkpoint.path),
        environment=BuildEnvironment(
            packages={name: version(name) for name in ("x2sam-rt", "torch", *find_backend(plan.backend).packages)},
            platform=platform.platform(),
        ),
        errors=errors,
        language_weights=plan.language_weights,
    )


def _check_output(output: Path, overwrite: bool) -> None:
    if not output.exists():
        return
    if not overwrite:
        raise BundleError(f"{output} exists already. Choose another folder, or pass --overwrite to replace the bundle.")
    if not (output / MANIFEST).is_file():
        raise BundleError(f"{output} exists and is no bundle, so it is not overwritten. Choose another folder.")


@contextlib.contextmanager
def _written_beside(output: Path) -> Iterator[Path]:
    """A folder beside `output` that takes its name when the body is done, and vanishes when it fails."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=output.parent, prefix=f".{output.name}.", suffix=".partial", ignore_cleanup_errors=True
        ) as temporary:
            folder = Path(temporary) / "bundle"
            folder.mkdir()
            yield folder
            if output.exists():
                shutil.rmtree(output)
            os.replace(folder, output)
    except (OSError, SafetensorError) as error:
        raise BundleError(
            f"Cannot write {output}: {error}. Nothing was left there; free space or choose another folder, then export "
            "again."
        ) from error
