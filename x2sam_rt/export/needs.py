"""What an export takes, known before it begins: sizes, disk and memory."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from x2sam_rt.errors import BundleError
from x2sam_rt.model.checkpoint.loading import Checkpoint, empty_model
from x2sam_rt.model.checkpoint.stored import StoredWeights
from x2sam_rt.model.precision import Precision, dtype_of
from x2sam_rt.model.stages import STAGES, stage_weights
from x2sam_rt.runtime.bundle import Manifest
from x2sam_rt.runtime.engines import find_backend
from x2sam_rt.runtime.needs import PROCESS_BYTES, frame_bytes, free_memory
from x2sam_rt.runtime.weights import language_names, without_shared_table

# Copies of the largest stage, as fp32, that are held at once: PyTorch's fp32 reference beside the bundle's own mapped
# weights; the exporter's, and the engine's own while it is checked.
_TORCH_COPIES, _GRAPH_COPIES = 1, 2
_BYTES_PER_SECOND = 300e6


@dataclass(frozen=True)
class ExportNeeds:
    """parameters: of the language side and of each stage. disk: bytes of the bundle. memory: most bytes that the
    process takes beside what it maps from disk."""

    language_parameters: int
    stage_parameters: dict[str, int]
    disk: int
    memory: int

    @property
    def seconds(self) -> float:
        """To read, write and hash, on a common disk; building and checking stages comes on top."""
        return 3 * self.disk / _BYTES_PER_SECOND


def export_needs(checkpoint: Checkpoint, backend: str, precision: Precision, language: Precision) -> ExportNeeds:
    """Counted from shapes; nothing is read."""
    model, weights = empty_model(checkpoint.config), checkpoint.weights
    stored = without_shared_table(weights)
    spoken = language_names(stored)
    stages = {name: _count(weights, stage_weights(model, name)) for name in STAGES}
    language_count, stage_count = _count(weights, spoken), _count(weights, stored - spoken)
    own = find_backend(backend).runs_weights
    itemsize = dtype_of(precision).itemsize
    disk = language_count * dtype_of(language).itemsize + stage_count * itemsize
    if not own:  # the engines' files beside the weights
        disk += stage_count * itemsize
    copies = _TORCH_COPIES if own else _GRAPH_COPIES
    return ExportNeeds(language_count, stages, disk, PROCESS_BYTES + copies * 4 * max(stages.values()))


def verify_bytes(manifest: Manifest) -> int:
    """Of `verify --quick`: the largest stage's engine and its reference, and what both compute with."""
    model = empty_model(manifest.model)
    weights = model.state_dict()
    largest: int = max(sum(weights[name].numel() for name in stage_weights(model, stage)) for stage in STAGES)
    return PROCESS_BYTES + _GRAPH_COPIES * 4 * largest + frame_bytes(manifest.model)


def check_needs(needs: ExportNeeds, output: Path) -> None:
    """Raises BundleError when the disk or the memory that is free now cannot take the export."""
    folder = next(parent for parent in output.resolve().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if free < needs.disk:
        raise BundleError(
            f"The bundle takes {gigabytes(needs.disk)}; {folder} has {gigabytes(free)} free. Free space or choose "
            "another folder."
        )
    memory = free_memory()
    if memory is not None and memory < needs.memory:
        raise BundleError(
            f"The export takes up to {gigabytes(needs.memory)} of memory; {gigabytes(memory)} are free. Close other "
            "programs, or export with --engine torch --no-verify, which takes least."
        )


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _count(weights: StoredWeights, names: Iterable[str]) -> int:
    """Numbers in these weights."""
    return sum(weights[name].stored.numel() for name in names)
