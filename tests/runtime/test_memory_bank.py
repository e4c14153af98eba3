from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.runtime.memory_bank import MemoryBank


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_holds_the_last_frames_at_every_fill_level(toy: Checkpoint, slots: int) -> None:
    config = replace(toy.model.config, memory=replace(toy.model.config.memory, slots=slots))
    bank = MemoryBank(config)
    where, size = bank.next_slot().data_ptr(), bank.num_bytes
    for frame in range(2 * slots + 3):
        view = bank.read(frame)
        wanted = list(range(max(0, frame - slots), frame))
        held = {int(gap): float(memory.mean()) for gap, memory in zip(view.gaps, view.memory, strict=True)}
        assert held == {frame - past: float(past) for past in wanted}
        bank.next_slot().fill_(float(frame))
        bank.commit(frame)
    assert bank.num_bytes == size
    bank.clear()
    assert len(bank) == 0
    assert bank.next_slot().data_ptr() == where


def test_reading_copies_nothing(toy: Checkpoint) -> None:
    bank = MemoryBank(toy.model.config)
    bank.next_slot().fill_(3.0)
    bank.commit(0)
    view = bank.read(7)
    assert view.memory.data_ptr() == bank._memory.data_ptr()
    assert view.gaps.tolist() == [7.0]


def test_skipped_frames_make_slots_older(toy: Checkpoint) -> None:
    bank = MemoryBank(toy.model.config)
    for frame in (0, 4):
        bank.next_slot().zero_()
        bank.commit(frame)
    assert sorted(bank.read(9).gaps.tolist()) == [5.0, 9.0]
    assert torch.equal(bank.read(9).memory, torch.zeros_like(bank.read(9).memory))
