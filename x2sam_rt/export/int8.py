"""The heavy frame stages of a finished fp32 bundle in int8, calibrated on a video of the user's own."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from x2sam_rt.errors import EngineError, VideoError
from x2sam_rt.export.onnx import weights_name
from x2sam_rt.media.sources import open_source
from x2sam_rt.model.precision import Precision
from x2sam_rt.model.stage_contract import StageContract, Tensors
from x2sam_rt.runtime.bundle import BundleFiles, Manifest
from x2sam_rt.runtime.engines import find_backend
from x2sam_rt.runtime.engines.engine import BoundStage, Engine, Engines
from x2sam_rt.runtime.prompt_frames import read_prompt_frames
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.weights import load_model
from x2sam_rt.tasks.instruction import Instruction

# The stages whose masks survive it, and that take most of a frame's time. By the mask decoder's queries in int8 the
# embedded model's masks kept an IoU of 0.3 to 0.7 only, by the others' of 0.91 and more. The visual tower does not run
# per frame.
QUANTIZED_STAGES = ("frame_encoder", "memory_attention", "memory_encoder")
# Matrix products with weights: nearly all of a frame's arithmetic. What is between them stays fp32.
_QUANTIZED = ("MatMul", "Gemm")


@dataclass(frozen=True)
class Calibration:
    """video: whose frames the activations' ranges are measured on. prompt: what is segmented on them."""

    video: Path
    prompt: str = "the object"


def check_calibration(precision: Precision, calibration: Calibration | None) -> None:
    """Raises EngineError unless there is a video for int8, and for nothing else."""
    if precision == "int8" and calibration is None:
        raise EngineError(
            "int8 needs the ranges that activations have on your own pictures. Pass --calibrate VIDEO, a clip like "
            "those the bundle is for."
        )
    if precision != "int8" and calibration is not None:
        raise EngineError(f"{precision} needs no calibration. Leave --calibrate out, or export with --precision int8.")
    if calibration is not None and not calibration.video.exists():
        raise VideoError(f"{calibration.video}: no such file. Pass a video to calibrate on.")


def quantize_stages(
    folder: Path, manifest: Manifest, calibration: Calibration, on_step: Callable[[str], None] = lambda step: None
) -> None:
    """Replaces the graphs of QUANTIZED_STAGES of an fp32 bundle for ONNX Runtime, in place.

    Weights get a scale per column, activations one per tensor, over the range they had in the frames that a video is
    prompted with: 16 from all of it, one after the other. Ranges of its first frames alone do not hold later. Raises
    VideoError when the video cannot be read or is shorter than two frames.
    """
    with tempfile.TemporaryDirectory(dir=folder.parent) as samples:
        on_step("calibration")
        _record(folder, manifest, calibration, Path(samples))
        for stage in QUANTIZED_STAGES:
            on_step(f"{stage} in int8")
            path = folder / find_backend(manifest.backend).file.format(stage=stage)
            quantize_graph(path, Path(samples) / stage)


def _record(folder: Path, manifest: Manifest, calibration: Calibration, samples: Path) -> None:
    instruction = Instruction(phrases=(calibration.prompt,))
    files = BundleFiles(folder, manifest.files)
    with Runtime.load(folder) as runtime:
        engines = Engines.of(RecordingEngine(engine, samples) for engine in vars(runtime.engines).values())
        recorder = Runtime.assemble(files, manifest, load_model(manifest, files), engines)
        with open_source(calibration.video) as source:
            shown = read_prompt_frames(source, instruction)
        if shown is None or len(shown.frames) < 2:
            raise VideoError(
                f"{calibration.video}: calibration wants a file of at least 2 frames, so that the memory is used."
            )
        with recorder.stream(instruction, frames=shown) as session:
            for frame in shown.frames:
                session.step(frame)


@dataclass(eq=False)
class RecordingEngine:
    """An engine that keeps what it is run on, a file a call, in a folder of its stage's name."""

    engine: Engine
    samples: Path
    calls: int = 0
    recordable: bool = False
    contract: StageContract = field(init=False)
    device: torch.device = field(init=False)

    def __post_init__(self) -> None:
        self.contract, self.device = self.engine.contract, self.engine.device
        (self.samples / self.contract.name).mkdir()

    def bind(self, inputs: Tensors, outputs: Tensors) -> BoundStage:
        return partial(self._run, self.engine.bind(inputs, outputs), inputs)

    def _run(self, run: BoundStage, inputs: Tensors) -> None:
        if self.contract.name in QUANTIZED_STAGES:
            arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
            np.savez(self.samples / self.contract.name / f"{self.calls:03}.npz", **arrays)  # type: ignore[arg-type]
            self.calls += 1
        run()

    def close(self) -> None:
        self.engine.close()


class _Samples(CalibrationDataReader):  # type: ignore[misc]
    """The recorded calls of one stage, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._paths = iter(sorted(folder.glob("*.npz")))

    def get_next(self) -> dict[str, Any] | None:
        path = next(self._paths, None)
        if path is None:
            return None
        with np.load(path) as arrays:
            return dict(arrays)


def quantize_graph(path: Path, samples: Path) -> None:
    """One stage's fp32 graph, in place. samples: folder of its recorded inputs, an `.npz` a call, where the fp32 graph
    goes under its own name, which its weights' file is known by."""
    beside = path.with_name(weights_name(path))
    large = beside.exists()
    aside = samples / path.name
    path.rename(aside)
    if large:
        beside.rename(samples / beside.name)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises a pass that graphs with kernels of ours cannot take
    try:
        quantize_static(
            str(aside),
            str(path),
            _Samples(samples),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(_QUANTIZED),
            use_external_data_format=large,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        root.setLevel(level)
