"""Copies into and out of shared memory: of boxes by the copy engine, of 4 to 16 bytes by each thread."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from emulator.ptx import Instruction, split
from emulator.warp import LANES

if TYPE_CHECKING:
    from emulator.steps import Code
    from emulator.warp import Step, Warp

Place = Callable[["Warp", int], tuple[int, list[int]]]  # of a box, as a lane sees it: its tensor map and coordinates


def copy(code: Code, ins: Instruction) -> Step:
    """cp.async: a copy, or how a thread waits for its own."""
    kind = ins.modifiers[1]
    if kind == "commit_group":
        return lambda warp: warp.copies.commit()
    if kind == "wait_group":
        return lambda warp: warp.copies.wait(warp, int(ins.operands[0], 0))
    if kind in ("ca", "cg"):
        return _pieces(code, ins)
    if kind == "bulk" and ins.modifiers[2] in ("commit_group", "wait_group"):
        return _group_of_departures(ins)
    if ins.modifiers[1:3] == ("bulk", "tensor") and "shared::cluster" in ins.modifiers:
        return _arrival(code, ins)
    if ins.modifiers[1:3] == ("bulk", "tensor") and "bulk_group" in ins.modifiers:
        return _departure(code, ins)
    raise NotImplementedError(f"the emulator does not know {ins}")


def _pieces(code: Code, ins: Instruction) -> Step:
    target, source = code.address(ins.operands[0], "u32"), code.address(ins.operands[1])
    size = int(ins.operands[2], 0)
    given = code.read(ins.operands[3], "u32") if len(ins.operands) > 3 else None

    def run(warp: Warp) -> None:
        there = warp.active if given is None else warp.active & (np.broadcast_to(given(warp), 32) > 0)
        data = np.zeros((32, size), np.uint8)
        if there.any():
            data = np.where(there[:, None], warp.block.load("global", source(warp), size, there), data)
        warp.copies.start(warp, np.broadcast_to(target(warp), 32).copy(), data)

    return run


def _arrival(code: Code, ins: Instruction) -> Step:
    target, barrier = code.address(ins.operands[0], "u32"), code.address(ins.operands[2], "u32")
    place = _place_of_box(code, ins.operands[1])
    chosen = code.read(ins.operands[3], "u16") if "multicast::cluster" in ins.modifiers else None

    def run(warp: Warp) -> None:
        for lane in LANES[warp.active]:
            source, coordinates = place(warp, lane)
            to, at = (int(np.broadcast_to(read(warp), 32)[lane]) for read in (target, barrier))
            ranks = 0 if chosen is None else int(np.broadcast_to(chosen(warp), 32)[lane])
            blocks = warp.block.cluster.blocks if ranks else [warp.block]
            for block in (block for block in blocks if not ranks or ranks >> block.rank & 1):
                block.copy(source, coordinates, to, at)

    return run


def _departure(code: Code, ins: Instruction) -> Step:
    place, source = _place_of_box(code, ins.operands[0]), code.address(ins.operands[1], "u32")

    def run(warp: Warp) -> None:
        for lane in LANES[warp.active]:
            tensor_map, coordinates = place(warp, lane)
            at = int(np.broadcast_to(source(warp), 32)[lane])
            warp.departures[lane].open.append(warp.block.depart(tensor_map, coordinates, at))

    return run


def _group_of_departures(ins: Instruction) -> Step:
    commits, only_read = ins.modifiers[2] == "commit_group", "read" in ins.modifiers
    most = 0 if commits else int(ins.operands[0], 0)

    def run(warp: Warp) -> None:
        for lane in LANES[warp.active]:
            if commits:
                warp.departures[lane].commit()
            else:
                warp.departures[lane].wait(warp.block, most, only_read)

    return run


def _place_of_box(code: Code, operand: str) -> Place:
    """`[tensor map, {coordinates}]`."""
    found = re.fullmatch(r"\[\s*([%\w@]+)\s*,\s*\{(.*)\}\s*\]", operand)
    assert found is not None, operand
    tensor_map = code.read(found.group(1), "u64")
    coordinates = [code.read(name, "s32") for name in split(found.group(2))]

    def run(warp: Warp, lane: int) -> tuple[int, list[int]]:
        place = [int(np.broadcast_to(read(warp), 32)[lane]) for read in coordinates]
        return int(np.broadcast_to(tensor_map(warp), 32)[lane]), place

    return run
