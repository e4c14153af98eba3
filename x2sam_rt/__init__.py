"""x2sam-rt: a trained X2SAM checkpoint as engines, run as a live stream in fixed memory."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from x2sam_rt.config import ModelConfig
    from x2sam_rt.model.frame_layout import Layout
    from x2sam_rt.runtime.asking import ReAsk
    from x2sam_rt.runtime.results import FrameResult, Segment
    from x2sam_rt.runtime.runtime import Runtime
    from x2sam_rt.runtime.session import VideoSession
    from x2sam_rt.tasks.instruction import Instruction, PostProcessOptions
    from x2sam_rt.tasks.regions import Prompt

__all__ = [
    "FrameResult",
    "Instruction",
    "Layout",
    "ModelConfig",
    "PostProcessOptions",
    "Prompt",
    "ReAsk",
    "Runtime",
    "Segment",
    "VideoSession",
]

_HOME = {
    "Instruction": "x2sam_rt.tasks.instruction",
    "FrameResult": "x2sam_rt.runtime.results",
    "Layout": "x2sam_rt.model.frame_layout",
    "ModelConfig": "x2sam_rt.config",
    "PostProcessOptions": "x2sam_rt.tasks.instruction",
    "Prompt": "x2sam_rt.tasks.regions",
    "ReAsk": "x2sam_rt.runtime.asking",
    "Runtime": "x2sam_rt.runtime.runtime",
    "Segment": "x2sam_rt.runtime.results",
    "VideoSession": "x2sam_rt.runtime.session",
}


def __getattr__(name: str) -> Any:
    """Loads public names at first use: `x2sam-rt --help` must not wait for PyTorch."""
    if name == "__version__":
        return version("x2sam-rt")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
