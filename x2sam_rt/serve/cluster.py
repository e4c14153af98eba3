"""Many machines, on Ray: the same server on each device, and the workers of a batch wherever there is room.

Ray places and replaces; what it cannot know is kept here: which session a snapshot is of, which video a worker had.
Batches are actors rather than a Ray Data pipeline, so that one loop (`serve/batch.py`) counts tries and names results
wherever workers run; Ray Data's own actors try by default without end what crashes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import ray
import torch
from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions, RequestRouterConfig
from ray.serve.schema import ApplicationStatus
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from x2sam_rt.errors import ServeError, X2SamError
from x2sam_rt.runtime.bundle import read_manifest
from x2sam_rt.runtime.engines import find_backend
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.serve.batch import BatchVideo, Failure, Heard, Outcome, Segmenter, segment_file
from x2sam_rt.serve.messages import Packet
from x2sam_rt.serve.processes import process_bytes
from x2sam_rt.serve.server import log_as_json_lines
from x2sam_rt.serve.settings import Settings
from x2sam_rt.serve.snapshots import KeptSnapshots

log = logging.getLogger("x2sam_rt.serve")
APPLICATION = "x2sam-rt"
_ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"
_MANY_NOTES = 64  # requests beside the streams: health, metrics, progress of videos
_JOIN_SECONDS = 30.0  # for a connection, for joining, for a snapshot to be found
_SILENT_SECONDS = 60.0  # without a word from any worker, after which it is said
_START_SECONDS = 600.0  # until the first worker, or the last replica, has room and has loaded
_STATUS_SECONDS = 0.5  # between looks at what the replicas do
_TRIAL = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); ray.shutdown()"


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """In a cluster. address: its head's, "HOST:PORT", or "auto" on one of its machines. Raises ServeError where no
    cluster answers."""
    _require_cluster(address)
    ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _require_cluster(address: str) -> None:
    """`ray.init` would wait for two minutes where no cluster answers, and then end this process: another one tries."""
    try:
        if address != "auto":
            _require_listener(address)
        command = [sys.executable, "-c", _TRIAL, address]
        tried = subprocess.run(command, capture_output=True, text=True, timeout=_JOIN_SECONDS)
    except subprocess.TimeoutExpired:
        why = f"what listens there let nobody join in {_JOIN_SECONDS:g} seconds"
    except (OSError, ValueError) as error:
        why = str(error)
    else:
        if tried.returncode == 0:
            return
        why = " ".join(tried.stderr.split())[-500:]
    raise ServeError(
        "unreachable", f'No Ray cluster at {address!r}: {why}. Give HOST:PORT as `ray start --head` says it, or "auto" '
        "on a machine of the cluster."
    )  # fmt: skip


def _require_listener(address: str) -> None:
    """Raises OSError, ValueError."""
    found = urlsplit(f"//{address}")
    if "://" in address or found.hostname is None or found.port is None:
        raise ValueError("that is no HOST:PORT")
    socket.create_connection((found.hostname, found.port), _JOIN_SECONDS).close()


# ---- a batch


class RayWorkers:
    """Workers of a batch on a cluster; results come here, so that only bundle and videos must be seen by all nodes.

    count: at once; those for which there is no room now begin when there is. cores: of each.
    """

    def __init__(self, segmenter: Segmenter, count: int, cores: int = 1) -> None:
        manifest = read_manifest(segmenter.bundle)
        on_gpu = find_backend(manifest.backend).needs_gpu
        self._needs = {"num_cpus": cores, "num_gpus": int(on_gpu), "memory": process_bytes(manifest)}
        self._actor, self._cores = ray.remote(_Actor).options(**self._needs), cores
        self._segmenter = replace(segmenter, bundle=segmenter.bundle.absolute())
        self._actors: dict[int, Any] = {}
        self._said: dict[Any, int] = {}  # what is waited for, and whose it is
        self._contents: dict[int, bytes] = {}
        self._working = set[int]()
        for number in range(count):
            self._start(number)

    def give(self, worker: int, video: BatchVideo) -> None:
        wanted = BatchVideo(video.name, video.path.absolute(), video.instruction)
        self._said[self._actors[worker].segment.remote(wanted)] = worker
        self._working.add(worker)

    def hear(self) -> Heard:
        said_by = self._wait()
        number = self._said.pop(said_by)
        self._working.discard(number)
        try:
            said = ray.get(said_by, timeout=_SILENT_SECONDS)
        except RayError as error:
            log.warning("worker %d is lost: %s", number, error)
            ray.kill(self._actors[number])
            self._start(number)
            return Heard(number, "lost", why=type(error).__name__)
        if isinstance(said, Failure):
            raise said.error()
        if said is None:
            return Heard(number, "ready")
        outcome, self._contents[number] = said
        return Heard(number, "done", outcome)

    def collect(self, worker: int, video: BatchVideo, target: Path) -> None:
        target.write_bytes(self._contents.pop(worker))

    def close(self) -> None:
        for actor in self._actors.values():
            ray.kill(actor)

    def _wait(self) -> Any:
        """Who says something next. A video may take any time; room for a first worker may not. Raises ServeError."""
        deadline = time.monotonic() + _START_SECONDS
        while not (ready := ray.wait(list(self._said), num_returns=1, timeout=_SILENT_SECONDS)[0]):
            free = f"free in the cluster: {ray.available_resources()}"
            log.warning("no worker has said anything for %g seconds; %s", _SILENT_SECONDS, free)
            if not self._working and time.monotonic() > deadline:
                needs = f"a worker wants {self._needs}; {free}"
                raise ServeError("no_room", f"No worker could start in {_START_SECONDS:g} seconds: {needs}.")
        return ready[0]

    def _start(self, number: int) -> None:
        self._actors[number] = self._actor.remote(self._segmenter, self._cores)
        self._said[self._actors[number].load.remote()] = number


class _Actor:
    """As `serve.processes._work`."""

    def __init__(self, segmenter: Segmenter, threads: int) -> None:
        self._segmenter, self._threads = segmenter, threads
        self._runtime: Runtime | None = None

    def load(self) -> Failure | None:
        torch.set_num_threads(self._threads)
        try:
            self._runtime = self._segmenter.load(None)
        except X2SamError as error:
            return Failure.of(error)
        return None

    def segment(self, video: BatchVideo) -> tuple[Outcome, bytes]:
        assert self._runtime is not None, "loaded first"
        with tempfile.TemporaryDirectory(prefix="x2sam-rt-batch-") as folder:
            target = Path(folder) / f"{video.name}.jsonl"
            outcome = segment_file(self._runtime, video, self._segmenter.again, target)
            return outcome, target.read_bytes() if outcome.error is None else b""


def ray_places(bundle: Path, videos: int, cores: int = 1) -> int:
    """Workers that the whole cluster has GPUs, or cores and memory, for; at least one."""
    manifest, whole = read_manifest(bundle), ray.cluster_resources()
    if find_backend(manifest.backend).needs_gpu:
        return max(1, min(videos, int(whole.get("GPU", 0))))
    fit = int(whole.get("CPU", 0) // cores), int(whole.get("memory", 0) // process_bytes(manifest))
    return max(1, min(videos, *fit))


# ---- a server


class RaySnapshots:
    """Kept by one actor for all replicas."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def keep(self, session: str, snapshot: Packet) -> None:
        self._actor.keep.remote(session, snapshot)

    def forget(self, session: str) -> None:
        self._actor.forget.remote(session)

    async def find(self, session: str) -> Packet | None:
        """None also where the actor is gone, with the process that began the deployment."""
        found: Packet | None = None
        try:
            async with asyncio.timeout(_JOIN_SECONDS):
                found = await self._actor.find.remote(session)
        except (RayError, TimeoutError) as error:
            log.warning("snapshots cannot be reached", extra={"error": str(error)})
        return found


