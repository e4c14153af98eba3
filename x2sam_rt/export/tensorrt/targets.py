"""The GPUs engines are built for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from x2sam_rt.errors import EngineError
from x2sam_rt.runtime.engines.tensorrt_library import IS_RTX, LIBRARY, trt

THIS_GPU = "this-gpu"
# Ampere, Ada and Blackwell, as cards for workstations have them.
DEFAULT_TARGETS = ("sm86", "sm89", "sm120")
_OLD = "sm75"  # Turing: no bf16, and TensorRT for RTX has no fp32 matrix products for it


def resolve_targets(targets: Sequence[str]) -> tuple[str, ...]:
    """Compute capabilities as "sm86", each once, in ascending order. targets: such names, or "this-gpu".

    Raises EngineError for a GPU that the installed library does not build for, or when there is none here to ask.
    """
    found = sorted({_this_gpu() if target == THIS_GPU else target.lower() for target in targets}, key=_number)
    if not IS_RTX and found != [_this_gpu()]:
        raise EngineError(
            f"TensorRT builds for the GPU it runs on only; found targets {', '.join(found)}. Export on the target "
            f'machine with --targets {THIS_GPU}, or install TensorRT for RTX: `pip install "x2sam-rt[tensorrt]"`.'
        )
    wrong = [target for target in found if IS_RTX and target not in known_targets()]
    if wrong or not found:
        raise EngineError(
            f"{LIBRARY} builds no engines for {', '.join(wrong) or 'no target'}; wanted some of "
            f"{', '.join(known_targets())}, or {THIS_GPU}. For other GPUs install TensorRT itself on the target "
            "machine and export there."
        )
    return tuple(found)


def known_targets() -> tuple[str, ...]:
    names = (name.lower() for name in trt.ComputeCapability.__members__)
    return tuple(name for name in names if name.startswith("sm") and name != _OLD)


def _number(target: str) -> tuple[int, str]:
    digits = target.removeprefix("sm")
    return (int(digits) if digits.isdigit() else 0, target)


def _this_gpu() -> str:
    if not torch.cuda.is_available():
        raise EngineError(
            f"Found no NVIDIA GPU and driver here, so --targets {THIS_GPU} means nothing; name the target's compute "
            f"capability, such as {DEFAULT_TARGETS[0]}."
        )
    return "sm{}{}".format(*torch.cuda.get_device_capability())
