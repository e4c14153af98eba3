"""The TensorRT of this installation: TensorRT for RTX, or else TensorRT itself. As far as this package uses them, their
bindings differ in little more than the module's name.

Importing this module raises EngineError when neither is installed.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, cast, get_args

from x2sam_rt.errors import EngineError
from x2sam_rt.runtime.engines.tensorrt_build import Library

__all__ = ["IS_RTX", "LIBRARY", "MESSAGES", "VERSION", "MessageLog", "trt"]

log = logging.getLogger(__name__)


def _installed() -> object:
    for name in get_args(Library):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        except ImportError as error:  # installed, but its shared libraries cannot be loaded
            raise EngineError(f"{name} is installed and cannot be loaded ({error}). Install it again.") from error
    raise EngineError(
        "Found no TensorRT, wanted TensorRT for RTX (or TensorRT, on GPUs it does not serve). Install it with "
        '`pip install "x2sam-rt[tensorrt]"`, or export with --engine onnxruntime or torch.'
    )


if TYPE_CHECKING:
    import tensorrt_rtx as trt
else:
    trt = _installed()

LIBRARY = cast(Library, trt.__name__)
VERSION: str = trt.__version__
IS_RTX = LIBRARY == "tensorrt_rtx"


_NO_DRIVER = "cudaError 35"


class MessageLog(trt.ILogger):
    """Keeps what the library says: its functions return None and leave the reason here."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._messages: list[tuple[trt.ILogger.Severity, str]] = []

    def log(self, severity: trt.ILogger.Severity, message: str) -> None:
        self._messages.append((severity, message))
        log.debug("%s", message)

    def clear(self) -> None:
        self._messages.clear()

    @property
    def messages(self) -> list[str]:
        return [message for _, message in self._messages]

    @property
    def errors(self) -> str:
        """What went wrong, in the library's words."""
        wrong = (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
        texts = [message for severity, message in self._messages if severity in wrong]
        # Where there is no GPU every error brings one about the missing driver with it, which explains nothing.
        told = [text for text in texts if _NO_DRIVER not in text] or texts
        return "; ".join(dict.fromkeys(told)) or "no reason given"


# The library takes the first logger of a process for all that follow.
MESSAGES = MessageLog()
