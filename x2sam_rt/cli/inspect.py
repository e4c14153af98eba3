"""`x2sam-rt inspect`: a bundle's manifest, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from x2sam_rt.cli.options import Bundle
from x2sam_rt.cli.terminal import console, reporting

if TYPE_CHECKING:
    from x2sam_rt.model.stage_contract import TensorSpec
    from x2sam_rt.runtime.bundle import Manifest


def inspect(bundle: Bundle) -> None:
    """Show what a bundle holds: model, stages, precision, errors at export, what it was built with."""
    from x2sam_rt.runtime.bundle import load_manifest

    with reporting():
        for table in manifest_tables(load_manifest(bundle)):
            console.print(table)


def manifest_tables(manifest: Manifest) -> Iterator[Table]:
    yield _summary(manifest)
    yield _stages(manifest)


def _summary(manifest: Manifest) -> Table:
    model, environment = manifest.model, manifest.environment
    table = Table(show_header=False, title="bundle")
    rows = {
        "checkpoint": f"{manifest.checkpoint}, SHA-256 {manifest.checkpoint_sha256[:16]}…",
        "engine": f"{manifest.backend}, {manifest.precision}",
        "input": f"{model.image_size}×{model.image_size}, {model.resize}",
        "width": f"{model.dim} channels, {model.mask_decoder.queries} queries",
        "memory": f"{model.memory.slots} slots of 3 × {model.slot_tokens} tokens",
        "language": f"{model.language_dim} channels, {model.language['text_config']['num_hidden_layers']} layers",
        "size": f"{manifest.num_bytes / 2**20:.1f} MiB, {len(manifest.files)} files",
        "built with": ", ".join(f"{name} {version}" for name, version in environment.packages.items()),
        "built on": environment.platform,
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _stages(manifest: Manifest) -> Table:
    table = Table("stage", "inputs", "outputs", "error at export", title="stages")
    for stage in manifest.stages:
        table.add_row(
            stage.name,
            "\n".join(_describe(tensor) for tensor in stage.inputs),
            "\n".join(_describe(tensor) for tensor in stage.outputs),
            f"{manifest.errors[stage.name]:.1e}",
        )
    return table


def _describe(tensor: TensorSpec) -> str:
    dtype = "" if tensor.dtype == "float32" else f" {tensor.dtype}"
    return f"{tensor.name} {'×'.join(map(str, tensor.shape))}{dtype}"
