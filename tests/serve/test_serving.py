"""A stream over a server against the same stream here, and what the server does beside."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from bounded import join_all
from PIL import Image
from serving import TOKEN, Served, serving

from x2sam_rt.client import AsyncClient, Client, RemoteResult
from x2sam_rt.errors import ServeError
from x2sam_rt.media.sources import VideoFile
from x2sam_rt.media.video import VideoReader, VideoWriter
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.run import run_video
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.tasks.instruction import Instruction, PostProcessOptions
from x2sam_rt.tasks.regions import Prompt

ALL = PostProcessOptions(threshold=0.0)
PANOPTIC = Instruction("panoptic", things=("cat", "dog"), stuff=("sky",), options=ALL)


@pytest.fixture(scope="module")
def runtime(onnx_bundle: Path) -> Iterator[Runtime]:
    with Runtime.load(onnx_bundle) as loaded:
        yield loaded


@pytest.fixture
def client(served: Served) -> Client:
    return Client(served.url, token=TOKEN)


def frames(count: int, height: int = 45, width: int = 61, seed: int = 0) -> list[np.ndarray]:
    noise = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    return [frame[np.ix_(rows, columns)] for frame in noise]


def require_equal(ours: RemoteResult, theirs: FrameResult) -> None:
    assert ours.record == theirs.record()  # scores to the last bit
    for one, other in zip(ours.segments, theirs.segments, strict=True):
        assert np.array_equal(one.mask, other.mask)


@pytest.mark.parametrize("masks", ["rle", "png"])
@pytest.mark.parametrize(
    "instruction",
    [
        Instruction(phrases=("the red circle", "a dog")),
        PANOPTIC,
        Instruction("object", regions=(Prompt.box(5, 5, 40, 30),), options=ALL),
        Instruction("vgd", regions=(Prompt.point(9, 9), Prompt.mask(np.eye(45, 61))), options=ALL),
    ],
    ids=lambda instruction: instruction.task,
)
def test_results_equal_those_of_a_session_here(
    client: Client, runtime: Runtime, instruction: Instruction, masks: str
) -> None:
    clip = frames(7) + frames(2, 33, 80, seed=1)
    with client.stream(instruction, drop="never", masks=masks) as stream, runtime.stream(instruction) as session:
        for frame in clip:
            ours, theirs = stream.step(frame), session.step(frame)
            if masks == "rle":
                require_equal(ours, theirs)
            for one, other in zip(ours.segments, theirs.segments, strict=True):
                assert (one.id, one.label, one.score) == (other.id, other.label, other.score)
                assert np.array_equal(one.mask, other.mask)
            assert {"decode", "frame_encoder", "encode", "served"} <= set(ours.timings)


def test_encoded_frames_are_what_they_decode_to(client: Client, runtime: Runtime) -> None:
    with client.stream("dog", drop="never") as stream, runtime.stream("dog") as session:
        for frame, kind in zip(frames(4), ("JPEG", "PNG", "JPEG", "PNG"), strict=True):
            file = io.BytesIO()
            Image.fromarray(frame).save(file, kind)
            decoded = np.asarray(Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
            require_equal(stream.step(file.getvalue()), session.step(decoded))


def test_an_instruction_in_mid_stream(client: Client, runtime: Runtime) -> None:
    clip = frames(8)
    with client.stream("dog", drop="never") as stream, runtime.stream("dog") as session:
        for number, frame in enumerate(clip):
            if number == 3:
                stream.ask(PANOPTIC, number=7, wait=True, keep_memory=False)
                session.ask(PANOPTIC, keep_memory=False)
            if number == 5:
                region = Instruction("object", regions=(Prompt.point(20, 20, frame=4),), options=ALL)
                stream.ask(region, number=8, wait=True)
                session.ask(region)
            require_equal(stream.step(frame), session.step(frame))
        assert [(one.number, one.frame) for one in stream.answers] == [(0, 0), (7, 3), (8, 5)]


def test_frames_go_on_while_an_instruction_is_answered(client: Client) -> None:
    clip = frames(3)
    with client.stream("dog", drop="never") as stream:
        stream.step(clip[0])
        stream.ask(Instruction("chat", question="What?", max_new_tokens=60, generate=True), number=5)
        before = len(stream.answers)
        seen = 0
        while len(stream.answers) == before:
            result = stream.step(clip[1])
            seen += bool(result.record["segments"]) or not result.text
            assert seen < 500
        assert seen >= 1  # under the answer in force
        assert stream.answers[-1].number == 5


def test_numbers_are_the_clients_also_when_frames_gave_way(client: Client) -> None:
    """A region is drawn on the frame that its number meant to the client; one that gave way cannot be drawn on."""
    clip = frames(40)
    with client.stream("dog") as stream:
        for number, frame in enumerate(clip):
            stream.send(frame, number * 10)
        results = [stream.receive()]
        while results[-1].frame != 390:
            results.append(stream.receive())
        shown = [result.frame for result in results]
        gone = [number for result in results for number in result.dropped]
        assert sorted(shown + gone) == list(range(0, 400, 10))
        assert len(gone) == stream.dropped > 0
        assert [result.record["frame"] for result in results] == list(range(len(results)))
        stream.ask(Instruction("object", regions=(Prompt.point(20, 20, frame=gone[-1]),)))
        with pytest.raises(ServeError, match="not at hand") as caught:
            stream.step(clip[0])
        assert caught.value.code == "prompt"
        stream.ask(Instruction("object", regions=(Prompt.point(20, 20, frame=shown[-1]),)), wait=True)
        stream.step(clip[0])
        while stream.answers[-1].labels != ("region 1",):
            stream.step(clip[0])


def test_nothing_gives_way_when_nothing_may(client: Client) -> None:
    clip = frames(30)
    with client.stream("dog", drop="never") as stream:
        for frame in clip:
            stream.send(frame)
        assert [stream.receive().frame for _ in clip] == list(range(len(clip)))
        assert stream.dropped == 0


def test_snapshots_go_on_to_the_last_bit(client: Client, runtime: Runtime) -> None:
    clip = frames(9)
    with runtime.stream(PANOPTIC) as session:
        with client.stream(PANOPTIC, drop="never") as stream:
            for frame in clip[:5]:
                require_equal(stream.step(frame), session.step(frame))
            blob = stream.snapshot()
        with client.stream(snapshot=blob, drop="never") as stream:
            for frame in clip[5:]:
                require_equal(stream.step(frame), session.step(frame))


def test_a_snapshot_larger_than_a_message_goes_on(onnx_bundle: Path, runtime: Runtime, tmp_path: Path) -> None:
    """At a server's defaults: with 16 frames of 640×480, which are kept as they came."""
    clip = [np.random.default_rng(number).integers(0, 256, (480, 640, 3), dtype=np.uint8) for number in range(18)]
    with serving(onnx_bundle, tmp_path) as served, runtime.stream("dog") as session:
        client = Client(served.url, token=TOKEN)
        with client.stream("dog", drop="never") as stream:
            for frame in clip[:16]:
                stream.step(frame)
                session.step(frame)
            blob = stream.snapshot()
        limits = client.info()
        assert limits["most_message"] < 14 * 2**20 < len(blob) < limits["most_snapshot"]
        with client.stream(snapshot=blob, drop="never") as again:
            for frame in clip[16:]:
                require_equal(again.step(frame), session.step(frame))


