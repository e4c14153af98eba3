"""`x2sam-rt inspect`: a bundle's manifest, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from x2sam_rt.cli.options import Bundle, CheckHashes, ModelKnob
from x2sam_rt.cli.terminal import console, reporting

if TYPE_CHECKING:
    from pathlib import Path

    from x2sam_rt.model.stage_contract import TensorSpec
    from x2sam_rt.runtime.bundle import Manifest
    from x2sam_rt.runtime.engines.tensorrt_build import EngineRecord


def inspect(
    bundle: Bundle,
    layers: Annotated[
        str | None, typer.Option(help="Print what TensorRT tells of this stage's layers, as JSON. Needs its GPU.")
    ] = None,
    knob: ModelKnob = None,
    check_hashes: CheckHashes = False,
) -> None:
    """Show what a bundle holds: model, stages, precision, errors at export, what it was built with and takes."""
    from x2sam_rt.model.knobs import ModelKnobs
    from x2sam_rt.runtime.bundle import load_manifest

    with reporting():
        manifest = load_manifest(bundle, check_hashes=check_hashes).turned(ModelKnobs.parse(knob or ()))
        if layers is not None:
            print(_engine_layers(manifest, bundle, layers))
            return
        for table in manifest_tables(manifest):
            console.print(table)
        if manifest.backend == "tensorrt":
            for table in engine_tables(manifest, bundle):
                console.print(table)


def manifest_tables(manifest: Manifest) -> Iterator[Table]:
    yield _summary(manifest)
    yield _stages(manifest)
    yield _gpu_memory(manifest)


def engine_tables(manifest: Manifest, folder: Path) -> Iterator[Table]:
    """What TensorRT's builder was asked for and said, by stage."""
    from x2sam_rt.runtime.bundle import BundleFiles
    from x2sam_rt.runtime.engines import find_backend
    from x2sam_rt.runtime.engines.tensorrt_build import EngineRecord

    files = BundleFiles(folder, manifest.files)
    names = {c.name: find_backend(manifest.backend).file.format(stage=c.name) for c in manifest.stages}
    records = {stage: EngineRecord.of(files, name) for stage, name in names.items()}
    first = next(iter(records.values()))
    title = f"engines by {first.library} {first.version} for {', '.join(first.targets)}; checked as graphs on the CPU"
    table = Table("stage", "size", "built in", "layers asked for", "attention", "activations", "sizes", title=title)
    for name, record in records.items():
        table.add_row(
            name,
            f"{manifest.files[names[name]].size / 2**20:.1f} MiB",
            f"{record.seconds:.1f} s",
            ", ".join(f"{count} {precision}" for precision, count in record.layers.items()),
            _attention(record),
            "not told" if record.activation_bytes is None else f"{record.activation_bytes / 2**20:.0f} MiB",
            ", ".join(f"{dim} {size.least}…{size.most}" for dim, size in record.sizes.items()),
        )
    yield table


def _engine_layers(manifest: Manifest, folder: Path, stage: str) -> str:
    """Raises EngineError for another backend or stage, or where the engine cannot be loaded."""
    from x2sam_rt.errors import EngineError
    from x2sam_rt.runtime.engines import find_backend

    contracts = {contract.name: contract for contract in manifest.stages}
    if manifest.backend != "tensorrt" or stage not in contracts:
        raise EngineError(
            f"Found stage {stage!r} of a bundle for {manifest.backend}; wanted one of {', '.join(contracts)} of a "
            "bundle for tensorrt."
        )
    from x2sam_rt.runtime.bundle import BundleFiles
    from x2sam_rt.runtime.device import find_device
    from x2sam_rt.runtime.engines.tensorrt_engine import TensorRTEngine

    name = find_backend(manifest.backend).file.format(stage=stage)
    engine = TensorRTEngine(contracts[stage], BundleFiles(folder, manifest.files), name, find_device("cuda"))
    text = engine.layers()
    engine.close()
    return text


def _attention(record: EngineRecord) -> str:
    if not record.largest_scores_bytes:
        return "none"
    scores = f"{record.largest_scores_bytes / 2**20:.0f} MiB of scores"
    if record.attention == "online":
        return f"piece by piece, not {scores}"
    held = record.activation_bytes is None or record.activation_bytes >= record.largest_scores_bytes
    return f"one node, {'up to' if held else 'not'} {scores}"


def _memory_needs(manifest: Manifest) -> str:
    from x2sam_rt.runtime.needs import AskedFrames, answer_bytes, frame_bytes, loaded_bytes
    from x2sam_rt.runtime.prompt_frames import PROMPT_FRAMES

    loaded, frame = loaded_bytes(manifest), frame_bytes(manifest.model)
    asked = answer_bytes(manifest, AskedFrames("video", PROMPT_FRAMES, 360, 640))
    return (
        f"at most {loaded / 1e9:.2f} GB loaded, {asked / 1e9:.2f} GB more for a question on {PROMPT_FRAMES} frames of "
        f"640×360, {frame / 1e9:.2f} GB for a frame's work; the language side stays mapped"
    )


def _gpu_memory(manifest: Manifest) -> Table:
    from x2sam_rt.runtime.needs import gpu_frame_needs, language_bytes

    needs = gpu_frame_needs(manifest.model, manifest.precision)
    setting = f"{manifest.model.image_size}², {manifest.model.memory.slots} slots, {manifest.precision}"
    table = Table(
        "MiB",
        "weights",
        "working",
        title=f"frames on a GPU, predicted for PyTorch's stages: {setting}",
        caption=f"peak {needs.peak / 2**20:,.1f} MiB: weights, {needs.buffers / 2**20:,.1f} MiB of buffers for a "
        "stream, and the work of the encoder beside the largest other stage; kernels' workspaces come on top, and the "
        f"language side with {language_bytes(manifest) / 2**20:,.0f} MiB of weights",
    )
    for name, weights in needs.weights.items():
        table.add_row(name, f"{weights / 2**20:,.1f}", f"{needs.working[name] / 2**20:,.1f}")
    return table


def _summary(manifest: Manifest) -> Table:
    model, environment = manifest.model, manifest.environment
    table = Table(show_header=False, title="bundle")
    rows = {
        "checkpoint": f"{manifest.checkpoint}, SHA-256 {manifest.checkpoint_sha256[:16]}…",
        "engine": f"{manifest.backend}, {manifest.precision}; language side in {manifest.language_precision}",
        "made for": f"NVIDIA GPUs {', '.join(manifest.targets)}" if manifest.targets else "any machine",
        "input": f"{model.image_size}×{model.image_size}, {model.resize}",
        "width": f"{model.dim} channels, {model.mask_decoder.queries} queries",
        "memory": f"{model.memory.slots} slots of {len(model.memory.scales)} × {model.slot_tokens} tokens"
        + "".join(f"; approximation: {name} {value}" for name, value in model.memory.approximations.items()),
        "language": f"{model.language_dim} channels, {model.language['text_config']['num_hidden_layers']} layers",
        "size": f"{manifest.num_bytes / 2**20:.1f} MiB, {len(manifest.files)} files",
        "takes on a CPU": _memory_needs(manifest),
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
            f"{manifest.errors[stage.name]:.1e}" if stage.name in manifest.errors else "not measured",
        )
    return table


def _describe(tensor: TensorSpec) -> str:
    dtype = "" if tensor.dtype == "float32" else f" {tensor.dtype}"
    return f"{tensor.name} {'×'.join(map(str, tensor.shape))}{dtype}"
