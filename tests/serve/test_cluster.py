"""On a cluster of two nodes of this machine, one of which is killed in the middle."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="make test-serve installs it (the extra ray)")

import httpx
import psutil
import ray
from ray.cluster_utils import Cluster
from serving import TOKEN
from test_batch import DOG, require_results, write_clips
from test_serving import frames, require_equal

from x2sam_rt.client import Client, Stream
from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.errors import ServeError
from x2sam_rt.media.video import VideoWriter
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.serve.batch import Batch, BatchVideo, Heard, Segmenter
from x2sam_rt.serve.cluster import RayWorkers, deploy, joined, ray_places
from x2sam_rt.serve.settings import Settings

NODE: dict[str, Any] = {"num_cpus": 1, "memory": 4 * 2**30, "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nothing is reported to anyone
    found = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    yield found
    found.shutdown()


def test_a_batch_goes_on_without_a_node(cluster: Cluster, onnx_bundle: Path, tmp_path: Path) -> None:
    clips, out = write_clips(tmp_path, 6, frames=40), tmp_path / "out"
    second, lost = cluster.add_node(**NODE), list[Heard]()

    class Watched(RayWorkers):
        def hear(self) -> Heard:
            heard = super().hear()
            if heard.kind == "lost":
                lost.append(heard)
            return heard

    def kill_the_node(video: BatchVideo, outcome: object) -> None:
        if second in cluster.worker_nodes:
            cluster.remove_node(second, allow_graceful=False)

    videos = [BatchVideo(clip.stem, clip, DOG) for clip in clips]
    with joined(cluster.address), Batch(Segmenter(onnx_bundle), videos, out) as batch:
        assert ray_places(onnx_bundle, len(videos)) == 2
        workers = Watched(batch.segmenter, 2)
        batch.run(workers, kill_the_node)
        workers.close()
        assert batch.failed == []
    assert len(lost) == 1
    require_results(onnx_bundle, clips, out)


def test_no_cluster_is_named() -> None:
    with pytest.raises(ServeError) as caught, joined("127.0.0.1:1"):
        pass
    assert caught.value.code == "unreachable"


@pytest.fixture
def deployed(cluster: Cluster, onnx_bundle: Path) -> Iterator[tuple[str, Any]]:
    """A server on each of two nodes; its address, and the second node."""
    second = cluster.add_node(**NODE)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = Settings(
        onnx_bundle, port=port, threads=1, token=TOKEN, sessions=8, most_pixels=40_000, save_every=3, memory=2**30
    )
    with joined(cluster.address):
        deploy(settings, replicas=2, proxies="HeadOnly")
        yield f"http://127.0.0.1:{port}", second
        ray.serve.shutdown()


def engines(node: Any) -> list[psutil.Process]:
    """The processes on a node that own engines."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [one for one in raylet.children(recursive=True) if "x2sam_rt.serve.worker" in " ".join(one.cmdline())]


def stream_on(node: Any, client: Client) -> Stream:
    """Streams until one lives there."""
    (engine,) = engines(node)
    for _ in range(30):
        stream = client.stream("dog", drop="never")
        before = engine.cpu_times().user
        for frame in frames(5):
            stream.step(frame)
        if engine.cpu_times().user > before + 0.02:
            return stream
        stream.close()
    raise AssertionError("no stream came to the node")


def come_back(client: Client, session: str) -> Stream:
    """As soon as the cluster knows which of its servers is gone."""
    deadline = time.monotonic() + 40
    while True:
        try:
            return client.stream(session=session, drop="never")
        except ServeError:
            assert time.monotonic() < deadline
            time.sleep(0.5)


def test_a_stream_goes_on_at_another_server(deployed: tuple[str, Any], cluster: Cluster, onnx_bundle: Path) -> None:
    url, second = deployed
    client, clip = Client(url, token=TOKEN, seconds=20), frames(12)
    stream = stream_on(second, client)
    for frame in clip[5:8]:
        stream.step(frame)
    _, orphans = cluster.remove_node(second, allow_graceful=False), engines_left(second)
    with pytest.raises(ServeError) as caught:
        list(map(stream.step, clip[8:]))
    assert caught.value.code in ("gone", "closed"), caught.value
    assert psutil.wait_procs(orphans, 20)[1] == []
    with come_back(client, stream.session) as again, Runtime.load(onnx_bundle, device="cpu") as runtime:
        kept = again.resumed[-1]
        assert kept is not None
        assert 5 <= kept <= 7  # saved every three frames
        with runtime.stream("dog") as session:
            for frame in clip[: kept + 1]:
                session.step(frame)
            for number, frame in enumerate(clip[kept + 1 :], start=kept + 1):
                result = again.step(frame)
                assert result.frame == number
                require_equal(result, session.step(frame))


def engines_left(node: Any) -> list[psutil.Process]:
    try:
        return engines(node)
    except psutil.NoSuchProcess:
        return []


def test_requests_of_a_client_stay_at_their_server(deployed: tuple[str, Any], tmp_path: Path) -> None:
    """Only one of the two knows the video."""
    url, _ = deployed
    with VideoWriter(tmp_path / "clip.mp4", 64, 64, 10) as video:
        for frame in make_clip(0, ClipSettings(side=64, frames=4)).frames:
            video.write(frame)
    clip = (tmp_path / "clip.mp4").read_bytes()
    for session in range(4):
        headers = {"Authorization": f"Bearer {TOKEN}", "X-Session-Id": f"client {session}"}
        sent = {"files": {"video": clip}, "data": {"instruction": '{"phrases": ["dog"]}'}}
        with httpx.Client(base_url=url, headers=headers, timeout=30) as http:
            name = http.post("/v1/videos", **sent).json()["id"]
            until = time.monotonic() + 60
            while (state := http.get(f"/v1/videos/{name}").raise_for_status().json())["state"] == "running":
                assert time.monotonic() < until
                time.sleep(0.1)
            assert (state["state"], state["frames"]) == ("done", 4)
            assert len(http.get(f"/v1/videos/{name}/result").text.splitlines()) == 4
    with pytest.raises(ServeError) as caught:
        Client(url, token="a token that is another one").stream("dog")
    assert caught.value.code == "unauthorized"
