"""An instruction → a step that changes a warp."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import copy as shallow_copy

import numpy as np

from emulator import arithmetic, copies, tensor_cores
from emulator.arithmetic import DTYPES, Lanes
from emulator.block import REMOTE
from emulator.operands import Operands
from emulator.ptx import BYTES, Instruction, Kernel, split
from emulator.warp import AGAIN, LANES, PAUSE, SHARED_WINDOW, Hazard, Step, Warp

IGNORED = {"prefetch", "setmaxnreg", "membar", "griddepcontrol", "nanosleep", "discard", "applypriority"}


class Compiled:
    """A step, the registers it touches, the instruction it came from, and how often it ran."""

    def __init__(self, step: Step, touched: frozenset[tuple[int, int]], ins: Instruction) -> None:
        self.step, self.touched, self.text = step, touched, str(ins)[:120]
        self.may_touch_pending = ins.name == "wgmma" or (ins.name == "mov" and "{" not in self.text)
        self.runs = 0


class Code(Operands):
    """A kernel's instructions as steps."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.steps = [self._compiled(ins) for ins in kernel.instructions]

    def altered(self, kernel: Kernel, index: int) -> Code:
        """The same but for one instruction."""
        code = shallow_copy(self)
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
        if ins.name in ("ret", "exit"):
            raise NotImplementedError(f"the emulator does not know a guarded {ins}")
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
        if ins.name in IGNORED:
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
        if kind[0] == "cluster":
            return self._cluster_barrier(ins)
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

    def _cluster_barrier(self, ins: Instruction) -> Step:
        def arrive(warp: Warp) -> None:
            warp.require_all(0xFFFFFFFF, str(ins))
            warp.block.cluster.arrive(warp)

        return arrive if ins.modifiers[1] == "arrive" else lambda w: None if w.block.cluster.passed(w) else AGAIN

    def _mapa(self, ins: Instruction) -> Step:
        """An address in the shared memory of another block of the cluster."""
        write, address, rank = self.write(ins.operands[0]), *(self.read(name, "u32") for name in ins.operands[1:])
        return lambda warp: write(warp, address(warp) + (rank(warp) + np.uint32(1)) * np.uint32(REMOTE))

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
            for address, given in each(warp):
                block, at = warp.block.owner(address)
                if "expect_tx" in ins.modifiers:
                    block.expect(at, given)
                if operation == "arrive":
                    block.arrive(at, 1 if "expect_tx" in ins.modifiers else given)
                elif operation == "init":
                    block.initialise(at, given)
                elif operation == "inval":
                    block.invalidate(at)

        return run

    def _try_wait(self, ins: Instruction, each: Callable[[Warp], list[tuple[int, int]]]) -> Step:
        write = self.write(ins.operands[0])

        def run(warp: Warp) -> str | None:
            done = np.zeros(32, bool)
            done[LANES[warp.active]] = [warp.block.phase_passed(at, parity) for at, parity in each(warp)]
            write(warp, done)
            return None if done[warp.active].all() else PAUSE

        return run

    def _fence(self, ins: Instruction) -> Step:
        return (lambda warp: warp.block.fence()) if ins.modifiers[:2] == ("proxy", "async") else lambda warp: None

    def _cp(self, ins: Instruction) -> Step:
        return copies.copy(self, ins)

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
