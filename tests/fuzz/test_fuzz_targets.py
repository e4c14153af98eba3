"""A short round of every fuzz target, and all inputs that were trouble once. Long rounds: `make fuzz`."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fuzz import corpus, run_one, run_random
from media import fuzz_media
from targets import TARGETS

SECONDS, MOST = 4.0, 2000


@pytest.mark.parametrize("name", TARGETS)
def test_target(name: str) -> None:
    for data in [*TARGETS[name].seeds(), *corpus(name)]:
        run_one(name, data)
    assert run_random(name, SECONDS, seed=1, most=MOST) > 20


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"index", "run_lengths", "prompt"}))
def test_seeds_are_sound(name: str) -> None:
    """What every mutant comes from passes; otherwise nothing behind the first check would be reached."""
    target = TARGETS[name]
    if name == "manifest":  # of this version's schema
        target.run(target.seeds()[-1])
    elif name == "region":  # the last one names a file that is not there
        for data in target.seeds()[:-1]:
            target.run(data)
    else:
        for data in target.seeds():
            target.run(data)


def test_media() -> None:
    assert fuzz_media(SECONDS, seed=1, most=150) == 0
