from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from x2sam_rt.errors import ConfigError, PromptError, SessionError, SnapshotError
from x2sam_rt.runtime.asking import ReAsk
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.tasks.instruction import Instruction, PostProcessOptions
from x2sam_rt.tasks.regions import Prompt

ALL = PostProcessOptions(threshold=0.0)
THINGS = {"things": ("cat", "dog"), "stuff": ("sky",)}
INSTRUCTIONS = {
    "referring": Instruction(phrases=("the red circle", "a dog")),
    "panoptic": Instruction("panoptic", **THINGS, options=ALL),
    "semantic": Instruction("semantic", **THINGS),
    "instance": Instruction("instance", **THINGS, options=ALL),
    "object": Instruction("object", regions=(Prompt.box(5, 5, 40, 30),), options=ALL),
    "vgd": Instruction("vgd", regions=(Prompt.point(9, 9), Prompt.mask(np.eye(45, 61))), phrases=("dog",), options=ALL),
    "gcg": Instruction("gcg", answer="<p>a boy</p> on <p>a bed</p>. <SEG>."),
    "chat": Instruction("chat", question="What is there?", max_new_tokens=4),
}


@pytest.fixture(scope="module")
def runtime(torch_bundle: Path) -> Iterator[Runtime]:
    with Runtime.load(torch_bundle) as loaded:
        yield loaded


def frames(count: int, height: int = 45, width: int = 61, seed: int = 0) -> list[np.ndarray]:
    noise = np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    rows, columns = np.arange(height) * 8 // height, np.arange(width) * 8 // width
    return [frame[np.ix_(rows, columns)] for frame in noise]


def require_equal(ours: FrameResult, theirs: FrameResult) -> None:
    assert (ours.index, ours.text, ours.spans) == (theirs.index, theirs.text, theirs.spans)
    assert np.array_equal(ours.segmentation.map, theirs.segmentation.map)
    assert np.array_equal(ours.masks, theirs.masks)
    assert ours.labels == theirs.labels
    assert ours.scores == theirs.scores  # to the last bit
    assert [one.id for one in ours.segments] == [one.id for one in theirs.segments]


@pytest.mark.parametrize("task", INSTRUCTIONS)
@pytest.mark.parametrize("seen", [1, 9], ids=["bank filling", "bank full"])
def test_a_resumed_session_gives_the_same_to_the_last_bit(runtime: Runtime, task: str, seen: int) -> None:
    clip = frames(seen) + frames(3, 33, 80, seed=1)  # of another size at last
    with runtime.stream(INSTRUCTIONS[task]) as session:
        for frame in clip[:seen]:
            session.step(frame)
        with runtime.resume(session.snapshot()) as resumed:
            for frame in clip[seen:]:
                require_equal(resumed.step(frame), session.step(frame))


def test_another_process_would_do(torch_bundle: Path, runtime: Runtime) -> None:
    """A runtime of its own shares no cache with the first; what is asked later is answered alike too."""
    clip = frames(6)
    with runtime.stream("dog") as session:
        session.step(clip[0])
        blob = session.snapshot()
        session.ask("the red circle")
        ours = [session.step(frame) for frame in clip[1:]]
    with Runtime.load(torch_bundle) as other, other.resume(blob) as resumed:
        resumed.ask("the red circle")
        for frame, our in zip(clip[1:], ours, strict=True):
            require_equal(resumed.step(frame), our)


def test_it_can_be_saved_again_and_is_the_same(runtime: Runtime) -> None:
    with runtime.stream(INSTRUCTIONS["vgd"]) as session:
        session.step(frames(1)[0])
        blob = session.snapshot()
        with runtime.resume(blob) as resumed:
            again = resumed.snapshot()
    assert metadata_of(again) == metadata_of(blob)
    assert {name: tensor.tolist() for name, tensor in load(again).items()} == {
        name: tensor.tolist() for name, tensor in load(blob).items()
    }


def test_before_any_frame(runtime: Runtime) -> None:
    clip = frames(2)
    with runtime.stream() as empty:
        nothing_yet = empty.snapshot()
    with runtime.resume(nothing_yet) as resumed, pytest.raises(SessionError, match="before any instruction"):
        resumed.step(clip[0])
    with runtime.stream("dog") as session, runtime.resume(session.snapshot()) as resumed:
        assert resumed.waiting
        for frame in clip:
            require_equal(resumed.step(frame), session.step(frame))


