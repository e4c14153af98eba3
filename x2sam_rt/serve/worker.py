"""A worker: one process that owns the engines of a device, and one loop over what its sessions want.

The server sends at most one frame of a session at a time, so that taking messages in their order is fair: no session
waits for more than the others' current frames. The language model answers on a thread of each session's own, and a
frame that needs its answer is put aside until it is there.
"""

from __future__ import annotations

import argparse
import signal
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.serve.link import WorkerLink
from x2sam_rt.serve.messages import Close, Open, Packet, Ready, Resume
from x2sam_rt.serve.served_session import ServedSession
from x2sam_rt.serve.settings import WorkerConfig
from x2sam_rt.tasks.table import TASKS

_POLL = 0.004  # seconds between looks at whether an answer is there


class Worker:
    def __init__(self, runtime: Runtime, link: WorkerLink, config: WorkerConfig) -> None:
        self._runtime, self._link, self._config = runtime, link, config
        self._sessions: dict[int, ServedSession] = {}

    def run(self) -> None:
        """Until the server is gone."""
        self._link.send(0, self._ready())  # of no session
        while True:
            try:
                packet = self._link.receive(_POLL if any(one.parked for one in self._sessions.values()) else None)
            except EOFError:
                return
            if packet is not None:
                self._take(packet)
            for session in self._sessions.values():
                session.go_on()

    def _take(self, packet: Packet) -> None:
        message, number = packet.message, packet.session
        if isinstance(message, Close):
            self._close(number)
        elif isinstance(message, Open | Resume):
            tell = partial(self._link.send, number)
            self._sessions[number] = ServedSession(self._runtime, message, self._config, tell)
            self._sessions[number].begin(packet.payload)
        elif number in self._sessions:  # what was on its way when its session ended concerns nobody
            self._sessions[number].take(message, packet.payload)

    def _close(self, number: int) -> None:
        if number in self._sessions:
            self._sessions.pop(number).close()

    def _ready(self) -> Ready:
        device = self._runtime.device
        return Ready(
            session_bytes=self._runtime.session_bytes,
            device=str(device),
            bundle=self._runtime.manifest.sha256,
            tasks=tuple(TASKS),
            free_bytes=torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Started by the server, with its end of a socket pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--wire", type=int, required=True)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--device")
    for name in ("context", "threads", "most_pixels", "save_every"):
        parser.add_argument(f"--{name}", type=int)
    given = vars(parser.parse_args(arguments))
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, signal.SIG_IGN)  # they are meant for the server, which lets its sessions end first
    wire = socket.socket(fileno=given.pop("wire"))
    config = WorkerConfig(**{name: value for name, value in given.items() if value is not None})
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    with Runtime.load(config.bundle, device=config.device, context=config.context) as runtime:
        Worker(runtime, WorkerLink(wire), config).run()


if __name__ == "__main__":
    main()
