"""Matrix products: where the hardware looks for a factor in shared memory, and which thread holds which element."""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from emulator.arithmetic import Lanes, floats
from emulator.ptx import Instruction, split

if TYPE_CHECKING:
    from emulator.steps import Code
    from emulator.warp import Step, Warp

BYTES = {"bf16": 2, "f16": 2, "e4m3": 1, "tf32": 4}
SWIZZLED_ROW = {0: 16, 1: 128, 2: 64, 3: 32}  # bytes, by a descriptor's layout type
SWIZZLE_BITS = {0: 0, 1: 7, 2: 3, 3: 1}


@dataclass
class Group:
    """Products committed together. reads: ranges of shared memory. registers: accumulators and factors."""

    reads: list[tuple[int, int]] = field(default_factory=list)
    registers: list[tuple[int, int]] = field(default_factory=list)


class Products:
    """A warp's products under way. They are computed when they are issued, but nobody may know yet."""

    def __init__(self) -> None:
        self.open = Group()
        self.groups: deque[Group] = deque()
        self.issued: list[tuple[str, int]] = []

    def commit(self) -> None:
        self.groups.append(self.open)
        self.open = Group()

    def wait(self, warp: Warp, most: int) -> None:
        while len(self.groups) > most:
            self.groups.popleft()
        left = [register for group in (*self.groups, self.open) for register in group.registers]
        warp.pending = dict.fromkeys(left, 0)

    def issue(self, warp: Warp, registers: list[tuple[int, int]], reads: list[tuple[int, int]]) -> None:
        self.open.registers += registers
        self.open.reads += reads
        warp.pending |= dict.fromkeys(registers, 0)

    def reading(self) -> list[tuple[int, int]]:
        return [span for group in (*self.groups, self.open) for span in group.reads]


@lru_cache(maxsize=4096)
def factor_addresses(descriptor: int, transposed: bool, rows: tuple[int, int], depth: int, size: int) -> Lanes:
    """(rows, depth) addresses of a factor's elements; transposed: its columns lie dense, not its rows.

    A descriptor: start, leading and stride offsets in 16 bytes, and the layout type. Address bits 4… are exchanged with
    bits 7… as the swizzle says.
    """
    start, leading, stride = ((descriptor >> shift & 0x3FFF) << 4 for shift in (0, 16, 32))
    layout = descriptor >> 62
    width = SWIZZLED_ROW[layout]
    row, k = np.arange(*rows)[:, None], np.arange(depth)[None, :]
    if not transposed:
        byte = k * size
        across = byte if layout else byte // 16 * leading + byte % 16
        offset = row // 8 * stride + row % 8 * width + across
    else:
        byte = row * size
        outer, inner = (leading, stride) if layout else (stride, leading)
        offset = byte // width * outer + byte % width + k // 8 * inner + k % 8 * width
    address: Lanes = start + offset
    return address ^ ((address >> 7 & SWIZZLE_BITS[layout]) << 4)


def warpgroup_product(code: Code, ins: Instruction) -> Step:
    """wgmma: D (64, n) = D + A · B, of which a warp computes its 16 rows; A in registers or in shared memory."""
    shape, _, left, right = ins.modifiers[-4:]
    n, depth = (int(part) for part in re.findall(r"\d+", shape)[1:])
    accumulators = [code.rows[name] for name in split(ins.operands[0].strip("{}"))]
    in_registers = ins.operands[1].startswith("{")
    factors = [code.rows[name] for name in split(ins.operands[1].strip("{}"))] if in_registers else []
    scales, flags = ins.operands[4:6], ins.operands[6:]
    assert scales == ("1", "1"), ins
    transposed_a, transposed_b = (False, False) if not flags else (in_registers or flags[0] == "1", flags[-1] == "1")
    read_a, read_b = code.read(ins.operands[1], "u64") if not in_registers else None, code.read(ins.operands[2], "u64")
    keep = code.read(ins.operands[3], "pred")
    targets = np.array([row for _, row in accumulators])

    def run(warp: Warp) -> None:
        warp.require_all(0xFFFFFFFF, str(ins)[:60])
        descriptor = _one(read_b(warp), ins)
        addresses = factor_addresses(descriptor, transposed_b, (0, n), depth, BYTES[right])
        b, reads = warp.block.factor(addresses, right), [_span(addresses, right)]
        if read_a is None:
            registers = warp.banks[4][[row for _, row in factors]]
            a = fragment(registers, left)
        else:
            # nobody promises that a warp's share of the product reads its own rows only
            addresses = factor_addresses(_one(read_a(warp), ins), transposed_a, (0, 64), depth, BYTES[left])
            a = warp.block.factor(addresses, left)[16 * (warp.number % 4) :][:16]
            reads.append(_span(addresses, left))
        before = result_rows(warp.views["f32"][targets]) if _one(keep(warp), ins) else np.float32(0)
        warp.views["f32"][targets] = result_registers(before + a @ b.T)
        warp.products.issue(warp, accumulators + factors, reads)
        warp.products.issued.append((shape, descriptor))

    return run


