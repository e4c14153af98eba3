"""What every writer of results has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from x2sam_rt.runtime.orientation import Pixels
from x2sam_rt.runtime.results import FrameResult


class ResultWriter(ABC):
    """Takes a stream's results one by one, in constant memory, and publishes its output when it is closed.

    As a context manager it closes itself; left by an exception it discards its output instead, so that a half
    stream is never taken for a whole one.
    """

    @abstractmethod
    def write(self, pixels: Pixels, result: FrameResult, timestamp: float | None = None) -> None:
        """Adds a frame.

        pixels: (H, W, 3) uint8 RGB, the frame the result belongs to. timestamp: seconds into the stream, if known.
        Raises VideoError where the result does not fit the format, or cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Finishes the output and gives it its name. Raises VideoError if nothing was written to it."""

    @abstractmethod
    def discard(self) -> None:
        """Removes what was written."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.discard()
