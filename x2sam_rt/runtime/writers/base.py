"""What every writer of results has in common."""

from __future__ import annotations

from abc import abstractmethod

from x2sam_rt.runtime.orientation import Pixels
from x2sam_rt.runtime.replacement import PublishedOnClose
from x2sam_rt.runtime.results import FrameResult


class ResultWriter(PublishedOnClose):
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
