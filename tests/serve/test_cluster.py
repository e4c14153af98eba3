"""On a cluster of two nodes of this machine, whose parts are killed in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="make test-serve installs it (the extra ray)")

import httpx
import psutil
import ray
from ray.cluster_utils import Cluster
from serving import TOKEN, free_port
from test_batch import require_results, write_clips
from test_serving import frames, require_equal, video_of

from x2sam_rt.client import Client, RemoteResult, Stream
from x2sam_rt.errors import ServeError
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.serve import cluster as on_ray
from x2sam_rt.serve.batch import Segmenter
from x2sam_rt.serve.cluster import RayWorkers, deploy, joined, ray_places
from x2sam_rt.serve.messages import Packet, Resume
from x2sam_rt.serve.settings import Settings

NODE: dict[str, Any] = {"num_cpus": 1, "memory": 4 * 2**30, "object_store_memory": 100 * 2**20}
# A node that is gone is known to be after three seconds rather than fifteen.
HEAD = {**NODE, "include_dashboard": False, "_system_config": {"health_check_period_ms": 1000}}
ENGINE = "x2sam_rt.serve.worker"
CLIP = frames(300)
SECONDS = 300  # for a test, with what it starts


@contextlib.contextmanager
def limited(what: str) -> Iterator[None]:
    """Whatever hangs ends here."""

    def stop(*_: object) -> None:
        pytest.fail(f"{what} took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def _limited(request: pytest.FixtureRequest) -> Iterator[None]:
    with limited(request.node.name):
        yield


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Of one node. Neither processes nor files of it are left."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: the names of its sockets have an end
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
        patch.delenv("RAY_ADDRESS", raising=False)
        try:
            with limited("the cluster's start"):
                found = started(folder)
            yield found
            with limited("the cluster's end"):
                found.shutdown()
                left = psutil.wait_procs(processes_of(folder), 20)[1]
        finally:
            kill(folder)
            shutil.rmtree(folder)
    assert left == []


def started(folder: str) -> Cluster:
    """Ray gives a node 30 seconds to start, which a busy machine may not have."""
    for _ in range(2):
        with contextlib.suppress(Exception):  # Ray's own raises no other class
            return Cluster(initialize_head=True, head_node_args=HEAD)
        kill(folder)
    return Cluster(initialize_head=True, head_node_args=HEAD)


def kill(folder: str) -> None:
    for one in processes_of(folder):
        one.kill()
    psutil.wait_procs(processes_of(folder), 20)


def processes_of(folder: str) -> list[psutil.Process]:
    """Those of the cluster whose files are there."""
    return [one for one in psutil.process_iter() if folder in command_of(one)]


def command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


@pytest.fixture
def second(cluster: Cluster) -> Iterator[Any]:
    """Another node, until its test kills it."""
    node = cluster.add_node(**NODE)
    yield node
    if node in cluster.worker_nodes:
        cluster.remove_node(node, allow_graceful=False)


def until(condition: Callable[[], object], process: subprocess.Popen[bytes] | None = None) -> None:
    """process: that must not end before."""
    while not condition():
        assert process is None or process.poll() is None, "it ended before"
        time.sleep(0.05)


# ---- a batch


def test_a_killed_node_and_a_killed_batch_cost_no_result(
    cluster: Cluster, second: Any, onnx_bundle: Path, tmp_path: Path
) -> None:
    clips, out, log = write_clips(tmp_path, 6, frames=80), tmp_path / "out", tmp_path / "log"
    arguments = ["batch", str(onnx_bundle), *map(str, clips), "-p", "dog", "-o", str(out), "--ray", cluster.address]
    command = [sys.executable, "-m", "x2sam_rt.cli.app", *arguments]
    with log.open("w") as file:
        begun = subprocess.Popen(command, stderr=file)
    try:
        until(lambda: len(actors(cluster.head_node)) == len(actors(second)) == 1, begun)
        until(lambda: results(out), begun)
        cluster.remove_node(second, allow_graceful=False)
        until(lambda: "is lost" in log.read_text(), begun)  # with a video that nobody has finished
    finally:
        begun.kill()
        begun.wait(30)
    until(lambda: not actors(cluster.head_node))
    assert 1 <= len(results(out)) < len(clips)
    again = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert again.returncode == 0, again.stderr
    assert "6 results" in again.stdout
    require_results(onnx_bundle, clips, out)


def results(out: Path) -> list[Path]:
    return list(out.glob("clip*.jsonl"))


def actors(node: Any) -> list[psutil.Process]:
    """Workers of a batch on a node."""
    return [one for one in psutil.Process(raylet(node)).children() if "ray::_Actor" in command_of(one)]


def raylet(node: Any) -> int:
    return int(node.all_processes["raylet"][0].process.pid)


def test_without_room_a_batch_ends(cluster: Cluster, onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_START_SECONDS", 1.0)
    monkeypatch.setattr(on_ray, "_SILENT_SECONDS", 0.5)
    with joined(cluster.address):
        assert ray_places(onnx_bundle, 9) == 1
        with (
            contextlib.closing(RayWorkers(Segmenter(onnx_bundle), 1, cores=64)) as workers,
            pytest.raises(ServeError, match=r"a worker wants .*64") as caught,
        ):
            workers.hear()
    assert caught.value.code == "no_room"


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nonsense", "ray://127.0.0.1:10001", "127.0.0.1:port"])
def test_no_cluster_is_named(address: str) -> None:
    require_refused(address)


def test_what_is_no_cluster_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It listens, and says nothing."""
    monkeypatch.setattr(on_ray, "_JOIN_SECONDS", 3.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        require_refused(f"127.0.0.1:{silent.getsockname()[1]}")


def require_refused(address: str) -> None:
    began = time.monotonic()
    with pytest.raises(ServeError, match=f"No Ray cluster at '{address}': ") as caught, joined(address):
        pass
    assert caught.value.code == "unreachable"
    assert time.monotonic() - began < 20


# ---- a server


def settings_of(bundle: Path) -> Settings:
    limits = {"sessions": 8, "most_pixels": 40_000, "save_every": 3, "memory": 2**30}
    return Settings(bundle, port=free_port(), threads=1, token=TOKEN, **limits)


def test_servers_without_room_are_named(cluster: Cluster, onnx_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_START_SECONDS", 2.0)
    with joined(cluster.address):
        try:
            with pytest.raises(ServeError, match="DEPLOYING") as caught:
                deploy(replace(settings_of(onnx_bundle), threads=64), replicas=1, proxies="HeadOnly")
        finally:
            ray.serve.shutdown()
    assert caught.value.code == "not_started"


def test_it_serves_until_it_is_told_to_end(cluster: Cluster, onnx_bundle: Path, tmp_path: Path) -> None:
    """As a command. A stream that is open then gets its time, and ends with its connection."""
    port, log = free_port(), tmp_path / "log"
    options = ["--ray", cluster.address, f"--port={port}", "--max-pixels=40000", "--memory=1", "--drain-seconds=1"]
    command = [sys.executable, "-m", "x2sam_rt.cli.app", "serve", str(onnx_bundle), *options]
    with log.open("w") as file:
        process = subprocess.Popen(command, stderr=file, env={**os.environ, "X2SAM_RT_TOKEN": TOKEN})
    try:
        until(lambda: '"message": "deployed"' in log.read_text(), process)
        stream = Client(f"http://127.0.0.1:{port}", token=TOKEN, seconds=30).stream("dog", drop="never")
        assert stream.step(CLIP[0]).frame == 0
        process.send_signal(signal.SIGTERM)
        with pytest.raises(ServeError) as caught:
            list(map(stream.step, repeat(CLIP[1])))
        assert caught.value.code in ("gone", "closed"), caught.value
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.kill()
    until(lambda: not has_engine(cluster.head_node))
    with pytest.raises(ServeError, match="No server answers"):
        Client(f"http://127.0.0.1:{port}", token=TOKEN).stream("dog")


@pytest.fixture(scope="module")
def deployed(cluster: Cluster, onnx_bundle: Path) -> Iterator[tuple[str, Any]]:
    """The address of a server on each of two nodes, and the second node."""
    settings = settings_of(onnx_bundle)
    with limited("the deployment"):
        node = cluster.add_node(**NODE)
        connection = contextlib.ExitStack()
        with connection:
            connection.enter_context(joined(cluster.address))
            connection.callback(ray.serve.shutdown)
            deploy(settings, replicas=2, proxies="HeadOnly")
            connection = connection.pop_all()
    yield f"http://127.0.0.1:{settings.port}", node
    with limited("the end of the deployment"):
        connection.close()


def test_requests_of_a_client_stay_at_their_server(deployed: tuple[str, Any], tmp_path: Path) -> None:
    """Only one of the two knows the video."""
    clip, deadline = video_of(tmp_path, 4).read_bytes(), time.monotonic() + 60
    for session in range(4):
        headers = {"Authorization": f"Bearer {TOKEN}", "X-Session-Id": f"client {session}"}
        sent = {"files": {"video": clip}, "data": {"instruction": '{"phrases": ["dog"]}'}}
        with httpx.Client(base_url=deployed[0], headers=headers, timeout=30) as http:
            name = http.post("/v1/videos", **sent).json()["id"]
            while (state := http.get(f"/v1/videos/{name}").raise_for_status().json())["state"] == "running":
                assert time.monotonic() < deadline
                time.sleep(0.1)
            assert (state["state"], state["frames"]) == ("done", 4)
            assert len(http.get(f"/v1/videos/{name}/result").text.splitlines()) == 4
    with pytest.raises(ServeError) as caught:
        Client(deployed[0], token="a token that is another one").stream("dog")
    assert caught.value.code == "unauthorized"


def engine(node: Any) -> psutil.Process:
    """The process on a node that owns engines."""
    (found,) = [one for one in psutil.Process(raylet(node)).children(recursive=True) if ENGINE in command_of(one)]
    return found


def has_engine(node: Any) -> bool:
    return any(ENGINE in command_of(one) for one in psutil.Process(raylet(node)).children(recursive=True))


def stream_on(node: Any, other: Any, client: Client) -> Stream:
    """Streams until one lives there: its engine works when the stream does. Five frames of it are segmented."""
    here, there = engine(node), engine(other)
    for _ in range(30):
        stream = client.stream("dog", drop="never")
        stream.step(CLIP[0])
        before = here.cpu_times().user, there.cpu_times().user
        for frame in CLIP[1:5]:
            stream.step(frame)
        if here.cpu_times().user - before[0] > there.cpu_times().user - before[1]:
            return stream
        stream.close()
    raise AssertionError("no stream came to the node")


def come_back(client: Client, session: str) -> Stream:
    """As soon as the cluster knows which of its servers is gone."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return client.stream(session=session, drop="never")
        except ServeError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def require_to_go_on(client: Client, stream: Stream, runtime: Runtime) -> None:
    """Its server has been killed: the connection ends, the client comes back, and results are those of a stream that
    was never interrupted."""
    told = list[RemoteResult]()
    with pytest.raises(ServeError) as caught:
        told.extend(map(stream.step, CLIP[5:]))
    seen = told[-1].frame if told else 4
    assert caught.value.code in ("gone", "closed"), caught.value
    with come_back(client, stream.session) as again, runtime.stream("dog") as session:
        kept = again.resumed[-1]
        assert kept is not None
        assert seen - 6 <= kept <= seen + 1  # saved every three frames; what was on its way is lost
        for frame in CLIP[: kept + 1]:
            session.step(frame)
        for number, frame in enumerate(CLIP[kept + 1 : kept + 5], start=kept + 1):
            result = again.step(frame)
            assert result.frame == number
            require_equal(result, session.step(frame))


def test_a_stream_goes_on_at_another_server(deployed: tuple[str, Any], cluster: Cluster, onnx_bundle: Path) -> None:
    """Where first its server is killed, which Ray starts anew, and then its node."""
    (url, second), head = deployed, cluster.head_node
    client = Client(url, token=TOKEN, seconds=20)
    with Runtime.load(onnx_bundle, device="cpu") as runtime:
        stream, lost = stream_on(second, head, client), engine(second)
        server = lost.parent()
        assert server is not None
        server.kill()
        require_to_go_on(client, stream, runtime)
        assert psutil.wait_procs([lost], 20)[1] == []  # it ends with its server
        until(lambda: has_engine(second))
        until(lambda: ready_replicas() == 2)

        stream, lost = stream_on(second, head, client), engine(second)
        cluster.remove_node(second, allow_graceful=False)
        require_to_go_on(client, stream, runtime)
        assert psutil.wait_procs([lost], 20)[1] == []


def test_snapshots_that_cannot_be_reached_are_none(deployed: tuple[str, Any]) -> None:
    actor = on_ray._keeper().remote(1000, 60)
    kept, one = on_ray.RaySnapshots(actor), Packet(Resume(frames=((7, 0),)), b"123")
    kept.keep("a", one)
    found = asyncio.run(kept.find("a"))
    assert found is not None
    assert (found.message, found.payload) == (one.message, one.payload)
    assert asyncio.run(kept.find("b")) is None
    ray.kill(actor)
    assert asyncio.run(kept.find("a")) is None


def ready_replicas() -> int:
    found = ray.serve.status().applications[on_ray.APPLICATION].deployments["server"]
    return found.replica_states.get("RUNNING", 0)
