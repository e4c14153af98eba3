"""A warp: its registers, the branches its lanes took, and the products it waits for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from emulator import tensor_cores
from emulator.arithmetic import DTYPES, Lanes

if TYPE_CHECKING:
    from emulator.block import Block, Departure
    from emulator.steps import Code

LANES = np.arange(32)
POISON = 0xFF  # of memory that nobody has written: NaN in every float type
SHARED_WINDOW = 1 << 56  # generic addresses from here are shared memory
AGAIN, PAUSE = "again", "pause"  # what a step may return: it could not be done yet; it was, but others should go on

Step = Callable[["Warp"], str | None]


class Hazard(Exception):
    """Something that a GPU would punish, or forgive at random."""


class ThreadCopies:
    """A warp's copies of small pieces (cp.async). They arrive as late as they may."""

    def __init__(self) -> None:
        self.open: list[tuple[Lanes, Lanes, Lanes]] = []
        self.groups: deque[list[tuple[Lanes, Lanes, Lanes]]] = deque()

    def start(self, warp: Warp, target: Lanes, data: Lanes) -> None:
        warp.block.store("shared", target, np.full_like(data, POISON), warp.active, copied=True)
        self.open.append((target, data, warp.active))

    def commit(self) -> None:
        self.groups.append(self.open)
        self.open = []

    def wait(self, warp: Warp, most: int) -> None:
        while len(self.groups) > most:
            for target, data, lanes in self.groups.popleft():
                warp.block.store("shared", target, data, lanes, copied=True)


class BoxCopies:
    """A thread's copies of boxes out of shared memory (cp.async.bulk): done as late as they may be, or earlier."""

    def __init__(self) -> None:
        self.open: list[Departure] = []
        self.groups: deque[list[Departure]] = deque()

    def commit(self) -> None:
        self.groups.append(self.open)
        self.open = []

    def wait(self, block: Block, most: int, only_read: bool) -> None:
        while len(self.groups) > most:
            for departure in self.groups.popleft():
                block.reads(departure) if only_read else block.lands(departure)


class Warp:
    """32 threads in lockstep. Those that took another branch wait at a later instruction until the rest is there.

    active: the lanes of the instruction under way. pending: registers of products not waited for, with their group.
    """

    def __init__(self, block: Block, number: int, code: Code) -> None:
        self.block, self.number, self.code = block, number, code
        self.pc = 0
        self.active = np.ones(32, bool)
        self.waiting: dict[int, Lanes] = {}
        self.finished = False
        self.banks = {size: np.full((count, 32), -1).astype(f"u{size}") for size, count in code.bank_sizes.items()}
        self.views = {kind: self.banks[np.dtype(dtype).itemsize].view(dtype) if kind != "pred" else None
                      for kind, dtype in DTYPES.items() if np.dtype(dtype).itemsize in self.banks}  # fmt: skip
        self.views["pred"] = np.zeros((code.predicates, 32), bool)
        thread = number * 32 + LANES
        self.special = {"tid.x": thread, "ntid.x": block.threads, "laneid": LANES, "warpid": number}
        self.special |= {f"ctaid.{axis}": block.index[i] for i, axis in enumerate("xyz")}
        self.special |= {f"nctaid.{axis}": block.grid[i] for i, axis in enumerate("xyz")}
        self.special |= {"cluster_ctarank": block.rank}
        self.special |= {"tid.y": 0, "tid.z": 0, "ntid.y": 1, "ntid.z": 1}
        self.products = tensor_cores.Products()
        self.copies = ThreadCopies()
        self.departures = [BoxCopies() for _ in LANES]
        self.pending: dict[tuple[int, int], int] = {}
        # most instructions of a turn; some are slow, some run far ahead
        self.pace = block.cluster.random.choice((100, 400, 2000))
        self.generation = 0  # of the cluster's barrier it arrived at
        self.arrived = False  # at a barrier it waits at
        self.barrier_result = False

    def run(self, instructions: int) -> str | None:
        """Up to so many; returns why it stopped earlier, if it did."""
        self.block.running = self.number
        for _ in range(instructions):
            if self.finished:
                return None
            if self.waiting:
                self._converge()
            ins = self.code.steps[self.pc]
            if self.pending and not ins.touched.isdisjoint(self.pending) and not ins.may_touch_pending:
                raise Hazard(f"{ins.text}: a register of a product that was not waited for")
            self.pc += 1
            ins.runs += 1
            outcome = ins.step(self)
            if outcome is AGAIN:
                self.pc -= 1
            if outcome is not None:
                return outcome
        return None

    def where(self) -> str:
        return self.code.steps[self.pc].text[:60]

    def branch(self, target: int, taken: Lanes) -> None:
        """The lanes that take it, of the active ones."""
        if taken.all() or (taken == self.active).all():
            self.pc = target
        elif taken.any():
            self.waiting[target] = self.waiting.get(target, np.zeros(32, bool)) | taken
            self.active = self.active & ~taken

    def leave(self) -> None:
        """The active lanes are done."""
        if not self.waiting:
            self.finished = True
            self.block.happened()
            return
        self.pc = min(self.waiting)
        self.active = self.waiting.pop(self.pc)

    def _converge(self) -> None:
        """Lanes furthest behind go first, and are joined where they meet others."""
        first = min(self.waiting)
        if first < self.pc:
            self.waiting[self.pc] = self.active
            self.pc, self.active = first, self.waiting.pop(first)
        elif first == self.pc:
            self.active = self.active | self.waiting.pop(first)

    def require_all(self, members: int, what: str) -> None:
        if members != sum(1 << lane for lane in LANES[self.active]):
            raise Hazard(f"{what}: lanes {members:08x} are to meet, but others are there")
