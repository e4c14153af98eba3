"""The way of a frame to the device."""

from __future__ import annotations

import torch
from torch import Tensor


class FrameUpload:
    """Brings the frames of one stream to its device. What is there already stays as it is.

    A frame of the host goes through page-locked memory, from which the GPU fetches it by itself while the host goes on:
    two pieces in turn, so that one can be filled while the other is on its way.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pieces: list[_PinnedPiece] = []

    def __call__(self, frame: Tensor) -> Tensor:
        """frame: (H, W, 3) uint8, anywhere. Returns it on the device; it may be used in the order of the current stream
        at once."""
        if frame.device == self._device:
            return frame
        if frame.is_cuda:
            return frame.to(self._device)
        return self._piece(frame.shape).send(frame, self._device)

    def _piece(self, shape: torch.Size) -> _PinnedPiece:
        if not self._pieces or self._pieces[0].shape != shape:
            self._pieces = [_PinnedPiece(shape), _PinnedPiece(shape)]
        self._pieces.reverse()
        return self._pieces[0]


class _PinnedPiece:
    """Page-locked memory of a frame's size. sent: when the GPU is done with what was last in it."""

    def __init__(self, shape: torch.Size) -> None:
        self.shape = shape
        self._memory = torch.empty(shape, dtype=torch.uint8, device="cpu", pin_memory=True)
        self._sent = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def send(self, frame: Tensor, device: torch.device) -> Tensor:
        self._sent.synchronize()  # of the frame before last: done long ago
        self._memory.copy_(frame)
        there = self._memory.to(device, non_blocking=True)
        self._sent.record(torch.cuda.current_stream(device))
        return there