def _span(addresses: Lanes, kind: str) -> tuple[int, int]:
    return int(addresses.min()), int(addresses.max()) + BYTES[kind]


def _one(value: Any, ins: Instruction) -> int:
    low, high = np.min(value), np.max(value)
    if low != high:
        raise ValueError(f"the threads of a warp disagree about {str(ins)[:60]}")
    return int(low)


def fragment(registers: Lanes, kind: str) -> Lanes:
    """(16, depth) float32: the first factor out of 4 registers of 32 lanes, neighbouring elements in a register."""
    per = 4 // BYTES[kind]
    stored = np.ascontiguousarray(registers).view(f"u{BYTES[kind]}").reshape(2, 2, 8, 4, per)
    # (column half, row half, row, group of columns, element) → (row half, row, column half, group, element)
    return floats(np.ascontiguousarray(stored.transpose(1, 2, 0, 3, 4)).reshape(16, 8 * per), kind)


def result_rows(registers: Lanes) -> Lanes:
    """(16, n) out of n / 2 accumulator registers: (group of 8 columns, row half, column of a pair) · (row, pair)."""
    groups = len(registers) // 4
    return registers.reshape(groups, 2, 2, 8, 4).transpose(1, 3, 0, 4, 2).reshape(16, 8 * groups)


def result_registers(rows: Lanes) -> Lanes:
    groups = rows.shape[1] // 8
    return rows.reshape(2, 8, groups, 4, 2).transpose(2, 0, 4, 1, 3).reshape(4 * groups, 32)


def warp_product(code: Code, ins: Instruction) -> Step:
    """mma.sync m16n8: D = A · B + C."""
    kind = ins.modifiers[-3]
    d, a, b, c = ([code.rows[name][1] for name in split(operand.strip("{}"))] for operand in ins.operands)

    def run(warp: Warp) -> None:
        warp.require_all(0xFFFFFFFF, str(ins)[:60])
        bank, out = warp.banks[4], warp.views["f32"]
        if kind == "tf32":
            left = bank[a].reshape(2, 2, 8, 4).transpose(1, 2, 0, 3).reshape(16, 8)
            right = bank[b].reshape(2, 8, 4).transpose(0, 2, 1).reshape(8, 8)
            product = floats(left, kind) @ floats(right, kind)
        else:
            stored = np.ascontiguousarray(bank[b]).view(np.uint16).reshape(2, 8, 4, 2)
            right = floats(np.ascontiguousarray(stored.transpose(0, 2, 3, 1)).reshape(16, 8), kind)
            product = fragment(bank[a], kind) @ right
        out[d] = result_registers(result_rows(out[c]) + product)

    return run


def matrix_move(code: Code, ins: Instruction) -> Step:
    """ldmatrix, stmatrix: 8 × 8 matrices of 16 bits; rows at 8 lanes' addresses, pairs spread over a warp."""
    storing = ins.name == "stmatrix"
    place, vector = ins.operands if storing else ins.operands[::-1]
    rows = [code.rows[name][1] for name in split(vector.strip("{}"))]
    address, transposed = code.address(place, "u32"), "trans" in ins.modifiers

    def run(warp: Warp) -> None:
        warp.require_all(0xFFFFFFFF, str(ins)[:60])
        at = np.broadcast_to(address(warp), 32)
        for number, row in enumerate(rows):
            lanes = slice(8 * number, 8 * number + 8)
            if storing:
                matrix = warp.banks[4][row].copy().view(np.uint16).reshape(8, 8)
                matrix = np.ascontiguousarray(matrix.T) if transposed else matrix
                warp.block.store("shared", at[lanes], matrix.view(np.uint8), np.ones(8, bool))
            else:
                found = warp.block.load("shared", at[lanes], 16, np.ones(8, bool)).view(np.uint16)
                warp.banks[4][row] = np.ascontiguousarray(found.T if transposed else found).view(np.uint32).reshape(32)

    return run