def test_the_policy_goes_on_counting(runtime: Runtime) -> None:
    clip = frames(9)
    with runtime.stream(INSTRUCTIONS["object"], again=ReAsk("every", 3)) as session:
        before = [session.step(frame) for frame in clip[:4]]
        assert "language" not in before[2].timings
        assert "language" in before[3].timings
        with runtime.resume(session.snapshot()) as resumed:
            for frame in clip[4:]:
                ours, theirs = resumed.step(frame), session.step(frame)
                require_equal(ours, theirs)
                assert ("language" in ours.timings) == ("language" in theirs.timings)


def test_what_is_being_answered_is_asked_anew(runtime: Runtime) -> None:
    with runtime.stream("dog") as session:
        session.step(frames(1)[0])
        session.ask("the red circle", wait=False)
        blob = session.snapshot()
    with runtime.resume(blob) as resumed:
        assert resumed.waiting
        resumed.wait_for_answer()
        assert resumed.step(frames(2)[1]).labels == ("the red circle",)


def test_it_holds_what_is_needed_and_each_frame_once(runtime: Runtime) -> None:
    """Sixteen frames, four slots and little else, however long the stream is."""
    with runtime.stream("dog") as session:
        for frame in frames(20):
            session.step(frame)
        session.ask("the red circle", wait=False)  # on the frames that are there already
        first = session.snapshot()
        for frame in frames(20):
            session.step(frame)
        session.wait_for_answer()
        bank = session.state().bank.memory.nbytes
        assert 0 <= len(first) - bank - 16 * 45 * 61 * 3 < 2**16
        assert len(session.snapshot()) <= len(first) + 64


def test_a_closed_session_cannot_be_saved(runtime: Runtime) -> None:
    session = runtime.stream("dog")
    session.close()
    with pytest.raises(SessionError, match="closed"):
        session.snapshot()


@pytest.fixture(scope="module")
def blob(runtime: Runtime) -> bytes:
    with runtime.stream(INSTRUCTIONS["panoptic"]) as session:
        for frame in frames(3):
            session.step(frame)
        return session.snapshot()


def metadata_of(blob: bytes) -> dict[str, str]:
    return json.loads(blob[8 : 8 + int.from_bytes(blob[:8], "little")])["__metadata__"]


def forged(blob: bytes, change: Callable[[dict], None], tensors: dict[str, torch.Tensor] | None = None) -> bytes:
    """The same with another state, all else in order."""
    metadata = metadata_of(blob)
    state = json.loads(metadata["state"])
    change(state)
    return save({**load(blob), **(tensors or {})}, {**metadata, "state": json.dumps(state)})


def nothing(state: dict) -> None:
    pass


def put(path: str, value: object) -> Callable[[dict], None]:
    def change(state: dict) -> None:
        *way, last = path.split(".")
        for key in way:
            state = state[int(key)] if isinstance(state, list) else state[key]  # type: ignore[assignment]
        state[last] = value

    return change


