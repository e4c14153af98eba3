from __future__ import annotations

import pytest
import torch

from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.stages import stage_contract
from x2sam_rt.runtime.memory_bank import MemoryBank


def bank_of(toy: Checkpoint, slots: int = 5) -> MemoryBank:
    return MemoryBank(stage_contract("memory_attention", toy.model.config, torch.float32), slots)


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_holds_the_last_frames_at_every_fill_level(toy: Checkpoint, slots: int) -> None:
    bank = bank_of(toy, slots)
    where, size = bank.slot(bank.next_slot).data_ptr(), bank.num_bytes
    for frame in range(2 * slots + 3):
        view = bank.read(frame)
        wanted = list(range(max(0, frame - slots), frame))
        pairs = zip(view.frame_offsets, view.memory, strict=True)
        held = {int(offset): float(memory.mean()) for offset, memory in pairs}
        assert held == {frame - past: float(past) for past in wanted}
        bank.slot(bank.next_slot).fill_(float(frame))
        bank.commit(frame)
    assert bank.num_bytes == size
    bank.clear()
    assert len(bank) == 0
    assert bank.slot(bank.next_slot).data_ptr() == where


def test_reading_copies_nothing(toy: Checkpoint) -> None:
    bank = bank_of(toy)
    bank.slot(bank.next_slot).fill_(3.0)
    bank.commit(0)
    view = bank.read(7)
    assert view.memory.data_ptr() == bank._memory.data_ptr()
    assert view.frame_offsets.tolist() == [7.0]


def test_skipped_frames_make_slots_older(toy: Checkpoint) -> None:
    bank = bank_of(toy)
    for frame in (0, 4):
        bank.slot(bank.next_slot).zero_()
        bank.commit(frame)
    assert sorted(bank.read(9).frame_offsets.tolist()) == [5.0, 9.0]
    assert torch.equal(bank.read(9).memory, torch.zeros_like(bank.read(9).memory))
