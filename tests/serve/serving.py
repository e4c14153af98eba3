"""A server of its own process, as a user starts it, for tests that talk to it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

TOKEN = "a token that nobody guesses"


@dataclass(frozen=True)
class Served:
    """log: what it wrote. process: the server; its children are the workers."""

    url: str
    process: psutil.Process
    log: Path

    def workers(self) -> list[psutil.Process]:
        """By age, so that the numbers stay while none is replaced."""
        found = [one for one in self.process.children() if "x2sam_rt.serve.worker" in " ".join(one.cmdline())]
        return sorted(found, key=lambda one: one.create_time())

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, headers={"Authorization": f"Bearer {TOKEN}"})

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith((name + " ", name + "{")))

    def wait_for(self, name: str, value: float, seconds: float = 90) -> None:
        """Until a metric has this value."""
        deadline = time.monotonic() + seconds
        while self.metric(name) != value:
            assert time.monotonic() < deadline, f"{name} is {self.metric(name)}, wanted {value}: {self.log.read_text()}"
            time.sleep(0.05)

    def events(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@contextlib.contextmanager
def serving(bundle: Path, folder: Path, *options: str, devices: int = 1, port: int | None = None) -> Iterator[Served]:
    """port: None = one that is free."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command: Sequence[str] = [sys.executable, "-m", "x2sam_rt.cli.app", "serve", str(bundle), f"--port={port}"]
    command = [*command, "--threads=1", *["--device=cpu"] * devices, *options]
    environment = {**os.environ, "X2SAM_RT_TOKEN": TOKEN, "OMP_NUM_THREADS": "1"}
    log = folder / "server.log"
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file, stdout=file, env=environment)
    served = Served(f"http://127.0.0.1:{port}", psutil.Process(process.pid), log)
    try:
        _wait(served, process)
        yield served
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait(served: Served, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, served.log.read_text()
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(served.url + "/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise AssertionError(served.log.read_text())