def test_snapshots_of_others_are_refused(client: Client) -> None:
    with client.stream("dog", drop="never") as stream:
        stream.step(frames(1)[0])
        blob = stream.snapshot()
    with client.stream(snapshot=blob[:-5]) as stream, pytest.raises(ServeError) as caught:
        stream.receive()
    assert caught.value.code == "snapshot"


def test_errors_of_one_frame_leave_the_stream(client: Client, runtime: Runtime) -> None:
    clip = frames(3)
    with client.stream("dog", drop="never") as stream, runtime.stream("dog") as session:
        require_equal(stream.step(clip[0]), session.step(clip[0]))
        for bad in (b"\xff\xd8\xff damaged", b"\x89PNG\r\n\x1a\n", np.zeros((300, 300, 3), np.uint8)):
            with pytest.raises(ServeError) as caught:
                stream.step(bad)
            assert caught.value.code == "frame"
        require_equal(stream.step(clip[1]), session.step(clip[1]))


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        (Instruction("interactive", regions=(Prompt.point(3, 3),)), "prompt"),  # is for images
        (Instruction(phrases=("a", "a <region>"), regions=(Prompt.point(3, 3, frame=9),)), "prompt"),
    ],
)
def test_instructions_that_cannot_be_asked_are_named(client: Client, prompt: Instruction, code: str) -> None:
    with client.stream(prompt, drop="never") as stream, pytest.raises(ServeError) as caught:
        stream.step(frames(1, 2, 2)[0])
    assert caught.value.code == code


