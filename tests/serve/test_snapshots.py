"""Snapshots that are kept for clients who come back: bounded in bytes and time."""

from __future__ import annotations

import pytest

from x2sam_rt.serve import snapshots
from x2sam_rt.serve.messages import Packet, Resume
from x2sam_rt.serve.snapshots import KeptSnapshots, going_on


def saved(size: int, frame: int = 0) -> Packet:
    return Packet(Resume(frames=((frame, 0),)), bytes(size), session=3)


def test_the_oldest_go_first() -> None:
    kept = KeptSnapshots(100, seconds=60)
    for name in "abc":
        kept.keep(name, saved(40))
    assert [kept.find(name) is not None for name in "abc"] == [False, True, True]
    kept.keep("b", saved(30, frame=7))  # in place of the one before, and the newest now
    assert kept.bytes == 70
    kept.keep("d", saved(50))
    assert [kept.find(name) is not None for name in "bcd"] == [True, False, True]
    kept.forget("b")
    kept.forget("b")
    assert kept.bytes == 50
    kept.keep("e", saved(101))  # larger than everything
    assert kept.bytes == 0


def test_old_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(snapshots.time, "monotonic", lambda: now[0])
    kept = KeptSnapshots(100, seconds=60)
    kept.keep("a", saved(10))
    now[0] = 59
    kept.keep("b", saved(10))
    assert kept.find("a") is not None
    now[0] = 61
    assert kept.find("a") is None
    assert kept.find("b") is not None
    assert kept.bytes == 10


def test_a_client_says_anew_how_it_goes_on() -> None:
    first = Packet(Resume(session="a", drop="never", masks="png"))
    found = going_on(first, saved(4, frame=9))
    assert found.message == Resume(frames=((9, 0),), drop="never", masks="png")
    assert found.payload == bytes(4)
