"""What an evaluation found, as JSON keeps it."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from x2sam_rt.evaluation.evaluators import Score
from x2sam_rt.evaluation.metrics import State
from x2sam_rt.evaluation.segmenter import Prediction
from x2sam_rt.media.atomic import atomic_file
from x2sam_rt.runtime.results import FrameResult

_PACKAGES = ("x2sam-rt", "torch", "onnxruntime", "numpy")


@dataclass(frozen=True)
class Speed:
    """Milliseconds. frame_p50_ms, frame_p95_ms: a frame from its pixels to its masks, without the instruction; the
    first frame of a clip, which remembers nothing, counts only where there are no others (images). instruction_p50_ms:
    what the language side takes for an instruction, the writing of captions and answers included. asking_mean_ms: what
    asking again costs, shared out over all frames of videos but the first ones. None: no such thing was timed. frames:
    how many the percentiles come from.
    """

    frame_p50_ms: float | None
    frame_p95_ms: float | None
    instruction_p50_ms: float | None
    asking_mean_ms: float | None
    frames: int


class SpeedMeter:
    """Collects the times of predictions."""

    def __init__(self) -> None:
        self._first: list[float] = []
        self._later: list[float] = []
        self._instructions: list[float] = []
        self._asking: list[float] = []

    def watch(self, prediction: Prediction) -> Prediction:
        """The same prediction, timed while one goes through its frames."""
        self._instructions.append(prediction.instruction_ms)
        return replace(prediction, frames=self._timed(prediction))

    def state(self) -> State:
        """[first frames, later frames, instructions, asking again], in milliseconds."""
        return [[round(one, 3) for one in times] for times in self._all]

    def merge(self, state: State) -> None:
        for times, more in zip(self._all, state, strict=True):
            times += more

    @property
    def _all(self) -> tuple[list[float], ...]:
        return self._first, self._later, self._instructions, self._asking

    def speed(self) -> Speed:
        frames = self._later or self._first
        return Speed(
            _percentile(frames, 50),
            _percentile(frames, 95),
            _percentile(self._instructions, 50),
            float(np.mean(self._asking)) if self._asking else None,
            len(frames),
        )

    def _timed(self, prediction: Prediction) -> Iterator[FrameResult]:
        for result in prediction.frames:
            stages = [milliseconds for stage, milliseconds in result.timings.items() if stage != "language"]
            if stages:  # none where the model drew no masks
                (self._later if result.index else self._first).append(sum(stages))
            if result.index:
                self._asking.append(result.timings.get("language", 0.0))
            yield result


def _percentile(milliseconds: list[float], percent: int) -> float | None:
    return float(np.percentile(milliseconds, percent)) if milliseconds else None


@dataclass(frozen=True)
class PartResult:
    """samples: measured ones; examples the protocol leaves out are `left_out`, unusable ones are named in `skipped`,
    with what is wrong with them. memory: False where every frame was segmented as the first of its stream. missing:
    scores that could not be had, and what they need."""

    name: str
    samples: int
    left_out: int
    skipped: dict[str, str]
    memory: bool
    scores: tuple[Score, ...]
    missing: tuple[str, ...]
    speed: Speed

    @property
    def headline(self) -> Score:
        """The score that stands for the part."""
        return next(score for score in self.scores if score.headline)


@dataclass(frozen=True)
class VariantResult:
    """label: as in the table. model, length, wording, ask: see `Knobs`. slots: how many past frames the memory holds.
    speed: over all parts but the controls."""

    label: str
    bundle: str
    checkpoint_sha256: str
    backend: str
    precision: str
    memory: bool
    model: str
    slots: int
    length: int | str | None
    wording: int | str | None
    ask: str
    parts: tuple[PartResult, ...]
    speed: Speed


@dataclass(frozen=True)
class Machine:
    cpu: str
    isa: str
    threads: int
    gpu: str | None
    system: str


@dataclass(frozen=True)
class Evaluation:
    """protocol: "published" or "live". limit: how many examples of each part at most."""

    dataset: str
    split: str | None
    protocol: str
    limit: int | None
    machine: Machine
    versions: dict[str, str]
    variants: tuple[VariantResult, ...]

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    def save(self, path: Path) -> None:
        with atomic_file(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")


def this_machine() -> Machine:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return Machine(
        cpu=model,
        isa=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        system=platform.platform(),
    )


def versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{package: version(package) for package in _PACKAGES}}