def serve_on_cluster(settings: Settings, address: str, replicas: int | None = None) -> None:
    """The server's application as a Ray Serve deployment, one replica per device, until SIGTERM or Ctrl-C. replicas:
    None = as many as the cluster has GPUs for a bundle that needs one, else nodes. Raises ServeError."""
    log_as_json_lines()
    with joined(address), _until_told() as told:
        try:
            deploy(settings, replicas or _devices(settings.bundle))
            log.info("deployed", extra={"address": f"http://{settings.host}:{settings.port}"})
            told.wait()
        finally:
            serve.shutdown()


def deploy(settings: Settings, replicas: int, proxies: Literal["EveryNode", "HeadOnly"] = "EveryNode") -> None:
    """Returns when its replicas work. proxies: which nodes listen at the address. Raises ServeError when they do not
    come to work in time; `serve.shutdown` then removes what is there."""
    settings = replace(settings, bundle=settings.bundle.absolute())
    on_gpu = find_backend(read_manifest(settings.bundle).backend).needs_gpu
    snapshots = RaySnapshots(_keeper().remote(settings.most_kept, settings.keep_seconds))

    def application() -> Any:
        from x2sam_rt.serve.app import make_app

        log_as_json_lines()
        return make_app(settings, snapshots)

    deployment = serve.deployment(
        name="server",
        num_replicas=replicas,
        max_ongoing_requests=settings.sessions + _MANY_NOTES,
        ray_actor_options={"num_cpus": settings.threads or 1, "num_gpus": int(on_gpu)},
        max_constructor_retry_count=3,
        health_check_period_s=5,
        graceful_shutdown_timeout_s=settings.drain_seconds,
        # What a client began with one replica, such as a video, only that one knows: no fallback.
        request_router_config=RequestRouterConfig(
            request_router_class=_ROUTER, request_router_kwargs={"num_fallback_replicas": 0}
        ),
    )(serve.ingress(application)())
    serve.start(proxy_location=proxies, http_options=HTTPOptions(host=settings.host, port=settings.port))
    target = serve.RunTarget(deployment.bind(), name=APPLICATION, route_prefix="/")
    serve.run_many([target], wait_for_applications_running=False)
    _wait_until_they_work()


def _wait_until_they_work() -> None:
    """Raises ServeError."""
    deadline = time.monotonic() + _START_SECONDS
    while (now := serve.status().applications[APPLICATION]).status != ApplicationStatus.RUNNING:
        if now.status == ApplicationStatus.DEPLOY_FAILED or time.monotonic() > deadline:
            said = [now.message, *(f"{name}: {one.message}" for name, one in now.deployments.items())]
            raise ServeError("not_started", f"The replicas do not come to work ({now.status.value}). {' '.join(said)}")
        time.sleep(_STATUS_SECONDS)


def _devices(bundle: Path) -> int:
    whole = ray.cluster_resources()
    if find_backend(read_manifest(bundle).backend).needs_gpu:
        return max(1, int(whole.get("GPU", 0)))
    return sum(node["Alive"] for node in ray.nodes())


def _keeper() -> Any:
    """On this node, whose end is the deployment's too, whatever becomes of the others."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(KeptSnapshots).options(num_cpus=0, scheduling_strategy=here)


@contextlib.contextmanager
def _until_told() -> Iterator[threading.Event]:
    told = threading.Event()
    before = {one: signal.signal(one, lambda *_: told.set()) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
