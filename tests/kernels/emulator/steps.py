"""An instruction → a step that changes a warp."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np

from emulator import arithmetic, tensor_cores
from emulator.arithmetic import DTYPES, Lanes
from emulator.ptx import BYTES, Instruction, Kernel, split
from emulator.warp import AGAIN, LANES, PAUSE, SHARED_WINDOW, Hazard, Step, Warp

IGNORED = {"fence", "prefetch", "setmaxnreg", "membar", "griddepcontrol", "nanosleep", "discard", "applypriority"}

Read = Callable[[Warp], Any]


class Compiled:
    """A step, the registers it touches, the instruction it came from, and how often it ran."""

    def __init__(self, step: Step, touched: frozenset[tuple[int, int]], ins: Instruction) -> None:
        self.step, self.touched, self.text = step, touched, str(ins)[:120]
        self.may_touch_pending = ins.name == "wgmma" or (ins.name == "mov" and "{" not in self.text)
        self.runs = 0


class Code:
    """A kernel's instructions as steps, and how many registers of each size a warp needs."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.rows: dict[str, tuple[int, int]] = {}  # size in bytes (0: predicate) and row in the bank
        counts = {0: 0, 1: 0, 2: 0, 4: 0, 8: 0}
        for name, kind in kernel.registers.items():
            size = 0 if kind == "pred" else BYTES[kind]
            self.rows[name] = size, counts[size]
            counts[size] += 1
        self.bank_sizes = {size: counts[size] for size in (1, 2, 4, 8)}
        self.predicates = counts[0]
        self.steps = [self._compiled(ins) for ins in kernel.instructions]

    def altered(self, kernel: Kernel, index: int) -> Code:
        """The same but for one instruction."""
        code = copy(self)
        code.kernel, code.steps = kernel, list(self.steps)
        code.steps[index] = code._compiled(kernel.instructions[index])
        return code

    def _compiled(self, ins: Instruction) -> Compiled:
        names = re.findall(r"[%$\w@]+", " ".join(ins.operands))
        touched = frozenset(self.rows[name] for name in names if name in self.rows)
        step = self._guarded(ins, self._step(ins))
        return Compiled(step, touched, ins)

    def _guarded(self, ins: Instruction, step: Step) -> Step:
        if ins.guard is None:
            return step
        row, negated = self.rows[ins.guard][1], ins.negated

        def run(warp: Warp) -> str | None:
            before, chosen = warp.active, warp.views["pred"][row]
            warp.active = before & (~chosen if negated else chosen)
            outcome = step(warp) if warp.active.any() else None
            warp.active = before
            return outcome

        return self._branch(ins, row, negated) if ins.name == "bra" else run

    def _branch(self, ins: Instruction, row: int, negated: bool) -> Step:
        target = self.kernel.labels[ins.operands[0]]

        def run(warp: Warp) -> None:
            chosen = warp.views["pred"][row]
            warp.branch(target, warp.active & (~chosen if negated else chosen))

        return run

    def _step(self, ins: Instruction) -> Step:
        if ins.name in IGNORED or (ins.name, ins.modifiers[:1]) == ("barrier", ("cluster",)):
            return lambda warp: None
        if ins.name == "mov" and any(operand.startswith("{") for operand in ins.operands):
            return self._move_vector(ins)
        if ins.name == "mov" and ins.type != "pred":
            return self._move(ins)
        computed = arithmetic.function(ins)
        if computed is not None:
            return self._compute(ins, *computed)
        maker = getattr(self, f"_{ins.name}", None)
        if maker is None:
            raise NotImplementedError(f"the emulator does not know {ins}")
        made: Step = maker(ins)
        return made

    # --- operands

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

    # --- steps

    def _compute(self, ins: Instruction, function: arithmetic.Function, types: list[str], result: str) -> Step:
        target, *others = ins.operands[0].split("|")
        reads = [self.read(operand, kind) for operand, kind in zip(ins.operands[1:], types, strict=True)]
        write, dtype = self.write(target), DTYPES[result]
        writes_other = [self.write(other) for other in others]

        def run(warp: Warp) -> None:
            value = function(*[read(warp) for read in reads])
            write(warp, value if value.dtype == dtype else value.astype(dtype))
            for other in writes_other:
                other(warp, ~value)

        return run

    def _move(self, ins: Instruction) -> Step:
        """A copy of a product's register belongs to the product as well."""
        read, write = self.read(ins.operands[1], ins.type), self.write(ins.operands[0])
        source, target = self.rows.get(ins.operands[1]), self.rows.get(ins.operands[0])

        def run(warp: Warp) -> None:
            write(warp, read(warp))
            if warp.pending and target is not None:
                group = warp.pending.get(source) if source is not None else None
                if group is not None:
                    warp.pending[target] = group
                elif target in warp.pending:
                    raise Hazard(f"{ins}: overwrites a register of a product that was not waited for")

        return run

    def _move_vector(self, ins: Instruction) -> Step:
        """Between a register and the registers of its parts, lowest first."""
        target, source = ins.operands
        whole, parts = (target, split(source[1:-1])) if source.startswith("{") else (source, split(target[1:-1]))
        bits = 8 * BYTES[ins.type] // len(parts)
        dtype = DTYPES[ins.type]
        if source.startswith("{"):
            reads, write = [self.read(part, f"u{bits}") for part in parts], self.write(target)
            return lambda warp: write(
                warp, sum((read(warp).astype(dtype) << dtype(bits * i) for i, read in enumerate(reads)), dtype(0))
            )
        read, writes = self.read(whole, ins.type), [self.write(part) for part in parts]

        def run(warp: Warp) -> None:
            value = read(warp)
            for i, write in enumerate(writes):
                write(warp, (value >> dtype(bits * i)).astype(f"u{bits // 8}"))

        return run

    def _cvta(self, ins: Instruction) -> Step:
        """Generic addresses: the host's own for global memory and parameters, a window for shared memory."""
        read, write = self.read(ins.operands[1], "u64"), self.write(ins.operands[0])
        sign = -1 if "to" in ins.modifiers else 1
        space = next((part for part in ins.modifiers if part in ("shared", "param")), "global")

        def run(warp: Warp) -> None:
            base = {"shared": SHARED_WINDOW, "param": warp.block.parameters, "global": 0}[space]
            write(warp, (read(warp).astype(np.int64) + sign * base).astype(np.uint64))

        return run

    def _ld(self, ins: Instruction) -> Step:
        targets = split(ins.operands[0].strip("{}"))
        dtype = np.dtype(DTYPES[ins.type])
        address, writes = self.address(ins.operands[1]), [self.write(target) for target in targets]

        def run(warp: Warp) -> None:
            found = warp.block.load(_space(ins), address(warp), dtype.itemsize * len(writes), warp.active)
            values = found.view(dtype)
            for i, write in enumerate(writes):
                write(warp, values[:, i])

        return run

    def _st(self, ins: Instruction) -> Step:
        sources = split(ins.operands[1].strip("{}"))
        dtype = np.dtype(DTYPES[ins.type])
        address, reads = self.address(ins.operands[0]), [self.read(source, ins.type) for source in sources]

        def run(warp: Warp) -> None:
            values = np.stack([np.broadcast_to(read(warp), 32) for read in reads], 1).astype(dtype)
            warp.block.store(_space(ins), address(warp), values.view(np.uint8), warp.active)

        return run

    def _red(self, ins: Instruction) -> Step:
        return self._add(ins, "_", ins.operands)

    def _atom(self, ins: Instruction) -> Step:
        return self._add(ins, ins.operands[0], ins.operands[1:])

    def _add(self, ins: Instruction, target: str, operands: tuple[str, ...]) -> Step:
        assert "add" in ins.modifiers, ins
        dtype = np.dtype(DTYPES[ins.type])
        address, read, write = self.address(operands[0]), self.read(operands[1], ins.type), self.write(target)

        def run(warp: Warp) -> None:
            at, value = np.broadcast_to(address(warp), 32), np.broadcast_to(read(warp), 32)
            before = np.zeros(32, dtype)
            for lane in LANES[warp.active]:
                only = lane == LANES
                before[only] = warp.block.load(_space(ins), at, dtype.itemsize, only).view(dtype)[only, 0]
                sums = (before + value).astype(dtype)[:, None]
                warp.block.store(_space(ins), at, np.ascontiguousarray(sums).view(np.uint8), only)
            write(warp, before)

        return run

    def _bra(self, ins: Instruction) -> Step:
        target = self.kernel.labels[ins.operands[0]]
        return lambda warp: warp.branch(target, warp.active)

    def _ret(self, ins: Instruction) -> Step:
        return lambda warp: warp.leave()

    _exit = _ret

    def _shfl(self, ins: Instruction) -> Step:
        target, *found = ins.operands[0].split("|")
        value, by, clamp, members = (self.read(operand, "u32") for operand in ins.operands[1:5])
        writes = self.write(target), [self.write(name) for name in found]

        def run(warp: Warp) -> None:
            warp.require_all(int(np.max(members(warp))), str(ins))
            source, inside = _shuffled(ins.modifiers[1], by(warp).astype(int), clamp(warp).astype(int))
            writes[0](warp, np.broadcast_to(value(warp), 32)[source])
            for write in writes[1]:
                write(warp, inside)

        return run

    def _vote(self, ins: Instruction) -> Step:
        read, members, write = self.read(ins.operands[1], "pred"), self.read(ins.operands[2], "u32"), None
        write = self.write(ins.operands[0])
        kind = ins.modifiers[1]

        def run(warp: Warp) -> None:
            warp.require_all(int(np.max(members(warp))), str(ins))
            votes = np.broadcast_to(read(warp), 32)[warp.active]
            ballot = np.uint32(sum(1 << int(lane) for lane in LANES[warp.active][votes]))
            write(warp, {"any": votes.any(), "all": votes.all(), "ballot": ballot}[kind])

        return run

    def _elect(self, ins: Instruction) -> Step:
        target, chosen = ins.operands[0].split("|")
        write, write_chosen = self.write(target), self.write(chosen)

        def run(warp: Warp) -> None:
            leader = LANES[warp.active][0]
            write(warp, np.uint32(leader))
            write_chosen(warp, leader == LANES)

        return run

    def _bar(self, ins: Instruction) -> Step:
        kind = [part for part in ins.modifiers if part not in ("cta", "aligned")]
        if kind[0] == "warp":
            members = self.read(ins.operands[0], "u32")
            return lambda warp: warp.require_all(int(np.max(members(warp))), str(ins))
        reduces = kind[0] == "red"
        number, *rest = ins.operands[1:] if reduces else ins.operands
        identity, count = self.read(number, "u32"), self.read(rest[0], "u32") if rest else None
        vote, write = (self.read(rest[1], "pred"), self.write(ins.operands[0])) if reduces else (None, None)

        def run(warp: Warp) -> str | None:
            threads = warp.block.threads if count is None else int(np.max(count(warp)))
            votes = True if vote is None else bool(np.broadcast_to(vote(warp), 32)[warp.active].all())
            if not warp.block.meet(warp, int(np.max(identity(warp))), threads, votes):
                return AGAIN
            if write is not None:
                write(warp, np.asarray(warp.barrier_result))
            return None

        if reduces and kind[1] != "and":
            raise NotImplementedError(str(ins))
        return run

    _barrier = _bar

    def _mbarrier(self, ins: Instruction) -> Step:
        operation = ins.modifiers[0]
        operands = ins.operands if ins.operands[0].startswith("[") else ins.operands[1:]
        address = self.address(operands[0], "u32")
        value = self.read(operands[1], "u32") if len(operands) > 1 else None

        def each(warp: Warp) -> list[tuple[int, int]]:
            given = np.ones(32, int) if value is None else np.broadcast_to(value(warp), 32)
            at = np.broadcast_to(address(warp), 32)
            return [(int(at[lane]), int(given[lane])) for lane in LANES[warp.active]]

        if operation in ("try_wait", "test_wait"):
            return self._try_wait(ins, each)

        def run(warp: Warp) -> None:
            for at, given in each(warp):
                if operation == "arrive" and "expect_tx" in ins.modifiers:
                    warp.block.expect(at, given)
                    warp.block.arrive(at, 1)
                elif operation == "expect_tx":
                    warp.block.expect(at, given)
                else:
                    {"init": warp.block.initialise, "arrive": warp.block.arrive, "inval": warp.block.invalidate}[
                        operation
                    ](at, given)

        return run

    def _try_wait(self, ins: Instruction, each: Callable[[Warp], list[tuple[int, int]]]) -> Step:
        write = self.write(ins.operands[0])

        def run(warp: Warp) -> str | None:
            done = np.zeros(32, bool)
            done[LANES[warp.active]] = [warp.block.phase_passed(at, parity) for at, parity in each(warp)]
            write(warp, done)
            return None if done[warp.active].all() else PAUSE

        return run

    def _cp(self, ins: Instruction) -> Step:
        """Copies into shared memory: of boxes by the copy engine, of 4 to 16 bytes by each thread."""
        if ins.modifiers[1] == "commit_group":
            return lambda warp: warp.copies.commit()
        if ins.modifiers[1] == "wait_group":
            return lambda warp: warp.copies.wait(warp, int(ins.operands[0], 0))
        if ins.modifiers[1] in ("ca", "cg"):
            return self._copy_of_threads(ins)
        if ins.modifiers[1:3] == ("bulk", "tensor") and "shared::cluster" in ins.modifiers:
            return self._copy_of_boxes(ins)
        raise NotImplementedError(f"the emulator does not know {ins}")

    def _copy_of_threads(self, ins: Instruction) -> Step:
        target, source = self.address(ins.operands[0], "u32"), self.address(ins.operands[1])
        size = int(ins.operands[2], 0)
        given = self.read(ins.operands[3], "u32") if len(ins.operands) > 3 else None

        def run(warp: Warp) -> None:
            there = warp.active if given is None else warp.active & (np.broadcast_to(given(warp), 32) > 0)
            data = np.zeros((32, size), np.uint8)
            if there.any():
                data = np.where(there[:, None], warp.block.load("global", source(warp), size, there), data)
            warp.copies.start(warp, np.broadcast_to(target(warp), 32).copy(), data)

        return run

    def _copy_of_boxes(self, ins: Instruction) -> Step:
        target, barrier = self.address(ins.operands[0], "u32"), self.address(ins.operands[2], "u32")
        found = re.fullmatch(r"\[\s*([%\w@]+)\s*,\s*\{(.*)\}\s*\]", ins.operands[1])
        assert found is not None, ins
        tensor_map = self.read(found.group(1), "u64")
        coordinates = [self.read(name, "s32") for name in split(found.group(2))]

        def run(warp: Warp) -> None:
            for lane in LANES[warp.active]:
                place = [int(np.broadcast_to(read(warp), 32)[lane]) for read in coordinates]
                source, to, at = (int(np.broadcast_to(read(warp), 32)[lane]) for read in (tensor_map, target, barrier))
                warp.block.copy(source, place, to, at)

        return run

    def _wgmma(self, ins: Instruction) -> Step:
        if ins.modifiers[0] == "fence":
            return lambda warp: None
        if ins.modifiers[0] == "commit_group":
            return lambda warp: warp.products.commit()
        if ins.modifiers[0] == "wait_group":
            return lambda warp: warp.products.wait(warp, int(ins.operands[0], 0))
        return tensor_cores.warpgroup_product(self, ins)

    def _mma(self, ins: Instruction) -> Step:
        return tensor_cores.warp_product(self, ins)

    def _ldmatrix(self, ins: Instruction) -> Step:
        return tensor_cores.matrix_move(self, ins)

    _stmatrix = _ldmatrix


def _space(ins: Instruction) -> str:
    return next((part.split("::")[0] for part in ins.modifiers if part.split("::")[0] in ("param", "shared", "global")),
                "generic")  # fmt: skip


def _shuffled(mode: str, by: Lanes, clamp: Lanes) -> tuple[Lanes, Lanes]:
    """Source lanes of a shuffle and whether they lie inside the segment; outside, a lane keeps its own."""
    segment, limit = clamp >> 8 & 31, clamp & 31
    last, first = (LANES & segment) | (limit & ~segment), LANES & segment
    source = {"bfly": LANES ^ by, "idx": first | (by & ~segment), "up": LANES - by, "down": LANES + by}[mode]
    inside = source >= last if mode == "up" else source <= last
    return np.where(inside, source, LANES), inside
