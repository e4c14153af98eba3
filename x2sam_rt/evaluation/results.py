"""What an evaluation found, as JSON keeps it."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from x2sam_rt.evaluation.figures import Figure
from x2sam_rt.evaluation.speed import Speed
from x2sam_rt.media.atomic import atomic_file

_PACKAGES = ("x2sam-rt", "torch", "onnxruntime", "numpy")


@dataclass(frozen=True)
class PartResult:
    """memory: False where every frame was segmented as the first of its stream."""

    name: str
    examples: int
    memory: bool
    figures: tuple[Figure, ...]
    speed: Speed

    @property
    def headline(self) -> Figure:
        """The figure that stands for the part."""
        return next(figure for figure in self.figures if figure.headline)


@dataclass(frozen=True)
class VariantResult:
    """label: as in the table. slots: how many past frames the memory holds. ask: when
    instructions were asked again. speed: over all parts but the controls."""

    label: str
    bundle: str
    checkpoint_sha256: str
    backend: str
    precision: str
    memory: bool
    slots: int
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
    """limit: how many examples of each part at most. live: the language model saw first frames only."""

    dataset: str
    split: str | None
    limit: int | None
    live: bool
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
