"""Messages and requests that nobody would write: each is answered, none is an error of the server's own."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

pytest.importorskip("schemathesis", reason="make test-serve installs it")
pytest.importorskip("hypothesis", reason="make test-serve installs it")

import httpx
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from serving import TOKEN, Served
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from x2sam_rt.errors import ProtocolError
from x2sam_rt.serve.messages import (
    FROM_CLIENT,
    FROM_SERVER,
    MOST_JSON,
    Ask,
    Asked,
    Box,
    Close,
    Frame,
    Open,
    Options,
    Part,
    Resume,
    Save,
    Stroke,
    decode,
    encode,
)

# make fuzz-messages: a million.
MESSAGES = int(os.environ.get("X2SAM_RT_FUZZ", "100000"))
SENT = MESSAGES // 50  # of those, over a wire to a server
TOGETHER = 8  # on one connection, unless it ends before
DRAWN, ON_A_WIRE = 1500, 150  # of the strategy below, read here and sent to a server
REQUESTS = 25  # to each of its addresses
BEARER = {"Authorization": f"Bearer {TOKEN}"}
_FEW = {"deadline": None, "suppress_health_check": list(HealthCheck), "database": None, "derandomize": True}

WORDS = """
    type open resume frame ask save close clip instruction phrases task things regions kind point box mask corners
    vertices radius rle size counts number wait drop never oldest masks png again media image width height format rgb
    frames options threshold
