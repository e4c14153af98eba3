"""Builds a stage's engine: our graph, changed and checked on the CPU, through TensorRT's parser and builder."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsInt

import onnx
from torch import nn

from x2sam_rt.errors import EngineError
from x2sam_rt.export.onnx import save_graph, stage_graph
from x2sam_rt.export.tensorrt.bodies import OPSET
from x2sam_rt.export.tensorrt.graph import attend_online, tensorrt_graph
from x2sam_rt.export.tensorrt.network import (
    Network,
    Scores,
    attention_layers,
    attention_scores,
    layers_by_precision,
    parse_network,
    shape_at,
)
from x2sam_rt.export.tensorrt.parity import check_parity, largest_error, run_on_cpu, run_pytorch
from x2sam_rt.runtime.bundle import StageSpec
from x2sam_rt.runtime.engines.tensorrt_build import AttentionForm, EngineRecord, SizeRange
from x2sam_rt.runtime.engines.tensorrt_library import IS_RTX, LIBRARY, MESSAGES, VERSION, trt

# What a builder is doing, and how much of it is done, 0…1.
OnProgress = Callable[[str, float], None]

# Scores of one attention that an engine may hold. Those of the mask decoder (200 queries, 8 heads, 256² keys) are
# 0.2 GB in bf16; of self-attention on 256² tokens, 8.6 GB.
SCORES_LIMIT = 2**30
_ACTIVATION = re.compile(r"Total Activation Memory: (\d+) bytes")


@dataclass(frozen=True)
class BuildOptions:
    """targets: compute capabilities, resolved. sizes: of the contracts' varying dimensions, by name. scores_limit: of
    one attention's scores that an engine may hold, bytes. timing_cache: a file to read kernel timings from and keep
    them in, on TensorRT itself; TensorRT for RTX times nothing when it builds."""

    targets: tuple[str, ...]
    sizes: dict[str, SizeRange]
    scores_limit: int = SCORES_LIMIT
    timing_cache: Path | None = None


@dataclass(frozen=True)
class BuiltStage:
    """error: of the changed graph in fp32 on the CPU against PyTorch; the engine itself cannot run where it is built.
    parity: of the changed graph against the original."""

    record: EngineRecord
    error: float
    parity: float


class Progress(trt.IProgressMonitor):
    """Hands the builder's outermost phase on; the phases within it say little to people."""

    def __init__(self, on_progress: OnProgress) -> None:
        trt.IProgressMonitor.__init__(self)
        self._on_progress = on_progress
        self._outermost: tuple[str, int] | None = None

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: SupportsInt) -> None:
        if parent_phase is None:
            self._outermost = (phase_name, int(num_steps))

    def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
        if self._outermost is not None and phase_name == self._outermost[0]:
            self._on_progress(phase_name, (int(step) + 1) / self._outermost[1])
        return True

    def phase_finish(self, phase_name: str) -> None:
        if self._outermost is not None and phase_name == self._outermost[0]:
            self._on_progress(phase_name, 1.0)
            self._outermost = None


def build_stage(
    module: nn.Module,
    reference: nn.Module,
    spec: StageSpec,
    options: BuildOptions,
    path: Path,
    on_progress: OnProgress = lambda phase, done: None,
) -> BuiltStage:
    """Writes a stage's engine to `path`. module: the stage with weights in the contract's precision; reference: the
    same in fp32.

    Raises EngineError when the stage cannot be exported, changed, parsed or built, when the changed graph computes
    something else, or when the engine would hold an attention's scores beyond the limit.
    """
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{spec.name}.") as temporary:
        folder = Path(temporary)
        # One graph's weights at a time: those of a visual tower are gigabytes.
        original = stage_graph(module, spec, OPSET)
        expected = run_on_cpu(original, spec, folder / "original.onnx")
        graphs = _changed(original, spec, options, folder)
        del original
        computed = run_on_cpu(graphs.on_cpu, spec, folder / "changed.onnx")
        parity = check_parity(spec.name, computed, expected)
        error = largest_error(computed, run_pytorch(reference, spec))
        network, attention, scores = _parsed(graphs.built, spec, folder), graphs.attention, graphs.scores
        del graphs
    started = time.perf_counter()
    plan = build_plan(network, scores, options, on_progress)
    record = EngineRecord(
        stage=spec.name,
        seconds=round(time.perf_counter() - started, 3),
        layers=layers_by_precision(network),
        attention=attention,
        activation_bytes=activation_bytes(),
        largest_scores_bytes=max((score.num_bytes for score in scores), default=0),
    )
    refuse_held_scores(record, options.scores_limit)
    path.write_bytes(plan)
    return BuiltStage(record, error, parity)


