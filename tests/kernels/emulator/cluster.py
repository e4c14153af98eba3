"""A cluster of thread blocks that run together, and the order in which their warps do."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emulator.block import Block
from emulator.steps import Code
from emulator.warp import Hazard, Warp

if TYPE_CHECKING:
    from emulator.device import Device

Triple = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Launch:
    """What all blocks of a launch share. parameters: the address of the kernel's arguments."""

    code: Code
    device: Device
    grid: Triple
    threads: int
    dynamic_bytes: int
    parameters: int


class Cluster:
    """Blocks next to each other along x, from `first` on. events: how often anything happened that others may see."""

    def __init__(self, launch: Launch, first: Triple) -> None:
        x, y, z = first
        self.random = random.Random(f"{launch.device.seed} {first}")
        self.events, self.generation = 0, 0
        self.arrived: list[Warp] = []
        self.blocks = [Block(self, rank, (x + rank, y, z), launch) for rank in range(launch.code.kernel.cluster)]
        self.warps = [warp for block in self.blocks for warp in block.warps]

    def run(self) -> None:
        """Warps take turns in a random order, of random length; copies arrive when they please."""
        quiet = 0
        while left := [warp for warp in self.warps if not warp.finished]:
            before = self.events
            self.random.shuffle(left)
            stopped = [warp.run(self.random.randrange(1, warp.pace)) is not None for warp in left]
            stuck = all(stopped) and self.events == before
            self._copies_arrive(stuck)
            self._copies_leave()
            quiet = quiet + 1 if stuck and self.events == before else 0
            if quiet > 2:
                raise Hazard(f"deadlock: {self._where(left)}")
        for block in self.blocks:
            block.check_end()

    def _copies_arrive(self, stuck: bool) -> None:
        for block in self.blocks:
            if block.copies and (stuck or self.random.random() < 0.3):
                block.arrives(block.copies.pop(self.random.randrange(len(block.copies))))

    def _copies_leave(self) -> None:
        for block in self.blocks:
            if block.departures and self.random.random() < 0.3:
                departure = self.random.choice(block.departures)
                block.reads(departure) if departure.data is None else block.lands(departure)

    def _where(self, warps: list[Warp]) -> str:
        places = [f"block {warp.block.index} warp {warp.number} at {warp.where()}" for warp in warps]
        states = [f"{block.index}: {block.barriers}" for block in self.blocks]
        return "; ".join(places + states)

    def arrive(self, warp: Warp) -> None:
        """barrier.cluster.arrive: of all warps of all blocks, once in a generation."""
        if warp in self.arrived:
            raise Hazard(f"{warp.where()}: a warp arrives twice at the cluster's barrier")
        self.arrived.append(warp)
        warp.generation = self.generation
        self.events += 1
        if len(self.arrived) == len(self.warps):
            self.generation += 1
            self.arrived = []

    def passed(self, warp: Warp) -> bool:
        """barrier.cluster.wait."""
        return self.generation > warp.generation