BIG = 10**18
FORGED = {
    "a field too many": put("more", 1),
    "a huge frame number": put("next_frame", 2**70),
    "a negative frame number": put("next_frame", -1),
    "a frame number that is text": put("next_frame", "7"),
    "a slot of the future": put("bank.frames", [0, 1, BIG]),
    "a slot twice": put("bank.frames", [0, 1, 1]),
    "slots that are not there": put("bank.written", 1),
    "a bank of no tensor": put("bank.memory", {"$tensor": "none"}),
    "a bank that is text": put("bank.memory", "memory"),
    "a bank that is a frame": put("bank.memory", {"$tensor": "1"}),
    "frames out of order": lambda state: state["asker"]["recent"].reverse(),
    "an id beyond 32 bits": put("rule.ids.next_id", 2**40),
    "ids without labels": put("rule.ids.labels", []),
    "no rule's memory": put("rule.ids", None),
    "no map": put("rule.masks", []),
    "conditions that are missing": put("answer.conditions", {"labels": [], "is_thing": []}),
    "conditions of no kind": put("answer.conditions.is_thing", [True]),
    "an unknown task": put("answer.instruction", {"$instruction": {"task": "none"}}),
    "an instruction that is none": put("answer.instruction", {"$instruction": []}),
    "another task": put("answer.instruction", {"$instruction": {"task": "chat", "question": "What?"}}),
    "regions that are not there": put(
        "answer.instruction",
        {"$instruction": {"task": "object", "regions": [{"kind": "box", "frame": 0, "corners": [0, 0, 5, 5]}]}},
    ),
    "a mask of a terapixel": put(
        "answer.instruction",
        {"$instruction": {"task": "object", "regions": [{"kind": "mask", "frame": 0, "rle": {
            "size": [2**20, 2**20], "counts": [0, 2**40]}}]}},
    ),
    "a phrase outside the answer": put("answer.text.spans", [{"start": 0, "end": BIG, "label_id": 0}]),
    "another media": put("media", "hologram"),
    "a policy of no kind": put("asker.policy.policy", "never"),
    "a deep nest": put("asker.before", json.loads("[" * 400 + "]" * 400)),
    "a number without end": put("asker.since", float("inf")),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_forged_states_are_refused(runtime: Runtime, blob: bytes, what: str) -> None:
    with pytest.raises((SnapshotError, PromptError, ConfigError)):
        runtime.resume(forged(blob, FORGED[what]))


@pytest.mark.parametrize(
    "tensor",
    [torch.full((45, 61), 2**30, dtype=torch.int32), torch.full((45, 61), -2, dtype=torch.int32), torch.zeros(0, 5)],
    ids=["segments without number", "below nothing", "no pixel"],
)
def test_forged_maps_are_refused(runtime: Runtime, blob: bytes, tensor: torch.Tensor) -> None:
    with pytest.raises(SnapshotError):
        runtime.resume(forged(blob, put("rule.masks", [{"$tensor": "map"}]), {"map": tensor}))


def test_numbers_that_are_not_finite_are_refused(runtime: Runtime, blob: bytes) -> None:
    with pytest.raises(SnapshotError, match="finite"):
        runtime.resume(forged(blob, nothing, {"nan": torch.full((2,), float("nan"))}))


def test_json_without_end_is_not_read(runtime: Runtime) -> None:
    """It would take many times its size."""
    with pytest.raises(SnapshotError, match="33554432 bytes of JSON"):
        runtime.resume((2**25).to_bytes(8, "little") + b"[" * 2**25)


def test_an_unchanged_forgery_passes(runtime: Runtime, blob: bytes) -> None:
    """So the others are refused for what was changed."""
    with runtime.resume(forged(blob, nothing)) as resumed:
        assert resumed.step(frames(1)[0]).index == 3


def test_bytes_that_are_no_snapshot_are_refused(runtime: Runtime, blob: bytes) -> None:
    length = int.from_bytes(blob[:8], "little")
    bad = [b"", b"\0" * 7, b"\xff" * 64, blob[:-1], blob[:8], blob + b"x", blob[8:], b"PK\x03\x04" + blob]
    bad += [BIG.to_bytes(8, "little") + blob[8:], (length + 1).to_bytes(8, "little") + blob[8:]]
    bad += [save({"x": torch.zeros(1)}), save({"x": torch.zeros(1)}, {"schema": "x2sam-rt snapshot 1"})]
    header = b'{"x":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    bad.append(len(header).to_bytes(8, "little") + header)  # says more than is there
    for one in bad:
        with pytest.raises(SnapshotError):
            runtime.resume(one)


def test_flipped_bits_are_refused_or_harmless(runtime: Runtime, blob: bytes) -> None:
    """Damage in the header is found or does not matter; what it leaves of a session can be stepped."""
    random, length = np.random.default_rng(0), int.from_bytes(blob[:8], "little")
    refused = 0
    for _ in range(60):
        damaged = bytearray(blob)
        damaged[int(random.integers(0, 8 + length))] ^= 1 << int(random.integers(8))
        try:
            with runtime.resume(bytes(damaged)) as resumed:
                resumed.step(frames(1)[0])
        except (SnapshotError, PromptError, ConfigError):
            refused += 1
    assert refused > 30


def test_another_bundles_snapshot_is_refused(runtime: Runtime, onnx_bundle: Path, blob: bytes) -> None:
    with Runtime.load(onnx_bundle) as other, pytest.raises(SnapshotError, match="another bundle"):
        other.resume(blob)


def test_backends_save_and_resume_alike(onnx_bundle: Path) -> None:
    clip = frames(4)
    with Runtime.load(onnx_bundle) as runtime, runtime.stream("dog") as session:
        for frame in clip[:2]:
            session.step(frame)
        with runtime.resume(session.snapshot()) as resumed:
            for frame in clip[2:]:
                require_equal(resumed.step(frame), session.step(frame))
