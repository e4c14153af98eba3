"""What a TensorRT engine was built with and for: a file beside it, written by the export, read before it is loaded.

Light: imports neither TensorRT nor torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from x2sam_rt.documents import parse_object, read_dataclass, read_json
from x2sam_rt.errors import EngineError

if TYPE_CHECKING:
    from x2sam_rt.runtime.bundle import BundleFiles

# TensorRT for RTX builds for GPUs that are not there; TensorRT itself only for the one it runs on.
_SUFFIX = ".json"
Library = Literal["tensorrt_rtx", "tensorrt"]
# How attention to many tokens was built: as nodes that the library runs by a dedicated kernel or not at all ("fused"),
# or piece by piece over the keys with a running softmax ("online").
AttentionForm = Literal["fused", "online"]


@dataclass(frozen=True)
class SizeRange:
    """Sizes a varying dimension may have in an engine, and the one it is made fastest for."""

    least: int
    best: int
    most: int


@dataclass(frozen=True)
class EngineRecord:
    """targets: compute capabilities, "sm86". sizes: of what varies in the stage's contract, by name. seconds: of the
    build. layers: of the network by precision, as asked for. parity: largest error of the graph that was built against
    the exported one, on ONNX Runtime's CPU. activation_bytes: device memory of one execution context at the largest
    sizes; None where the builder did not say. largest_scores_bytes: what the scores of the stage's largest attention
    would take at these sizes, were they held.
    """

    library: Library
    version: str
    targets: tuple[str, ...]
    sizes: dict[str, SizeRange]
    seconds: float
    layers: dict[str, int]
    attention: AttentionForm
    parity: float
    activation_bytes: int | None
    largest_scores_bytes: int

    def save(self, engine: Path) -> None:
        """engine: the file this is about."""
        _beside(engine).write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def of(cls, files: BundleFiles, engine: str) -> EngineRecord:
        """Of an engine in a bundle. Raises BundleError, and ConfigError as `load`."""
        name = f"{engine}{_SUFFIX}"
        return read_dataclass(cls, parse_object(files.read(name), name), where=name)

    @classmethod
    def load(cls, engine: Path) -> EngineRecord:
        """Raises ConfigError when it is missing or has unknown or missing fields."""
        path = _beside(engine)
        return read_dataclass(cls, read_json(path), where=path.name)


def _beside(engine: Path) -> Path:
    return engine.with_name(f"{engine.name}{_SUFFIX}")


def check_sizes(stage: str, sizes: Mapping[str, int], ranges: Mapping[str, SizeRange]) -> None:
    """Raises EngineError when an engine was not built for these sizes of what varies."""
    for name, size in sizes.items():
        fits = ranges[name]
        if not fits.least <= size <= fits.most:
            raise EngineError(
                f"Stage {stage}: {name} is {size}, but its engine was built for {fits.least} to {fits.most}. Ask with "
                "fewer or smaller inputs, or export with --engine onnxruntime or torch, which take any size."
            )