def test_an_image(client: Client, runtime: Runtime) -> None:
    image = frames(1)[0]
    for instruction in (PANOPTIC, Instruction("interactive", regions=(Prompt.point(20, 20),), options=ALL)):
        require_equal(client.segment_image(image, instruction), runtime.segment_image(image, instruction))


def test_async_client(served: Served, runtime: Runtime) -> None:
    async def talk() -> None:
        client = AsyncClient(served.url, token=TOKEN)
        async with await client.stream("dog", drop="never") as stream:
            with runtime.stream("dog") as session:
                for frame in frames(4):
                    require_equal(await stream.step(frame), session.step(frame))
                await stream.ask("the red circle", wait=True)
                session.ask("the red circle")
                frame = frames(5)[4]
                require_equal(await stream.step(frame), session.step(frame))
                assert await stream.snapshot()
        image = frames(1)[0]
        require_equal(await client.segment_image(image, "dog"), runtime.segment_image(image, "dog"))

    asyncio.run(talk())


def video_of(folder: Path, count: int) -> Path:
    with VideoWriter(folder / "clip.mp4", 64, 48, 10) as video:
        for frame in frames(count, 48, 64):
            video.write(frame)
    return folder / "clip.mp4"


def upload(served: Served, path: Path, instruction: str = '{"phrases": ["dog"]}') -> httpx.Response:
    with path.open("rb") as file:
        return httpx.post(
            served.url + "/v1/videos",
            files={"video": ("../../etc/passwd", file)},
            data={"instruction": instruction},
            headers={"Authorization": f"Bearer {TOKEN}"},
        )


