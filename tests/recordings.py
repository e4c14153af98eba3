"""Recordings of what the published model really outputs, and how they are compared with ours."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from x2sam_rt.export.verify import mask_iou

# The random weights that `toy` was recorded with, and the tokenizer of all recordings.
FIXTURES = Path(__file__).parent / "fixtures"
RANDOM_TOY = FIXTURES / "random_toy"
Backend = Literal["torch", "onnxruntime"]
# Largest error, relative to max(1, largest reference value).
BOUNDS: dict[Backend, float] = {"torch": 1e-4, "onnxruntime": 1e-3}
MASK_IOU = 0.999
_ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True, eq=False)
class Case:
    """One recorded run."""

    name: str
    facts: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def media(self) -> Literal["image", "video"]:
        return "image" if self.facts["task"].startswith("img") else "video"

    @property
    def question(self) -> str:
        return str(self.facts["text_after_vision"]).split(_ASSISTANT)[0]

    @property
    def answer(self) -> str | None:
        """The answer that was given, or None where the model had to find it."""
        written = str(self.facts["text_after_vision"]).split(_ASSISTANT)[1]
        return (written or self.facts["forced_answer"] or "").removesuffix("<|im_end|>") or None

    def input(self, name: str) -> Tensor:
        return self.tensors[f"input.{name}"]

    def output(self, name: str) -> Tensor | None:
        return self.tensors.get(f"output.{name}")


def read_cases(folder: Path) -> list[Case]:
    cases = json.loads((folder / "config.json").read_text())["cases"]
    return [Case(name, facts, load_file(folder / f"{name}.safetensors")) for name, facts in cases.items()]


@dataclass
class Comparison:
    """Collects the largest relative error per recorded output, and which outputs were never compared."""

    case: Case
    errors: dict[str, float] = field(default_factory=dict)
    ious: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, ours: Tensor) -> None:
        reference = self.case.output(name)
        if reference is None:
            return
        difference = (ours.reshape(reference.shape).double() - reference.double()).abs().max()
        # NaN must not pass as small.
        error = float(difference / reference.abs().max().clamp_min(1)) if difference.isfinite() else float("inf")
        self.errors[name] = max(self.errors.get(name, 0.0), error)
        if "mask_logits" in name:
            self.ious[name] = mask_iou(ours.reshape(reference.shape) > 0, reference > 0)

    def untouched(self) -> list[str]:
        recorded = {name.removeprefix("output.") for name in self.case.tensors if name.startswith("output.")}
        return sorted(recorded - set(self.errors))

    def failures(self, backend: Backend) -> list[str]:
        failed = [name for name, error in self.errors.items() if error > BOUNDS[backend]]
        return failed + [f"{name} (IoU {iou:.4f})" for name, iou in self.ious.items() if iou < MASK_IOU]


def as_float(value: bool) -> Tensor:
    return torch.tensor([float(value)])
