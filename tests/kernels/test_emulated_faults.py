"""Faults put into the CUDA kernels' PTX: each must be noticed, or what the emulated GPU finds right proves nothing."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from checks import slot_case
from emulator.library import EmulatedLibrary
from emulator.ptx import Instruction, Kernel
from emulator.steps import Code
from emulator.warp import Hazard
from torch import Tensor

from x2sam_rt.kernels import cuda

SEEDS = range(6)  # in one order a fault may show, in another not
NOTHING = Instruction("nanosleep", (), (), None, False)
Change = Callable[[Instruction], Instruction]


def kernel_of(library: EmulatedLibrary) -> Kernel:
    found = [name for name in library.device.kernels if "bfloat16" in name and "Li128ELb0E" in name]
    assert len(found) == 1
    return library.device.kernels[found[0]]


@contextmanager
def altered(library: EmulatedLibrary, index: int, change: Change) -> Iterator[None]:
    kernel, codes = kernel_of(library), library.device.codes
    before = codes[kernel.name]
    instructions = list(kernel.instructions)
    instructions[index] = change(instructions[index])
    codes[kernel.name] = before.altered(dataclasses.replace(kernel, instructions=instructions), index)
    try:
        yield
    finally:
        codes[kernel.name] = before


def operand(number: int, change: Callable[[str], str]) -> Change:
    def run(ins: Instruction) -> Instruction:
        operands = list(ins.operands)
        operands[number] = change(operands[number])
        return dataclasses.replace(ins, operands=tuple(operands))

    return run


def nothing(ins: Instruction) -> Instruction:
    return NOTHING


def swapped(registers: str) -> str:
    first, second, *rest = registers.strip("{}").split(",")
    return "{" + ",".join([second, first, *rest]) + "}"


@cache
def without_fault(library: EmulatedLibrary, tokens: int) -> tuple[Tensor, frozenset[int]]:
    """One pair of blocks takes two tiles, the second in part; stages are used three times; the last block is short.

    Returns the result, and which instructions were executed.
    """
    kernel = kernel_of(library)
    code = library.device.codes[kernel.name] = Code(kernel)
    library.reset()
    out = cuda.slot_attention(*slot_case(270, 1, tokens, 128), parts=1)
    library.raise_hazard()
    return out, frozenset(i for i, step in enumerate(code.steps) if step.runs)


@dataclasses.dataclass(frozen=True)
class Fault:
    """tokens: in a slot; blocks have 176."""

    applies: Callable[[Instruction], bool]
    change: Change
    tokens: int = 516

    def is_noticed(self, library: EmulatedLibrary, expected: Tensor) -> bool:
        for seed in SEEDS:
            library.reset(seed)
            try:
                out = cuda.slot_attention(*slot_case(270, 1, self.tokens, 128), parts=1)
                library.raise_hazard()
            except Hazard:
                return True
            if not torch.equal(out, expected):
                return True
        return False


def is_product(ins: Instruction) -> bool:
    return ins.modifiers[:1] == ("mma_async",)


def is_copy(direction: str) -> Callable[[Instruction], bool]:
    return lambda ins: ins.name == "cp" and "tensor" in ins.modifiers and direction in ins.modifiers


def is_bulk(kind: str) -> Callable[[Instruction], bool]:
    return lambda ins: ins.name == "cp" and ins.modifiers[1:3] == ("bulk", kind)


def moved(box: str) -> str:
    """To other columns."""
    return re.sub(r"\{[^,]*,", "{8,", box)


FAULTS = {
    "a wait that does not wait": Fault(
        lambda ins: ins.name == "bra" and ins.operands[0].startswith("LAB_WAIT"), nothing
    ),
    "a wait for the same phase every time": Fault(
        lambda ins: ins.name == "mbarrier" and ins.modifiers[0] == "try_wait", operand(2, lambda parity: "0")
    ),
    "a stage that is not released": Fault(
        lambda ins: ins.name == "mbarrier" and ins.modifiers == ("arrive", "shared::cluster", "b64"), nothing
    ),
    "queries that are not released": Fault(
        lambda ins: ins.name == "mbarrier" and ins.modifiers == ("arrive", "shared::cta", "b64"), nothing
    ),
    "blocks that do not wait for each other": Fault(
        lambda ins: ins.name == "barrier" and ins.modifiers[:2] == ("cluster", "wait"), nothing
    ),
    "warps that do not wait for each other": Fault(
        lambda ins: ins.name == "barrier" and ins.modifiers[:2] == ("cta", "sync"), nothing
    ),
    "half of the keys for one block only": Fault(
        lambda ins: "multicast::cluster" in ins.modifiers, operand(3, lambda blocks: "1")
    ),
    "half of the bytes expected": Fault(lambda ins: "expect_tx" in ins.modifiers, operand(2, lambda size: "4096")),
    "a product nobody waits for": Fault(
        lambda ins: ins.name == "wgmma" and ins.modifiers[0] == "wait_group",
        operand(0, lambda count: str(int(count) + 1)),
    ),
    "a product nobody commits": Fault(lambda ins: ins.name == "wgmma" and ins.modifiers[0] == "commit_group", nothing),
    "accumulators in another order": Fault(is_product, operand(0, swapped)),
    "a product added to the last one, or not": Fault(is_product, operand(3, lambda keep: f"!{keep}"), tokens=100),
    "V read the other way": Fault(lambda ins: is_product(ins) and len(ins.operands) == 7, operand(6, lambda _: "0")),
    "a copy of the wrong box": Fault(
        is_copy("shared::cluster"),
        operand(1, lambda place: place.replace("{", "{1, ", 1).rsplit(",", 1)[0] + "}]"),
    ),
    "a result to the wrong box": Fault(is_copy("bulk_group"), operand(0, moved)),
    "a result without a fence before it": Fault(
        lambda ins: ins.name == "fence" and ins.modifiers[:2] == ("proxy", "async"), nothing
    ),
    "a result nobody commits": Fault(is_bulk("commit_group"), nothing),
    "a result nobody waits for": Fault(is_bulk("wait_group"), nothing),
    "a maximum of other lanes": Fault(lambda ins: ins.name == "shfl", operand(2, lambda distance: "4")),
    "keys beyond a segment that count": Fault(
        lambda ins: ins.name == "selp" and "0fF149F2CA" in ins.operands,
        operand(2, lambda low: "0f00000000"),
        tokens=356,
    ),
    "a maximum that is a minimum": Fault(
        lambda ins: ins.name == "max" and ins.type == "f32", lambda ins: dataclasses.replace(ins, name="min")
    ),
}


@pytest.mark.usefixtures("one_pair")
@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_noticed(emulated: EmulatedLibrary, name: str) -> None:
    """At every place of the executed code where it can be made, or at four spread over them."""
    fault, kernel = FAULTS[name], kernel_of(emulated)
    expected, executed = without_fault(emulated, fault.tokens)
    places = [i for i, ins in enumerate(kernel.instructions) if fault.applies(ins) and i in executed]
    assert places, name
    unnoticed = []
    for index in places[:: -(-len(places) // 4)]:
        with altered(emulated, index, fault.change):
            if not fault.is_noticed(emulated, expected):
                unnoticed.append(f"{index}: {kernel.instructions[index]}"[:100])
    assert not unnoticed, name