def test_a_video_is_segmented_as_run_does(served: Served, runtime: Runtime, tmp_path: Path) -> None:
    path = video_of(tmp_path, 6)
    name = upload(served, path).json()["id"]
    deadline = time.monotonic() + 60
    while (state := served.get(f"/v1/videos/{name}").json())["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (state["state"], state["frames"], state["total"]) == ("done", 6, 6), state
    lines = served.get(f"/v1/videos/{name}/result").text.splitlines()
    with VideoFile(path) as source:
        results = [one.result for one in run_video(runtime, source, Instruction(phrases=("dog",)))]
    with VideoReader(path) as reader:
        times = [frame.timestamp for frame in reader]
    assert [json.loads(line) for line in lines] == [
        {**result.record(), "timestamp": at} for result, at in zip(results, times, strict=True)
    ]
    assert httpx.delete(f"{served.url}/v1/videos/{name}", headers={"Authorization": f"Bearer {TOKEN}"}).is_success
    assert served.get(f"/v1/videos/{name}").status_code == 404


def test_a_crash_while_reading_a_video_is_that_videos_alone(served: Served, client: Client, tmp_path: Path) -> None:
    with client.stream("dog", drop="never") as stream:
        stream.step(frames(1)[0])
        name = upload(served, video_of(tmp_path, 60)).json()["id"]
        until = time.monotonic() + 60
        while served.get(f"/v1/videos/{name}").json()["frames"] == 0:
            assert time.monotonic() < until
            time.sleep(0.02)
        (reader,) = [one for one in served.process.children() if "x2sam_rt.serve.video_reader" in one.cmdline()]
        reader.send_signal(signal.SIGSEGV)
        while (state := served.get(f"/v1/videos/{name}").json())["state"] == "running":
            assert time.monotonic() < until
            time.sleep(0.02)
        assert (state["state"], state["error"]["code"]) == ("failed", "video")
        stream.step(frames(2)[1])
        assert stream.resumed == []


def test_a_client_comes_back_by_its_sessions_name(client: Client, runtime: Runtime) -> None:
    """From the last snapshot of three frames; a closed session is forgotten."""
    clip = frames(8)
    stream = client.stream("dog", drop="never")
    for frame in clip[:5]:
        stream.step(frame)
    stream._wire.close()  # as a connection that breaks
    with client.stream(session=stream.session, drop="never") as again, runtime.stream("dog") as session:
        kept = again.resumed[0]
        assert kept == 3  # the answer's snapshot at 0, then every three
        for frame in clip[: kept + 1]:
            session.step(frame)
        for number, frame in enumerate(clip[kept + 1 :], start=kept + 1):
            ours = again.step(frame)
            assert ours.frame == number
            require_equal(ours, session.step(frame))
    for name in (again.session, "0" * 32):
        with pytest.raises(ServeError) as caught:
            client.stream(session=name)
        assert caught.value.code == "snapshot"


def test_videos_that_are_none(served: Served, tmp_path: Path) -> None:
    bad = tmp_path / "playlist"
    bad.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n/etc/passwd\n")
    name = upload(served, bad).json()["id"]
    deadline = time.monotonic() + 20
    while (state := served.get(f"/v1/videos/{name}").json())["state"] == "running":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert state["state"] == "failed"
    assert state["error"]["code"] == "video"
    assert served.get(f"/v1/videos/{name}/result").status_code == 409


def test_a_killed_worker_costs_its_streams_a_few_frames_and_others_none(
    onnx_bundle: Path, runtime: Runtime, tmp_path: Path
) -> None:
    """Two workers; one is killed in mid-stream. Its session goes on from the last snapshot: what follows equals a
    session here that saw the same frames but those that were lost."""
    clip = frames(14)
    with serving(onnx_bundle, tmp_path, "--max-pixels=40000", "--save-every=3", devices=2) as served:
        client = Client(served.url, token=TOKEN)
        with (
            client.stream(PANOPTIC, drop="never") as hit,
            client.stream(PANOPTIC, drop="never") as spared,
            runtime.stream(PANOPTIC) as session,
            runtime.stream(PANOPTIC) as undisturbed,
        ):
            for frame in clip[:5]:
                hit.step(frame)
                require_equal(spared.step(frame), undisturbed.step(frame))
            before = served.workers()
            loads = [one.cpu_times().user for one in before]
            victim = _worker_of(hit, before, loads, clip[5])
            os.kill(victim.pid, signal.SIGKILL)
            first = hit.step(clip[6])
            assert len(hit.resumed) == 1
            kept = hit.resumed[0]
            assert kept is not None
            assert 3 <= kept <= 5
            for frame in clip[: kept + 1]:
                session.step(frame)
            require_equal(first, session.step(clip[6]))
            for frame in clip[7:]:
                require_equal(hit.step(frame), session.step(frame))
            for frame in clip[5:]:
                require_equal(spared.step(frame), undisturbed.step(frame))
            assert spared.resumed == []
        served.wait_for("x2sam_workers", 2)
        assert served.metric("x2sam_workers_lost_total") == 1


def _worker_of(stream: object, workers: list[psutil.Process], loads: list[float], frame: np.ndarray) -> psutil.Process:
    """The one that works when this stream does."""
    stream.step(frame)  # type: ignore[attr-defined]
    grown = [one.cpu_times().user - before for one, before in zip(workers, loads, strict=True)]
    return workers[int(np.argmax(grown))]


def test_without_snapshots_a_lost_worker_is_named(onnx_bundle: Path, tmp_path: Path) -> None:
    with serving(onnx_bundle, tmp_path, "--max-pixels=40000", "--save-every=0") as served:
        with Client(served.url, token=TOKEN).stream("dog", drop="never") as stream:
            stream.step(frames(1)[0])
            served.workers()[0].kill()
            with pytest.raises(ServeError) as caught:
                stream.step(frames(2)[1])
            assert caught.value.code == "worker_lost"
        served.wait_for("x2sam_workers", 1)


def test_it_ends_when_its_sessions_have(onnx_bundle: Path, tmp_path: Path) -> None:
    with serving(onnx_bundle, tmp_path, "--max-pixels=40000", "--drain-seconds=15") as served:
        client = Client(served.url, token=TOKEN)
        with client.stream("dog", drop="never") as stream:
            stream.step(frames(1)[0])
            served.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + 10
            while stream.draining is None:
                stream.step(frames(2)[1])
                assert time.monotonic() < deadline
            assert stream.draining == 15
            assert httpx.get(served.url + "/readyz").status_code == 503
            assert httpx.get(served.url + "/healthz").status_code == 200
            with pytest.raises(ServeError) as caught:
                client.stream("dog")
            assert caught.value.code == "draining"
            assert stream.snapshot()  # to go on elsewhere
        began = time.monotonic()
        served.process.wait(10)
        assert time.monotonic() - began < 8  # not the whole time that it would give
        assert {"draining"} <= {event["message"] for event in served.events()}


def test_sessions_share_fairly(client: Client) -> None:
    """Four that always have a frame waiting get the same, whatever their frames' size."""
    counts, until = [0, 0, 0, 0], time.monotonic() + 4

    def talk(which: int) -> None:
        frame = frames(1, *((45, 61) if which % 2 else (150, 200)))[0]
        with client.stream("dog", drop="never") as stream:
            while time.monotonic() < until:
                stream.step(frame)
                counts[which] += 1

    threads = [threading.Thread(target=talk, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    join_all(threads)
    assert min(counts) >= 0.8 * np.mean(counts), counts
