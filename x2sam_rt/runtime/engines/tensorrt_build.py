"""What a TensorRT bundle's engines were built with and for: written by the export, read by the engines and `inspect`.

Light: imports neither TensorRT nor torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from x2sam_rt.errors import EngineError

# TensorRT for RTX builds for GPUs it does not have; TensorRT itself only for the one it runs on.
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
    """One stage's engine, as its builder described it.

    seconds: of the build. layers: of the network by precision, as asked for. activation_bytes: device memory of one
    execution context at the largest sizes; None where the builder did not say. largest_scores_bytes: what the scores
    of the stage's largest attention would take at these sizes, were they held.
    """

    stage: str
    seconds: float
    layers: dict[str, int]
    attention: AttentionForm
    activation_bytes: int | None
    largest_scores_bytes: int


@dataclass(frozen=True)
class TensorRTBuild:
    """targets: compute capabilities, "sm86". sizes: of every varying dimension of the stages, by its name."""

    library: Library
    version: str
    targets: tuple[str, ...]
    sizes: dict[str, SizeRange]
    engines: tuple[EngineRecord, ...]


def check_sizes(stage: str, sizes: Mapping[str, int], ranges: Mapping[str, SizeRange]) -> None:
    """Raises EngineError when an engine was not built for these sizes of its varying dimensions."""
    for name, size in sizes.items():
        fits = ranges[name]
        if not fits.least <= size <= fits.most:
            raise EngineError(
                f"Stage {stage}: {name} is {size}, but its engine was built for {fits.least} to {fits.most}. Ask with "
                "fewer or smaller inputs, or export with --engine onnxruntime or torch, which take any size."
            )