@dataclass(frozen=True, eq=False)
class _Graphs:
    """built: what TensorRT gets. on_cpu: the same for ONNX Runtime, which holds the scores of an Attention node: those
    beyond the limit go piece by piece there. scores: what each attention's would take."""

    attention: AttentionForm
    built: onnx.ModelProto
    on_cpu: onnx.ModelProto
    scores: list[Scores]


def _changed(original: onnx.ModelProto, spec: StageSpec, options: BuildOptions, folder: Path) -> _Graphs:
    fused = tensorrt_graph(original)
    scores = attention_scores(_parsed(fused, spec, folder), options.sizes)
    large = [number for number, score in enumerate(scores) if score.num_bytes > options.scores_limit]
    in_pieces = attend_online(fused, large) if large else fused
    # In fp32 there is no dedicated kernel for an Attention node.
    if large and all(tensor.dtype != "bfloat16" for tensor in spec.inputs):
        return _Graphs("online", in_pieces, in_pieces, scores)
    return _Graphs("fused", fused, in_pieces, scores)


def _parsed(graph: onnx.ModelProto, spec: StageSpec, folder: Path) -> Network:
    path = folder / "parsed.onnx"
    save_graph(graph, path)
    return parse_network(path, spec)


def build_plan(
    network: Network,
    scores: Sequence[Scores],
    options: BuildOptions,
    on_progress: OnProgress = lambda phase, done: None,
) -> bytes:
    """The engine, serialised. scores: of the network's attentions in the fused form.

    Raises EngineError with the library's reason.
    """
    large = {score.layer: score.num_bytes for score in scores if score.num_bytes > options.scores_limit}
    for layer in attention_layers(network):
        # Not decomposable: run by a dedicated kernel, which holds no scores, or not built at all.
        layer.attention.decomposable = layer.name not in large
    MESSAGES.clear()
    config = _config(network, options, on_progress)
    plan = network.builder.build_serialized_network(network.definition, config)
    if plan is None:
        raise EngineError(_build_failure(network.spec.name, options, large))
    _keep_timings(config, options.timing_cache)
    return bytes(plan)


def _config(network: Network, options: BuildOptions, on_progress: OnProgress) -> trt.IBuilderConfig:
    config = network.builder.create_builder_config()
    config.progress_monitor = Progress(on_progress)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the engine report
    if IS_RTX:
        config.num_compute_capabilities = len(options.targets)
        for index, target in enumerate(options.targets):
            config.set_compute_capability(trt.ComputeCapability.__members__[target.upper()], index)
    elif options.timing_cache is not None:
        known = options.timing_cache.read_bytes() if options.timing_cache.exists() else b""
        config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False)
    if any(isinstance(dim, str) for tensor in network.spec.inputs for dim in tensor.shape):
        config.add_optimization_profile(_profile(network, options))
    return config


def _profile(network: Network, options: BuildOptions) -> trt.IOptimizationProfile:
    profile = network.builder.create_optimization_profile()
    for tensor in network.spec.inputs:
        least, best, most = (shape_at(tensor, options.sizes, which) for which in ("least", "best", "most"))
        profile.set_shape(tensor.name, trt.Dims(least), trt.Dims(best), trt.Dims(most))
    return profile


def _build_failure(stage: str, options: BuildOptions, large: dict[str, int]) -> str:
    reason = MESSAGES.errors
    message = f"Stage {stage}: {LIBRARY} {VERSION} builds no engine for {', '.join(options.targets)}: {reason}"
    if large and "dedicated kernel" in reason:
        held = max(large.values()) / 2**30
        message += (
            f". Without such a kernel the engine would hold {held:.1f} GiB of attention scores (limit "
            f"{options.scores_limit / 2**30:.1f} GiB), so it is refused. Export with --precision fp32, whose attention "
            "goes through the keys piece by piece, or with --engine torch."
        )
    return message


def activation_bytes() -> int | None:
    """What the builder said the last engine's intermediate tensors take, at the largest sizes."""
    found = [match for message in MESSAGES.messages if (match := _ACTIVATION.search(message))]
    return int(found[-1].group(1)) if found else None


def refuse_held_scores(record: EngineRecord, limit: int) -> None:
    """Raises EngineError when an engine's memory shows, or leaves open, that it holds scores beyond the limit."""
    scores, activation = record.largest_scores_bytes, record.activation_bytes
    if scores > limit and (activation is None or activation >= scores):
        found = "is not known" if activation is None else f"is {activation / 2**30:.2f} GiB"
        raise EngineError(
            f"Stage {record.stage}: the memory of its engine {found}; its attention's scores would be "
            f"{scores / 2**30:.2f} GiB, and at most {limit / 2**30:.2f} GiB may be held. The engine is refused: "
            f"{LIBRARY} {VERSION} seems to compute them whole. Export with --engine torch."
        )


def _keep_timings(config: trt.IBuilderConfig, path: Path | None) -> None:
    if path is not None and not IS_RTX:
        path.write_bytes(bytes(config.get_timing_cache().serialize()))
