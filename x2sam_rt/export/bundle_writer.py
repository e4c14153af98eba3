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

import onnxruntime
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from x2sam_rt.errors import BundleError
from x2sam_rt.export.engines import backend_specs, build_engine
from x2sam_rt.export.verify import reference_module, stage_error
from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.precision import cast_weights, dtype_of
from x2sam_rt.model.tokenizer import Tokenizer
from x2sam_rt.runtime.bundle import (
    LANGUAGE,
    MANIFEST,
    SCHEMA,
    WORDING,
    Backend,
    BuildEnvironment,
    Manifest,
    Precision,
    StageSpec,
    file_sha256,
    record_files,
)
from x2sam_rt.runtime.weights import LANGUAGE_WEIGHTS, STAGE_WEIGHTS, split_weights
from x2sam_rt.tasks import DEFAULT_WORDING

OnStep = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class ExportPlan:
    """What is exported and how. trained: False marks weights that were never trained."""

    checkpoint: Checkpoint
    backend: Backend
    precision: Precision = "fp32"
    trained: bool = True

    @property
    def specs(self) -> tuple[StageSpec, ...]:
        """Raises EngineError for a backend and precision that do not go together."""
        return backend_specs(self.checkpoint.model, self.backend, self.precision)


def export_bundle(
    plan: ExportPlan, output: Path, *, overwrite: bool = False, on_step: OnStep = lambda step: None
) -> Manifest:
    """Builds every engine, measures each against PyTorch in fp32 and writes the bundle.

    Everything goes to a folder beside `output`, which is renamed when it is complete; a failed or killed export
    leaves nothing that could be loaded. The checkpoint's weights are cast to the plan's precision in place. on_step:
    told what is done next.

    Raises BundleError when `output` exists (unless overwrite replaces a bundle there) or the disk cannot take it,
    EngineError when a stage cannot be built.
    """
    _check_output(output, overwrite)
    specs = plan.specs
    cast_weights(plan.checkpoint.model, dtype_of(plan.precision))
    with _written_beside(output) as folder:
        errors = {}
        for spec in specs:
            on_step(spec.name)
            errors[spec.name] = _write_stage(plan, spec, folder)
        on_step("weights")
        _write_weights(plan.checkpoint, folder)
        DEFAULT_WORDING.save(folder / WORDING)
        on_step("manifest")
        manifest = _manifest(plan, folder, errors)
        manifest.save(folder)
    return manifest


def _write_stage(plan: ExportPlan, spec: StageSpec, folder: Path) -> float:
    """Builds the engine. Returns its error against PyTorch."""
    model = plan.checkpoint.model
    engine = build_engine(model, spec, plan.backend, folder)
    error = stage_error(engine, reference_module(model, spec.name))
    engine.close()
    return error


def _write_weights(checkpoint: Checkpoint, folder: Path) -> None:
    tokenizer = folder / LANGUAGE / "tokenizer"
    tokenizer.mkdir(parents=True)
    language, stages = split_weights(checkpoint.model)
    save_file(language, folder / LANGUAGE_WEIGHTS)
    # Also where the engines hold them: `verify` runs the PyTorch model on the user's own machine.
    (folder / STAGE_WEIGHTS).parent.mkdir(exist_ok=True)
    save_file(stages, folder / STAGE_WEIGHTS)
    rows = checkpoint.model.config.language["text_config"]["vocab_size"]
    Tokenizer.load(checkpoint.tokenizer_folder, rows).inner.save_pretrained(tokenizer)


def _manifest(plan: ExportPlan, folder: Path, errors: dict[str, float]) -> Manifest:
    config = plan.checkpoint.model.config
    return Manifest(
        schema=SCHEMA,
        model=replace(config, language=dict(config.language)),
        backend=plan.backend,
        precision=plan.precision,
        stages=plan.specs,
        files=record_files(folder),
        checkpoint=plan.checkpoint.path.name,
        checkpoint_sha256=file_sha256(plan.checkpoint.path),
        trained=plan.trained,
        environment=BuildEnvironment(
            x2sam_rt=version("x2sam-rt"),
            torch=torch.__version__,
            onnxruntime=onnxruntime.__version__,
            platform=platform.platform(),
        ),
        errors=errors,
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