"""
words = st.sampled_from(WORDS.split())
leaves = st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=20)
values = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4), max_leaves=12
)
numbers = st.integers(-1, 3) | st.integers(0, 2**53)
regions = st.fixed_dictionaries(
    {"kind": st.sampled_from(["point", "scribble", "box", "mask", "x"])},
    optional={
        "frame": numbers | st.none(),
        "vertices": st.lists(st.tuples(numbers, numbers), max_size=3),
        "corners": st.tuples(numbers, numbers, numbers, numbers),
        "rle": st.fixed_dictionaries({"size": st.tuples(numbers, numbers), "counts": st.text(max_size=9)}),
    },
)
instructions = st.fixed_dictionaries(
    {"max_new_tokens": st.integers(0, 3)},  # random weights never come to an end
    optional={
        "task": st.sampled_from(["referring", "panoptic", "object", "vgd", "chat", "none"]),
        "phrases": st.lists(st.text(max_size=5), max_size=2),
        "things": st.lists(st.text(max_size=5), max_size=2),
        "regions": st.lists(regions, max_size=2),
        "question": st.text(max_size=5),
        "answer": st.sampled_from(["<p>a</p> <SEG>", "", "<SEG>"]),
    },
)
near = st.fixed_dictionaries(
    {"type": st.sampled_from(["open", "resume", "frame", "ask", "save", "close", "x"])},
    optional={
        "instruction": instructions | values, "frame": numbers, "number": numbers, "wait": st.booleans(),
        "format": st.sampled_from(["jpeg", "png", "rgb"]), "height": numbers, "width": numbers, "drop": words,
        "frames": st.lists(st.tuples(numbers, numbers), max_size=3), "again": words, "media": words,
    },
)  # fmt: skip
objects = near | values
texts = objects.map(lambda one: json.dumps(one))
packets = st.tuples(texts, st.binary(max_size=60)).map(
    lambda two: len(two[0].encode()).to_bytes(4, "big") + two[0].encode() + two[1]
)
SOUND = [
    Open(instruction=Asked(phrases=("the dog",), options=Options(threshold=0.25))),
    Resume(frames=((5, 0), (9, 1)), masks="png"),
    Resume(frames=((5, 0),), size=20),
    Part(),
    Frame(frame=7, format="rgb", height=2, width=3),
    Ask(instruction=Asked(task="object", regions=(Stroke(kind="point", vertices=((1, 2),)),)), number=3, wait=True),
    Ask(instruction=Asked(task="vgd", regions=(Box(kind="box", corners=(0, 1, 2, 3.5)),))),
    Save(),
    Close(),
]
messages = texts | packets | st.binary(max_size=80) | st.text(max_size=40)


def read(data: str | bytes) -> None:
    """What is a message, is the same after another crossing; what is none, is refused in few words."""
    refusal = ""
    try:
        packet = decode(data, FROM_CLIENT, MOST_JSON)
        again = decode(encode(packet.message, packet.payload), FROM_CLIENT, MOST_JSON)
        assert (again.message, again.payload) == (packet.message, packet.payload)
    except ProtocolError as error:
        refusal = str(error)
    assert len(refusal) < 2000


@settings(max_examples=DRAWN, **_FEW)
@given(messages)
def test_every_message_is_one_or_is_refused(data: str | bytes) -> None:
    read(data)


ODD = [None, True, -1, 0, 1, 2.5, 2**31, 2**53, 1e300, "", "x", "x" * 5000, "\ud800", "open", [], [[]], [1, 2], {}]


def bent_messages(seed: int) -> Iterator[str | bytes]:
    """Sound ones, half of them with bytes changed, half with parts of their JSON; as packets, and as text."""
    chance = random.Random(seed)
    texts, payloads = [one.model_dump_json() for one in SOUND], [b"", b"\xff\xd8\xff", bytes(18)]
    while True:
        text, payload = chance.choice(texts), chance.choice(payloads)
        if chance.random() < 0.5:
            text = json.dumps(bent_object(json.loads(text), chance))
        as_bytes = chance.random() < 0.7
        packet = len(text).to_bytes(4, "big") + text.encode() + payload if as_bytes else text.encode()
        if chance.random() < 0.5:
            packet = bent_bytes(packet, chance)
        yield packet if as_bytes else packet.decode("utf-8", "replace")


def bent_object(found: Any, chance: random.Random) -> Any:
    """With one part, somewhere, replaced, left out or added."""
    if isinstance(found, dict | list) and found and chance.random() < 0.8:
        key = chance.choice(list(found)) if isinstance(found, dict) else chance.randrange(len(found))
        match chance.randrange(8):
            case 0:
                del found[key]
            case 1 if isinstance(found, dict):
                found[chance.choice(WORDS.split())] = chance.choice(ODD)
            case _:
                found[key] = bent_object(found[key], chance)
        return found
    return chance.choice(ODD)


def bent_bytes(packet: bytes, chance: random.Random) -> bytes:
    """With a few bytes changed, doubled or left out."""
    bent = bytearray(packet)
    for _ in range(chance.randint(1, 3)):
        at, to = sorted(chance.randrange(len(bent) + 1) for _ in range(2))
        match chance.randrange(3):
            case 0 if at < len(bent):
                bent[at] = chance.randrange(256)
            case 1:
                bent[at:at] = bent[at:to][:50]
            case _:
                del bent[at : at + chance.randrange(8)]
    return bytes(bent)


def test_messages_that_were_bent() -> None:
    for message in islice(bent_messages(0), MESSAGES):
        read(message)


def test_bent_messages_over_a_wire(served: Served) -> None:
    """Behind a first message that is sound, so that they come to a session; half of them in streams that stay open, for
    those that can be read are let through to it."""
    memory, messages = [one.memory_info().rss for one in (served.process, *served.workers())], bent_messages(1)
    sound = (one for one in messages if is_message(one))
    for number in range(SENT // TOGETHER):
        exchange(served, [encode(SOUND[0]), *islice(sound if number % 2 else messages, TOGETHER)])
    served.wait_for("x2sam_sessions", 0)
    after = [one.memory_info().rss for one in (served.process, *served.workers())]
    assert sum(after) - sum(memory) < 60 * 2**20


def is_message(data: str | bytes) -> bool:
    try:
        return not isinstance(decode(data, FROM_CLIENT, MOST_JSON).message, Open | Resume)
    except ProtocolError:
        return False


@settings(max_examples=ON_A_WIRE, **_FEW)
@given(first=messages, rest=st.lists(messages, max_size=6))
def test_a_server_answers_them_all(served: Served, first: str | bytes, rest: list[str | bytes]) -> None:
    exchange(served, [first, *rest])


def exchange(served: Served, said: list[str | bytes]) -> None:
    """On a connection of their own, to its end, which is a sound one."""
    adapter: TypeAdapter[Any] = FROM_SERVER
    with connect(served.url.replace("http", "ws") + "/v1/stream", additional_headers=BEARER, compression=None) as wire:
        code: int | None = 1000
        try:
            for message in (*said, '{"type": "close"}'):
                wire.send(message)
            while decode(wire.recv(20), adapter).message.type != "closed":
                pass
        except ConnectionClosed as error:
            code = None if error.rcvd is None else error.rcvd.code
        assert code in (1000, 1007, 1008)  # ended, no text, refused


def test_afterwards_it_is_as_before(served: Served) -> None:
    served.wait_for("x2sam_sessions", 0)
    assert served.metric("x2sam_workers_lost_total") == 0
    assert [event for event in served.events() if event["level"] == "error" or "exception" in event] == []


def test_requests_made_of_the_description(served: Served) -> None:
    """Valid ones and broken ones: no error of the server's own, and only answers that it describes."""
    schema = schemathesis.openapi.from_dict(httpx.get(served.url + "/openapi.json").json())
    for operation in schema.get_all_operations():

        @settings(max_examples=REQUESTS, **_FEW)
        @given(case=operation.ok().as_strategy())
        def check(case: schemathesis.Case) -> None:
            answer = case.call(base_url=served.url, headers=BEARER, timeout=30)
            assert answer.status_code < 500 or answer.status_code == 503, answer.text
            described = {int(code) for code in case.operation.definition.raw["responses"] if code.isdigit()}
            assert answer.status_code in described | {404, 405}, (answer.status_code, answer.text)

        check()
