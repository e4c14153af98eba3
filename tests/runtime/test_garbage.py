from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from x2sam_rt.runtime.garbage import LongLivedObjects
from x2sam_rt.runtime.runtime import Runtime


@pytest.fixture(autouse=True)
def nothing_frozen() -> Iterator[None]:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_a_loaded_runtime_is_not_looked_through(torch_bundle: Path) -> None:
    before = len(gc.get_objects())
    with Runtime.load(torch_bundle):
        assert len(gc.get_objects()) < before / 10
        assert gc.get_freeze_count() > 0.9 * before


def test_all_is_collected_again_when_the_last_one_releases_it() -> None:
    objects = LongLivedObjects()
    objects.hold()
    objects.hold()
    objects.release()
    assert gc.get_freeze_count()
    objects.release()
    assert not gc.get_freeze_count()
