"""The backends: one row here and one file beside it for each.

A row is data, so that the command line can list backends before anything is imported; the file is imported when the
backend is used, so that a machine needs only the libraries of the backends it runs. Nothing falls back: a bundle runs
on the backend it was exported for, or not at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from x2sam_rt.documents import shown
from x2sam_rt.errors import EngineError

if TYPE_CHECKING:
    from x2sam_rt.model.precision import Precision

# Where every bundle holds the stages' PyTorch weights.
STAGE_WEIGHTS = "stages/weights.safetensors"


@dataclass(frozen=True)
class Backend:
    """name: as the manifest and the command line have it. module: with `load`, and with `build` unless `builder` names
    a module of the export's that has it (see `BackendModule`). precisions: what it computes in. file: where a stage's
    engine lies in a bundle, `{stage}` for the stage's name. packages: what it needs installed; their versions are
    recorded. needs_gpu: to run; its engines are built anywhere."""

    name: str
    module: str
    precisions: tuple[Precision, ...]
    file: str
    packages: tuple[str, ...]
    builder: str | None = None
    needs_gpu: bool = False

    @property
    def home(self) -> str:
        """The device it runs on where none is asked for."""
        return "cuda:0" if self.needs_gpu else "cpu"

    @property
    def runs_weights(self) -> bool:
        """Whether its engines are PyTorch modules with the bundle's own weights, rather than files made from them."""
        return self.file == STAGE_WEIGHTS


_ROWS = (
    Backend(
        name="onnxruntime",
        module="x2sam_rt.runtime.engines.onnxruntime_engine",
        precisions=("fp32", "int8"),
        file="stages/{stage}.onnx",
        packages=("onnxruntime",),
    ),
    Backend(
        name="torch",
        module="x2sam_rt.runtime.engines.torch_engine",
        precisions=("fp32", "bf16"),
        file=STAGE_WEIGHTS,
        packages=("torch",),
    ),
    Backend(
        name="tensorrt",
        module="x2sam_rt.runtime.engines.tensorrt_engine",
        precisions=("fp32", "bf16"),
        file="stages/{stage}.engine",
        packages=(),  # one of two; which, and its version, stands beside each engine
        builder="x2sam_rt.export.tensorrt.builder",
        needs_gpu=True,
    ),
)
BACKENDS = {row.name: row for row in _ROWS}


def find_backend(name: str) -> Backend:
    """Raises EngineError for a name that this version does not have."""
    if name not in BACKENDS:
        raise EngineError(
            f"There is no backend {shown(name)} in this version. Export the checkpoint with --engine "
            f"{' or '.join(BACKENDS)}."
        )
    return BACKENDS[name]


def check_precision(name: str, precision: str) -> None:
    """Raises EngineError when a backend does not compute in a precision, or there is no such backend."""
    backend = find_backend(name)
    if precision in backend.precisions:
        return
    able = [row.name for row in _ROWS if precision in row.precisions]
    advice = f"Export with --engine {' or '.join(able)} for {precision}." if able else "No backend here computes in it."
    raise EngineError(f"{name} computes in {' or '.join(backend.precisions)}; found {precision!r}. {advice}")


def check_targets(name: str, targets: tuple[str, ...]) -> None:
    """Raises EngineError when GPUs are named for a backend whose engines run anywhere."""
    if targets and not find_backend(name).needs_gpu:
        able = [row.name for row in _ROWS if row.needs_gpu]
        raise EngineError(
            f"Engines of {name} are not built for one GPU or another; found targets {', '.join(targets)}. Leave "
            f"--targets out, or export with --engine {' or '.join(able)}."
        )
