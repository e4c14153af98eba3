"""A thread block: its shared memory, barriers and copies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from emulator.arithmetic import Lanes, floats
from emulator.tensor_cores import BYTES
from emulator.warp import POISON, SHARED_WINDOW, Hazard, Warp

if TYPE_CHECKING:
    from emulator.cluster import Cluster, Launch, Triple

REMOTE = 1 << 24  # addresses of the cluster's other blocks: (rank + 1) · this + the address there
MOST_TRANSACTION_BYTES = 2**20 - 1


@dataclass
class Phases:
    """An mbarrier. It passes to its next phase when all arrivals and all bytes of this one are there."""

    count: int
    left: int
    bytes: int = 0
    phase: int = 0


@dataclass
class Meeting:
    """A named barrier that some warps wait at."""

    threads: int
    arrived: list[Warp] = field(default_factory=list)
    vote: bool = True


@dataclass(frozen=True, eq=False)
class Copy:
    """Bytes on their way into shared memory."""

    target: int
    data: Lanes
    barrier: int

    def overlaps(self, low: int, high: int) -> bool:
        return self.target < high and low < self.target + len(self.data)


@dataclass(eq=False)
class Departure:
    """A box on its way out of shared memory. data: what was read of it, once it was; it lands later."""

    tensor_map: int
    place: list[int]
    source: int
    size: int
    data: Lanes | None = None

    def still_reads(self, low: int, high: int) -> bool:
        return self.data is None and self.source < high and low < self.source + self.size


class Block:
    """index, rank: its place in the grid and in its cluster."""

    def __init__(self, cluster: Cluster, rank: int, index: Triple, launch: Launch) -> None:
        self.cluster, self.rank, self.index, self.grid = cluster, rank, index, launch.grid
        self.threads, self.parameters, self.device = launch.threads, launch.parameters, launch.device
        code, device = launch.code, launch.device
        self.shared_base = device.shared_base
        self.shared = np.full(-(-(code.kernel.shared_bytes + launch.dynamic_bytes) // 16) * 16, POISON, np.uint8)
        self.barriers: dict[int, Phases] = {}
        self.meetings: dict[int, Meeting] = {}
        self.copies: list[Copy] = []
        self.departures: list[Departure] = []
        self.unfenced = np.zeros(len(self.shared), np.uint8)  # 1 + the warp that wrote it and has not fenced
        self.running = 0  # the warp whose turn it is
        self.warps = [Warp(self, number, code) for number in range(launch.threads // 32)]

    def happened(self) -> None:
        self.cluster.events += 1

    def owner(self, address: int) -> tuple[Block, int]:
        """The block of the cluster whose shared memory an address is in, and the address there."""
        rank, local = divmod(address, REMOTE)
        block = self if rank == 0 else self.cluster.blocks[rank - 1]
        if block.ended():
            raise Hazard(f"block {self.index} signals block {block.index}, which has ended")
        return block, local

    def ended(self) -> bool:
        return all(warp.finished for warp in self.warps)

    def check_end(self) -> None:
        if any(departure.data is None for departure in self.departures):
            raise Hazard(f"block {self.index} ended with copies that still have to read its shared memory")
        for departure in list(self.departures):
            self.lands(departure)
        if self.copies:
            raise Hazard(f"block {self.index} ended with {len(self.copies)} copies under way")
        if any(barrier.bytes for barrier in self.barriers.values()):
            raise Hazard(f"block {self.index} ended with bytes that a barrier still waits for: {self.barriers}")
        for warp in self.warps:
            if warp.products.reading() or warp.pending:
                raise Hazard(f"block {self.index} ended with products that nobody waited for")
            if warp.products.issued != self.warps[warp.number // 4 * 4].products.issued:
                raise Hazard(f"block {self.index}: warps of a warpgroup issued different products")

    # --- memory

    def load(self, space: str, address: Lanes, size: int, active: Lanes) -> Lanes:
        """(lanes, size) bytes; of lanes that are not active, those of one that is."""
        address = np.broadcast_to(address, active.shape)
        memory, places = self._places(space, np.where(active, address, address[active][0]), size)
        return memory[places]

    def store(self, space: str, address: Lanes, data: Lanes, active: Lanes, *, copied: bool = False) -> None:
        """copied: by cp.async, which products see without a fence: Triton's compiler relies on it."""
        memory, places = self._places(space, np.broadcast_to(address, active.shape)[active], data.shape[1])
        if memory is self.shared:
            self._check_unread(
                int(places.min()) + self.shared_base, int(places.max()) + 1 + self.shared_base, "a store"
            )
            self.unfenced[places] = 0 if copied else self.running + 1
        memory[places] = data[active]

    def _places(self, space: str, address: Lanes, size: int) -> tuple[Lanes, Lanes]:
        """The memory that the addresses are in, and (lanes, size) indices into it."""
        if space == "generic" and int(address.min()) >= SHARED_WINDOW:
            space, address = "shared", address - SHARED_WINDOW
        if (address % size).any():
            raise Hazard(f"an access of {size} bytes is misaligned")
        low, high = int(address.min()), int(address.max()) + size
        if space == "shared":
            self._check_inside(low, high)
            self._check_arrived(low, high, "an access")
            memory, base = self.shared, self.shared_base
        else:
            base = self.parameters if space == "param" else 0
            memory, base = self.device.memory.window(low + base, high + base)
            base -= self.parameters if space == "param" else 0
        return memory, (address - base)[:, None] + np.arange(size)

    def factor(self, addresses: Lanes, kind: str) -> Lanes:
        """A product's factor out of shared memory, in float32."""
        low, high = int(addresses.min()), int(addresses.max()) + BYTES[kind]
        self._check_inside(low, high)
        self._check_arrived(low, high, "a product")
        self._check_fenced(addresses - self.shared_base, "a product")
        stored = self.shared.view(f"u{BYTES[kind]}")
        return floats(stored[(addresses - self.shared_base) // BYTES[kind]], kind)

    def _check_inside(self, low: int, high: int) -> None:
        if low < self.shared_base or high > self.shared_base + len(self.shared):
            raise Hazard(f"shared memory {low}…{high} of {self.shared_base}…{self.shared_base + len(self.shared)}")

    def _check_arrived(self, low: int, high: int, what: str) -> None:
        if any(copy.overlaps(low, high) for copy in self.copies):
            raise Hazard(f"{what} reads shared memory {low}…{high} before the copy has arrived")

    def _check_unread(self, low: int, high: int, what: str) -> None:
        for warp in self.warps:
            if any(start < high and low < end for start, end in warp.products.reading()):
                raise Hazard(f"{what} overwrites shared memory {low}…{high} that a product of warp {warp.number} reads")

        if any(departure.still_reads(low, high) for departure in self.departures):
            raise Hazard(f"{what} overwrites shared memory {low}…{high} that a copy still has to read")

    def _check_fenced(self, places: Lanes | slice, what: str) -> None:
        if self.unfenced[places].any():
            warp = int(self.unfenced[places].max()) - 1
            raise Hazard(f"{what} meets what warp {warp} wrote to shared memory without a proxy fence behind it")

    # --- the copy engine

    def fence(self) -> None:
        """fence.proxy.async: products and copies see what the running warp has written to shared memory."""
        self.unfenced[self.unfenced == self.running + 1] = 0

    def copy(self, tensor_map: int, place: list[int], target: int, barrier: int) -> None:
        """Starts a tiled copy. Until it arrives its target holds NaN."""
        if self.ended():
            raise Hazard(f"a copy to block {self.index}, which has ended")
        data = self.device.tensor_map(tensor_map).box(place, target)
        low, high = target, target + len(data)
        if target % 128:
            raise Hazard(f"a copy to {target}, which is not aligned to 128 bytes")
        self._check_inside(low, high)
        self._check_unread(low, high, "a copy")
        self._check_fenced(slice(low - self.shared_base, high - self.shared_base), "a copy")
        self._phases(barrier)
        self.shared[low - self.shared_base : high - self.shared_base] = POISON
        self.copies.append(Copy(target, data, barrier))
        self.happened()

    def arrives(self, copy: Copy) -> None:
        start = copy.target - self.shared_base
        self.shared[start : start + len(copy.data)] = copy.data
        barrier = self._phases(copy.barrier)
        barrier.bytes -= len(copy.data)
        self._settle(barrier)
        self.happened()

    def depart(self, tensor_map: int, place: list[int], source: int) -> Departure:
        """Starts a tiled copy to global memory."""
        size = self.device.tensor_map(tensor_map).bytes
        if source % 128:
            raise Hazard(f"a copy from {source}, which is not aligned to 128 bytes")
        self._check_inside(source, source + size)
        self._check_arrived(source, source + size, "a copy")
        self._check_fenced(slice(source - self.shared_base, source + size - self.shared_base), "a copy")
        departure = Departure(tensor_map, place, source, size)
        self.departures.append(departure)
        return departure

    def reads(self, departure: Departure) -> None:
        if departure.data is None:
            start = departure.source - self.shared_base
            departure.data = self.shared[start : start + departure.size].copy()

    def lands(self, departure: Departure) -> None:
        self.reads(departure)
        if departure in self.departures:
            self.device.tensor_map(departure.tensor_map).write(departure.place, departure.source, departure.data)
            self.departures.remove(departure)

    # --- barriers

    def initialise(self, address: int, count: int) -> None:
        self._check_inside(address, address + 8)
        self.barriers[address] = Phases(count, count)

    def invalidate(self, address: int) -> None:
        del self.barriers[address]

    def expect(self, address: int, size: int) -> None:
        barrier = self._phases(address)
        barrier.bytes += size
        if barrier.bytes > MOST_TRANSACTION_BYTES:
            raise Hazard(f"mbarrier {address}: {barrier.bytes} bytes are more than it can count")

    def arrive(self, address: int, count: int) -> None:
        barrier = self._phases(address)
        if barrier.left < count:
            raise Hazard(f"mbarrier {address}: more arrivals than its count of {barrier.count}")
        barrier.left -= count
        self._settle(barrier)
        self.happened()

    def phase_passed(self, address: int, parity: int) -> bool:
        return self._phases(address).phase % 2 != parity % 2

    def _phases(self, address: int) -> Phases:
        if address not in self.barriers:
            raise Hazard(f"mbarrier {address} was not initialised")
        return self.barriers[address]

    def _settle(self, barrier: Phases) -> None:
        if barrier.left == 0 and barrier.bytes == 0:
            barrier.phase += 1
            barrier.left = barrier.count
            self.happened()

    def meet(self, warp: Warp, number: int, threads: int, vote: bool) -> bool:
        """A warp at a named barrier: whether all are there. `barrier_result` of each is then what they all voted."""
        if warp.arrived:
            if any(warp in meeting.arrived for meeting in self.meetings.values()):
                return False
            warp.arrived = False
            return True
        meeting = self.meetings.setdefault(number, Meeting(threads))
        if meeting.threads != threads:
            raise Hazard(f"barrier {number} is met by {meeting.threads} and by {threads} threads")
        meeting.arrived.append(warp)
        meeting.vote &= vote
        self.happened()
        if 32 * len(meeting.arrived) < threads:
            warp.arrived = True
            return False
        for other in meeting.arrived:
            other.barrier_result = meeting.vote
        del self.meetings[number]
        return True
