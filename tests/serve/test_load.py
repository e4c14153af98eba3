"""Many streams, one after the other and at once: memory and handles stay as they are."""

from __future__ import annotations

import os
import random
import threading

import numpy as np
import psutil
from bounded import join_all
from serving import TOKEN, Served
from websockets.sync.client import connect

from x2sam_rt.serve.messages import Asked, Frame, Open, encode

# Once by hand: X2SAM_RT_DROPPED=10000.
SESSIONS = int(os.environ.get("X2SAM_RT_DROPPED", "1000"))
FRAME = np.random.default_rng(0).integers(0, 255, (45, 61, 3), dtype=np.uint8)


def processes(served: Served) -> list[psutil.Process]:
    return [served.process, *served.workers()]


def handles(served: Served) -> list[int]:
    return [one.num_fds() for one in processes(served)]


def threads(served: Served) -> list[int]:
    return [one.num_threads() for one in processes(served)]


def memory(served: Served) -> int:
    return sum(one.memory_info().rss for one in processes(served))


def drop_some(served: Served, count: int, seed: int) -> None:
    """Opened, in part with a frame or a question at work, and never closed."""
    chance = random.Random(seed)
    at = served.url.replace("http", "ws") + "/v1/stream"
    for number in range(count):
        with connect(at, additional_headers={"Authorization": f"Bearer {TOKEN}"}, close_timeout=0.1) as wire:
            wire.send(encode(Open(instruction=Asked(phrases=("dog",)))))
            if number % 4 == 0:
                wire.send(encode(Frame(frame=0, format="rgb", height=45, width=61), FRAME.tobytes()))
            if chance.random() < 0.5:
                wire.recv(20)
            wire.socket.close()


def test_dropped_sessions_leave_nothing(served: Served) -> None:
    drop_some(served, SESSIONS // 4, seed=0)  # caches fill, pools grow
    served.wait_for("x2sam_sessions", 0)
    memory_before, handles_before, threads_before = memory(served), handles(served), threads(served)
    together = [threading.Thread(target=drop_some, args=(served, SESSIONS // 4, seed)) for seed in range(1, 4)]
    for one in together:
        one.start()
    join_all(together)
    served.wait_for("x2sam_sessions", 0)
    grown = (memory(served) - memory_before) / 2**20
    assert grown < 25, f"{grown:.1f} MiB more after {SESSIONS} sessions"
    assert all(after <= before + 3 for before, after in zip(handles_before, handles(served), strict=True))
    assert all(after <= before + 3 for before, after in zip(threads_before, threads(served), strict=True))
