"""A kernel's registers, and how a warp reads and writes what an instruction names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from emulator.arithmetic import DTYPES, Lanes
from emulator.ptx import BYTES, Kernel
from emulator.warp import Warp

Read = Callable[[Warp], Any]


class Operands:
    """rows: of each register, its size in bytes (0: a predicate) and its row in the bank of that size."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.rows: dict[str, tuple[int, int]] = {}
        counts = {0: 0, 1: 0, 2: 0, 4: 0, 8: 0}
        for name, kind in kernel.registers.items():
            size = 0 if kind == "pred" else BYTES[kind]
            self.rows[name] = size, counts[size]
            counts[size] += 1
        self.bank_sizes = {size: counts[size] for size in (1, 2, 4, 8)}
        self.predicates = counts[0]

    def read(self, operand: str, kind: str) -> Read:
        """How a warp reads the operand as this type."""
        dtype = DTYPES[kind]
        if operand.startswith("!"):
            value = self.read(operand[1:], kind)
            return lambda warp: ~value(warp)
        if operand in self.rows:
            return self._read_register(*self.rows[operand], kind)
        if operand.startswith("%"):
            name = operand[1:]
            return lambda warp: np.asarray(warp.special[name]).astype(dtype)
        if operand in self.kernel.shared:
            offset = self.kernel.shared[operand]
            return lambda warp: np.asarray(warp.block.shared_base + offset, dtype)
        constant = self.constant(operand, dtype)
        return lambda warp: constant

    def constant(self, operand: str, dtype: Any) -> Lanes:
        if operand in self.kernel.parameters:
            return np.asarray(self.kernel.parameters[operand], dtype)
        if operand[:2] in ("0f", "0F"):
            return np.asarray(int(operand[2:], 16), np.uint32).view(np.float32)
        if operand == "WARP_SZ":
            return np.asarray(32, dtype)
        return np.asarray(int(operand.rstrip("U"), 0)).astype(dtype)

    def _read_register(self, size: int, row: int, kind: str) -> Read:
        dtype = np.dtype(DTYPES[kind])
        if size == 0 or size == dtype.itemsize:
            return lambda warp: warp.views[kind][row]
        unsigned = np.dtype(f"u{dtype.itemsize}")
        return lambda warp: warp.banks[size][row].astype(unsigned).view(dtype)

    def write(self, operand: str) -> Callable[[Warp, Any], None]:
        """How a warp writes a result, of any type, to the operand. A wider register takes the sign along."""
        if operand == "_":
            return lambda warp, value: None
        size, row = self.rows[operand]

        def run(warp: Warp, value: Any) -> None:
            target = warp.views["pred"][row] if size == 0 else warp.banks[size][row]
            value = np.asarray(value)
            if size and value.dtype.itemsize == size:
                value = value.view(target.dtype)
            if warp.active.all():
                target[:] = value
            else:
                np.copyto(target, value, where=warp.active, casting="unsafe")

        return run

    def address(self, operand: str, kind: str = "u64") -> Read:
        """`[register or symbol + offset]`."""
        found = re.fullmatch(r"\[\s*([%$\w@.]+)\s*(?:\+\s*(-?\w+))?\s*\]", operand)
        assert found is not None, operand
        base, offset = self.read(found.group(1), kind), int(found.group(2) or "0", 0)
        return lambda warp: base(warp).astype(np.int64) + offset
