"""Builds a stage's engine: our graph, changed and checked on the CPU, through TensorRT's parser and builder."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import SupportsInt

import onnx

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
)
from x2sam_rt.export.tensorrt.parity import check_parity, largest_error, run_on_cpu, run_pytorch
from x2sam_rt.export.tensorrt.sizes import size_ranges
from x2sam_rt.export.tensorrt.targets import DEFAULT_TARGETS, resolve_targets
from x2sam_rt.model.precision import fp32_copy
from x2sam_rt.model.stage_contract import StageContract
from x2sam_rt.runtime.engines.engine import OnProgress, StageToBuild
from x2sam_rt.runtime.engines.tensorrt_build import AttentionForm, EngineRecord, SizeRange
from x2sam_rt.runtime.engines.tensorrt_library import IS_RTX, LIBRARY, MESSAGES, VERSION, trt

# Scores of one attention that an engine may hold. Those of the mask decoder (200 queries, 8 heads, 256² keys) are
# 0.2 GB in bf16; of self-attention on 256² tokens, 8.6 GB.
SCORES_LIMIT = 2**30
_ACTIVATION = re.compile(r"Total Activation Memory: (\d+) bytes")


@dataclass(frozen=True)
class BuildOptions:
    """targets: compute capabilities, resolved. sizes: of what varies in the stage, by name. scores_limit: of one
    attention's scores that an engine may hold, bytes."""

    targets: tuple[str, ...]
    sizes: dict[str, SizeRange]
    scores_limit: int = SCORES_LIMIT


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


class _Timings:
    """What TensorRT measured of kernels while it built one stage serves the next of the same export. TensorRT for RTX
    measures nothing when it builds."""

    known: bytes = b""

    def keep(self, config: trt.IBuilderConfig) -> None:
        if not IS_RTX:
            self.known = bytes(config.get_timing_cache().serialize())


_TIMINGS = _Timings()


def build(stage: StageToBuild, path: Path) -> float:
    """Writes a stage's engine to `path`, and its record beside it. Returns the error against PyTorch of the graph it
    was built from, in fp32 on the CPU: the engine itself need not run where it is built.

    Raises EngineError when the stage cannot be exported, changed, parsed or built, when the changed graph computes
    something else, or when the engine would hold an attention's scores beyond the limit.
    """
    contract, options = stage.contract, build_options(stage)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{contract.name}.") as temporary:
        folder = Path(temporary)
        # One graph's weights at a time: those of a visual tower are gigabytes.
        original = stage_graph(stage.module, contract, OPSET)
        expected = run_on_cpu(original, contract, folder / "original.onnx")
        changed = change_stage(original, contract, options, folder)
        del original
        computed = run_on_cpu(changed.on_cpu, contract, folder / "changed.onnx")
        parity = check_parity(contract.name, computed, expected)
        error = largest_error(computed, run_pytorch(fp32_copy(stage.module), contract))
        write_engine(changed, options, parity, path, stage.on_progress)
    return error


def build_options(stage: StageToBuild) -> BuildOptions:
    """Raises EngineError for targets that engines cannot be built for."""
    targets = resolve_targets(stage.targets or DEFAULT_TARGETS)
    return BuildOptions(targets, size_ranges(stage.contract, stage.config))


@dataclass(frozen=True, eq=False)
class ChangedStage:
    """A stage as TensorRT takes it. on_cpu: the same graph for ONNX Runtime, which holds the scores of an Attention
    node: those beyond the limit go piece by piece there. scores: what each attention's would take, were they held."""

    network: Network
    attention: AttentionForm
    scores: list[Scores]
    on_cpu: onnx.ModelProto


def change_stage(
    original: onnx.ModelProto, contract: StageContract, options: BuildOptions, folder: Path
) -> ChangedStage:
    """original: the exported graph. folder: for files that are of no use afterwards."""
    fused = tensorrt_graph(original)
    network = _parsed(fused, contract, folder)
    scores = attention_scores(network, options.sizes)
    large = [number for number, score in enumerate(scores) if score.num_bytes > options.scores_limit]
    if not large:
        return ChangedStage(network, "fused", scores, fused)
    in_pieces = attend_online(fused, large)
    if any(tensor.dtype == "bfloat16" for tensor in contract.inputs):
        return ChangedStage(network, "fused", scores, in_pieces)
    # In fp32 there is no dedicated kernel for an Attention node.
    return ChangedStage(_parsed(in_pieces, contract, folder), "online", scores, in_pieces)


def write_engine(
    changed: ChangedStage, options: BuildOptions, parity: float, path: Path, on_progress: OnProgress
) -> None:
    """Builds the engine and writes it with its record, of which parity is part. Raises EngineError."""
    network, started = changed.network, time.perf_counter()
    plan = build_plan(network, changed.scores, options, on_progress)
    record = EngineRecord(
        library=LIBRARY,
        version=VERSION,
        targets=options.targets,
        sizes=options.sizes,
        seconds=round(time.perf_counter() - started, 3),
        layers=layers_by_precision(network),
        attention=changed.attention,
        parity=parity,
        activation_bytes=activation_bytes(),
        largest_scores_bytes=max((score.num_bytes for score in changed.scores), default=0),
    )
    refuse_held_scores(network.contract.name, record, options.scores_limit)
    path.write_bytes(plan)
    record.save(path)


def _parsed(graph: onnx.ModelProto, contract: StageContract, folder: Path) -> Network:
    path = folder / "parsed.onnx"
    save_graph(graph, path)
    return parse_network(path, contract)


def build_plan(
    network: Network,
    scores: Sequence[Scores],
    options: BuildOptions,
    on_progress: OnProgress = lambda what, done: None,
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
        raise EngineError(_build_failure(network.contract.name, options, large))
    _TIMINGS.keep(config)
    return bytes(plan)


def _config(network: Network, options: BuildOptions, on_progress: OnProgress) -> trt.IBuilderConfig:
    config = network.builder.create_builder_config()
    config.progress_monitor = Progress(on_progress)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for the engine report
    if IS_RTX:
        config.num_compute_capabilities = len(options.targets)
        for index, target in enumerate(options.targets):
            config.set_compute_capability(trt.ComputeCapability.__members__[target.upper()], index)
    else:
        config.set_timing_cache(config.create_timing_cache(_TIMINGS.known), ignore_mismatch=False)
    if network.contract.varying:
        config.add_optimization_profile(_profile(network, options))
    return config


def _profile(network: Network, options: BuildOptions) -> trt.IOptimizationProfile:
    profile = network.builder.create_optimization_profile()
    ranges = options.sizes.items()
    least, best, most = ({name: getattr(size, end) for name, size in ranges} for end in ("least", "best", "most"))
    for tensor in network.contract.inputs:
        shapes = (trt.Dims(tensor.sized(sizes)) for sizes in (least, best, most))
        profile.set_shape(tensor.name, *shapes)
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


def refuse_held_scores(stage: str, record: EngineRecord, limit: int) -> None:
    """Raises EngineError when an engine's memory shows, or leaves open, that it holds scores beyond the limit."""
    scores, activation = record.largest_scores_bytes, record.activation_bytes
    if scores > limit and (activation is None or activation >= scores):
        found = "is not known" if activation is None else f"is {activation / 2**30:.2f} GiB"
        raise EngineError(
            f"Stage {stage}: the memory of its engine {found}; its attention's scores would be "
            f"{scores / 2**30:.2f} GiB, and at most {limit / 2**30:.2f} GiB may be held. The engine is refused: "
            f"{LIBRARY} {VERSION} seems to compute them whole. Export with --engine torch."
        )
