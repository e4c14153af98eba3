"""The mask memory: a ring of slots, allocated once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from x2sam_rt.config import Turns
from x2sam_rt.errors import SnapshotError
from x2sam_rt.model.stage_contract import StageContract
from x2sam_rt.runtime.device import CPU


@dataclass(frozen=True, eq=False)
class MemoryView:
    """The live slots at one fill level, without a copy.

    memory: (live, scales, slot tokens, D), in storage order. frame_offsets: (live,) fp32, the age of each slot (the
    previous frame's: 1). The order of slots means nothing to attention; only the offsets do.
    """

    memory: Tensor
    frame_offsets: Tensor

    def __len__(self) -> int:
        return len(self.frame_offsets)


@dataclass(frozen=True, eq=False)
class BankState:
    """A bank at rest. memory: (live, scales, slot tokens, D), in storage order. frames: of each slot. written: slots
    written since the bank was empty."""

    memory: Tensor
    frames: tuple[int, ...]
    written: int


class MemoryBank:
    """First in, first out over past frames, in memory that is taken once and never grows.

    A slot holds the memory as the encoder wrote it and the index of its frame. The temporal encoding depends on how
    long ago that was, so it enters at reading, not at writing. While the bank fills, the live slots are a prefix;
    from then on all are live and the oldest is overwritten in place.
    """

    def __init__(
        self, attention: StageContract, slots: int, device: torch.device = CPU, gaps: Turns = "frames"
    ) -> None:
        """attention: the contract of the stage that reads the bank. gaps: what a slot's age counts, frames since it was
        written or how many were, itself included."""
        self._memory = attention.input("memory").zeros(device, slots=slots)
        self._frame_offsets = attention.input("frame_offsets").zeros(device, slots=slots)
        self._frames = torch.zeros(slots, dtype=torch.int64, device=device)
        self._written, self._gaps = 0, gaps
        # What a recorded frame reads instead of the numbers it was recorded with.
        self._now, self._next = (torch.zeros(1, dtype=torch.int64, device=device) for _ in range(2))
        self._ages, self._numbers = torch.zeros_like(self._frames), torch.arange(slots, device=device)

    def __len__(self) -> int:
        """Live slots."""
        return min(self._written, self.slots)

    @property
    def slots(self) -> int:
        return len(self._memory)

    @property
    def num_bytes(self) -> int:
        return self._memory.numel() * self._memory.element_size()

    @property
    def next_slot(self) -> int:
        """Number of the slot to write next: the oldest, or the first unused. `commit` after writing."""
        return self._written % self.slots

    def slot(self, number: int) -> Tensor:
        """(scales, slot tokens, D), to be written in place."""
        return self._memory[number]

    def view(self, live: int) -> MemoryView:
        """What is read when so many slots are live: always the same memory, with offsets as of the last `read`."""
        return MemoryView(self._memory[:live], self._frame_offsets[:live])

    def read(self, frame: int) -> MemoryView:
        """What frame number `frame` may look at. Valid until the next `read` or `commit`."""
        self.announce(frame)
        self.age(len(self))
        return self.view(len(self))

    def commit(self, frame: int) -> None:
        """Makes `next_slot` the memory of frame number `frame`."""
        self._frames[self.next_slot] = frame
        self._written += 1

    @cached_property
    def staged(self) -> Tensor:
        """(scales, slot tokens, D): where a recorded frame writes its slot, whichever is next."""
        return torch.zeros_like(self._memory[0])

    def announce(self, frame: int) -> None:
        """Tells a recorded frame its number and the slot it is kept in. Afterwards `age` and `place` are work on fixed
        memory, for a graph; `count` follows when it has run."""
        self._now.fill_(frame)
        self._next.fill_(self.next_slot)

    def age(self, live: int) -> None:
        """Sets the offsets of the frame announced, as `read` does."""
        ages = self._ages[:live]
        if self._gaps == "frames":
            torch.sub(self._now, self._frames[:live], out=ages)
        else:  # slots are written in the order of their numbers
            torch.sub(self._next, self._numbers[:live], out=ages).sub_(1).remainder_(self.slots).add_(1)
        self._frame_offsets[:live].copy_(ages)

    def place(self) -> None:
        """Makes `staged` the memory of the frame announced."""
        self._memory.index_copy_(0, self._next, self.staged[None])
        self._frames.index_copy_(0, self._next, self._now)

    def count(self) -> None:
        """After `place`: one more frame was written."""
        self._written += 1

    def state(self) -> BankState:
        live = len(self)
        return BankState(self._memory[:live].clone(), tuple(self._frames[:live].tolist()), self._written)

    def restore(self, state: BankState, next_frame: int) -> None:
        """next_frame: all slots must be older. Raises SnapshotError for a state that no bank of this kind has."""
        live = min(state.written, self.slots)
        wanted = (live, *self._memory.shape[1:])
        if state.memory.shape != wanted or state.memory.dtype != self._memory.dtype or len(state.frames) != live:
            raise SnapshotError(
                f"The memory is {state.memory.dtype} {tuple(state.memory.shape)} of {len(state.frames)} frames; wanted "
                f"{self._memory.dtype} {wanted} after {state.written} frames."
            )
        if len(set(state.frames)) != live or not all(0 <= frame < next_frame for frame in state.frames):
            raise SnapshotError(f"The memory is of frames {state.frames}; wanted each once, before {next_frame}.")
        self._memory[:live].copy_(state.memory)
        self._frames[:live].copy_(torch.tensor(state.frames, dtype=torch.int64))
        self._written = state.written

    def clear(self) -> None:
        """Forgets everything; keeps its memory."""
        self._written = 0
