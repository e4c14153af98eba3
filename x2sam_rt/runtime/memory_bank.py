"""The mask memory: a ring of slots, allocated once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from x2sam_rt.config import NUM_SCALES, ModelConfig


@dataclass(frozen=True, eq=False)
class MemoryView:
    """The live slots at one moment, without a copy.

    memory: (live, scales, slot tokens, D), in storage order. gaps: (live,) fp32, frames since each slot was written
    (the previous frame: 1). The order of slots means nothing to attention; only the gaps do.
    """

    memory: Tensor
    gaps: Tensor

    def __len__(self) -> int:
        return len(self.gaps)


class MemoryBank:
    """First in, first out over past frames, in memory that is taken once and never grows.

    A slot holds the memory as the encoder wrote it and the index of its frame. The temporal encoding depends on how
    long ago that was, so it enters at reading, not at writing. While the bank fills, the live slots are a prefix;
    from then on all are live and the oldest is overwritten in place.
    """

    def __init__(
        self, config: ModelConfig, dtype: torch.dtype = torch.float32, device: torch.device | None = None
    ) -> None:
        shape = (config.memory.slots, NUM_SCALES, config.slot_tokens, config.dim)
        self._memory = torch.zeros(shape, dtype=dtype, device=device)
        self._frames = torch.zeros(config.memory.slots, dtype=torch.int64)
        self._gaps = torch.zeros(config.memory.slots, dtype=torch.float32, device=device)
        self._written = 0

    def __len__(self) -> int:
        """Live slots."""
        return min(self._written, self.slots)

    @property
    def slots(self) -> int:
        return len(self._memory)

    @property
    def num_bytes(self) -> int:
        return self._memory.numel() * self._memory.element_size()

    def read(self, frame: int) -> MemoryView:
        """What frame number `frame` may look at. Valid until the next `read` or `commit`."""
        live = len(self)
        self._gaps[:live] = (frame - self._frames[:live]).to(self._gaps)
        return MemoryView(self._memory[:live], self._gaps[:live])

    def next_slot(self) -> Tensor:
        """The slot to write next, (scales, slot tokens, D): the oldest, or the first unused. `commit` after writing."""
        return self._memory[self._written % self.slots]

    def commit(self, frame: int) -> None:
        """Makes the slot last handed out the memory of frame number `frame`."""
        self._frames[self._written % self.slots] = frame
        self._written += 1

    def clear(self) -> None:
        """Forgets everything; keeps its memory."""
        self._written = 0
