"""The CPU kernels on 64-bit Arm, in QEMU: the tests of those on this processor, with the same bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from aarch64.library import ROOT, ArmLibrary, build, missing
from test_deformable_attention import (  # noqa: F401  collected here once more
    test_edges_and_the_outside,
    test_gradients_are_as_exact_as_torch,
    test_is_as_exact_as_torch,
    test_unusable_locations_read_nothing_and_do_not_crash,
)
from test_mask_fusion import (  # noqa: F401
    test_a_query_that_sees_nothing_sees_everything,
    test_attention_masks_equal_torchs,
    test_attention_masks_of_strided_views,
    test_far_logits_stay_finite,
    test_fusion_is_as_exact_as_torch,
    test_padded_conditions_and_a_background_that_always_wins,
    test_queries_far_apart,
)
from test_memory_attention import (  # noqa: F401
    test_a_partly_filled_ring_is_read_in_place,
    test_a_slot_that_is_switched_off_weighs_nothing,
    test_a_wrapped_ring_gives_the_same_as_slots_in_order,
    test_large_scores_neither_overflow_nor_vanish,
    test_one_key_that_outweighs_a_thousand_small_ones,
    test_self_attention_is_as_exact_as_torch,
    test_slot_attention_is_as_exact_as_torch,
    test_strided_views,
    test_unusable_keys_are_not_hidden,
)

from x2sam_rt.kernels import cpu
from x2sam_rt.kernels.memory_attention import self_attention

ELF_MACHINE, AARCH64 = slice(18, 20), 183


@pytest.fixture(scope="module")
def driver() -> Path:
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    return build(ROOT / "build" / "aarch64")


@pytest.fixture(scope="module")
def arm(driver: Path) -> Iterator[ArmLibrary]:
    library = ArmLibrary(driver)
    yield library
    library.close()


@pytest.fixture(autouse=True)
def on_arm(arm: ArmLibrary, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[None]:
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and callspec.params.get("dtype") == torch.bfloat16:
        pytest.skip("the kernels have no bfloat16 for Arm")
    monkeypatch.setattr(torch.Tensor, "data_ptr", lambda tensor: arm.data_ptr(tensor))
    monkeypatch.setattr(cpu, "_shape_table", arm.shape_table)
    monkeypatch.setattr(cpu, "_call", arm.call)
    before = arm.calls
    yield
    assert arm.calls > before, "nothing ran on Arm"


def test_it_is_arm_that_computes(driver: Path, arm: ArmLibrary) -> None:
    (library,) = driver.parent.rglob("libx2sam_cpu.so")
    for file in (driver, library):
        assert int.from_bytes(file.read_bytes()[ELF_MACHINE], "little") == AARCH64
    assert arm.isa == "baseline"
    q = torch.ones(3, 32)
    assert torch.equal(self_attention(q, q, q, backend="cpu"), q)


def test_threads_do_not_change_the_result() -> None:
    q = torch.randn(300, 32, generator=torch.Generator().manual_seed(0))
    before = torch.get_num_threads()
    results = []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        results.append(self_attention(q, q, q, backend="cpu"))
    torch.set_num_threads(before)
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)
