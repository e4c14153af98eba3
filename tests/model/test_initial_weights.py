"""A fresh model holds what its initialisation says, never what the memory held before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from x2sam_rt.model.checkpoint.loading import Checkpoint
from x2sam_rt.model.x2sam import X2SAM


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """torch fills memory it hands out uninitialised with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_no_weight_is_left_uninitialised(poisoned_memory: None, toy: Checkpoint) -> None:
    assert torch.empty(2).isnan().all()
    model = X2SAM(toy.model.config)
    assert [name for name, value in model.state_dict().items() if not value.isfinite().all()] == []
