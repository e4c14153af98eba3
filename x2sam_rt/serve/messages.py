"""Every message between a client, the server and its workers, and how they cross a wire (`docs/serving.md`).

A message is JSON. One that brings bytes (an image, masks, a snapshot) is a packet: 4 bytes with the length of the JSON,
big-endian, the JSON, the bytes. Over a WebSocket, packets are binary messages, and JSON alone may come as text.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from x2sam_rt.errors import PromptError, ProtocolError, X2SamError
from x2sam_rt.tasks.instruction import MAX_NEW_TOKENS, Instruction

Drop = Literal["oldest", "never"]
Masks = Literal["rle", "png"]
PixelFormat = Literal["jpeg", "png", "rgb"]
_LENGTH = struct.Struct(">I")
MOST_JSON = 2**20  # of the JSON of a client's message; a drawn mask is the largest part it can have
MOST_SIDE = 2**14
_FEW = 200  # characters of what is said of a message

FrameNumber = Annotated[int, Field(ge=0, lt=2**53)]  # JSON's whole numbers, in a browser too
Text = Annotated[str, Field(max_length=4096)]
Texts = Annotated[tuple[Annotated[str, Field(max_length=512)], ...], Field(max_length=256)]
Coordinate = Annotated[float, Field(gt=-(2**31), lt=2**31, allow_inf_nan=False)]
Vertex = tuple[Coordinate, Coordinate]
Side = Annotated[int, Field(ge=1, le=MOST_SIDE)]
Share = Annotated[float, Field(ge=0, le=1)]
FramePair = tuple[FrameNumber, FrameNumber]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Stroke(_Message):
    """Points or scribbles. frame: the client's number of the frame it is drawn on; None = the last one that was
    segmented, or the first. wanted: false for what is not meant. vertices: (x, y) in its pixels."""

    kind: Literal["point", "scribble"]
    frame: FrameNumber | None = None
    wanted: bool = True
    vertices: Annotated[tuple[Vertex, ...], Field(min_length=1, max_length=1024)]
    radius: Annotated[int, Field(ge=0, le=1024)] = 10


class Box(_Message):
    """corners: left, top, right, bottom in pixel edges."""

    kind: Literal["box"]
    frame: FrameNumber | None = None
    wanted: bool = True
    corners: tuple[Coordinate, Coordinate, Coordinate, Coordinate]


class Rle(_Message):
    """COCO's compressed run lengths. size: [height, width]."""

    size: tuple[Side, Side]
    counts: Annotated[str, Field(max_length=MOST_JSON)]


class Drawn(_Message):
    kind: Literal["mask"]
    frame: FrameNumber | None = None
    wanted: bool = True
    rle: Rle


class Options(_Message):
    """As `PostProcessOptions`."""

    threshold: Share | None = None
    mask_threshold: Share = 0.5
    overlap: Share = 0.8
    restart_ids: bool = False
    anchored: bool = True
    together: Share | None = None
    presence: Share | None = None


class Asked(_Message):
    """An instruction, as `x2sam_rt.Instruction` has it; a text in `phrases` alone asks for what it refers to."""

    task: Annotated[str, Field(max_length=32)] = "referring"
    phrases: Texts = ()
    things: Texts = ()
    stuff: Texts = ()
    order: Annotated[tuple[int, ...], Field(max_length=512)] = ()
    regions: Annotated[
        tuple[Annotated[Stroke | Box | Drawn, Field(discriminator="kind")], ...], Field(max_length=32)
    ] = ()
    question: Text | None = None
    explain: bool = False
    generate: bool = False
    answer: Text | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = MAX_NEW_TOKENS
    stop: Annotated[tuple[Annotated[str, Field(max_length=256)], ...], Field(max_length=16)] = ()
    options: Options = Options()

    def instruction(self, numbers: dict[int, int] | None = None) -> Instruction:
        """numbers: the client's frame numbers that can be drawn on, and the stream's own; None = the first frame, of
        whatever number. Raises PromptError or ConfigError."""
        data = self.model_dump()
        for region in data["regions"]:
            region["frame"] = _stream_number(region["frame"], numbers)
        return Instruction.from_json(data)

    @classmethod
    def of(cls, instruction: Instruction) -> Asked:
        return _ASKED.validate_json(json.dumps(instruction.to_json()))


_ASKED: TypeAdapter[Asked] = TypeAdapter(Asked)


def _stream_number(frame: int | None, numbers: dict[int, int] | None) -> int:
    if numbers is None:
        return 0
    if frame is None:
        return max(numbers.values())
    if frame not in numbers:
        raise PromptError(f"Frame {frame} is not at hand; frames {sorted(numbers)} can be drawn on.")
    return numbers[frame]


# ---- what a client says


class Open(_Message):
    """The first message of a stream. drop: what gives way when frames come faster than they are segmented: the oldest
    that waits, or nothing, and then the client. again: when the instruction is asked again (`ReAsk`), beside the
    stream."""

    type: Literal["open"] = "open"
    instruction: Asked | None = None
    drop: Drop = "oldest"
    masks: Masks = "rle"
    again: Annotated[str, Field(max_length=64)] = "once"
    media: Literal["image", "video"] = "video"


class Resume(_Message):
    """The first message of a stream that was saved. Bytes: the snapshot. frames: as `Saved` has them. size: bytes of
    the whole snapshot, where it comes in parts: the first with this, the others as `Part`. session: instead of all
    that, the name of one whose last snapshot the server keeps; `Resumed` then says where it goes on."""

    type: Literal["resume"] = "resume"
    size: Annotated[int, Field(ge=0, lt=2**53)] | None = None
    session: Annotated[str, Field(max_length=64)] | None = None
    frames: Annotated[tuple[FramePair, ...], Field(max_length=64)] = ()
    drop: Drop = "oldest"
    masks: Masks = "rle"


class Part(_Message):
    """Bytes: the next ones of a snapshot that a `Resume` has begun."""

    type: Literal["part"] = "part"


class Frame(_Message):
    """Bytes: the image. frame: the client's number; each must be larger than the one before. height, width: of raw
    RGB."""

    type: Literal["frame"] = "frame"
    frame: FrameNumber
    format: PixelFormat = "jpeg"
    height: Side | None = None
    width: Side | None = None


class Ask(_Message):
    """Another instruction, for the frames that come after it. wait: the next frame is segmented by its answer and waits
    for it; otherwise frames go on under the answer in force. number: comes back with the answer."""

    type: Literal["ask"] = "ask"
    instruction: Asked
    number: FrameNumber = 0
    keep_memory: bool = True
    wait: bool = False


class Save(_Message):
    """Asks for a snapshot."""

    type: Literal["save"] = "save"


class Close(_Message):
    type: Literal["close"] = "close"


class Clip(_Message):
    """Of the server alone, for a file: what its instruction is answered on. Bytes: the frames, raw RGB of one size,
    `shown` of them for the language model, then those of `drawn_on`. total: frames of the file, where it is known."""

    type: Literal["clip"] = "clip"
    instruction: Asked
    height: int
    width: int
    shown: int
    drawn_on: tuple[int, ...]
    total: int | None = None


class Decoded(_Message):
    """Of the server alone, the next frame of a file. Bytes: raw RGB."""

    type: Literal["decoded"] = "decoded"
    height: int
    width: int
    timestamp: float | None


# ---- what a server says


class Opened(_Message):
    type: Literal["opened"] = "opened"
    session: str


class Result(_Message):
    """frame: the client's number. record: as `FrameResult.record`, whose own frame number counts what was segmented;
    with PNG masks, `rle` is left out, and the bytes are one PNG after the other, `png_sizes` long. timings:
    milliseconds per stage; `served`: from receipt to this. dropped: the client's frames that gave way since the last
    result, the last thousand of them; dropped_in_all: since the beginning."""

    type: Literal["result"] = "result"
    frame: FrameNumber
    record: dict[str, Any]
    png_sizes: tuple[int, ...] = ()
    timings: dict[str, float]
    dropped: tuple[FrameNumber, ...] = ()
    dropped_in_all: int = 0


class Answered(_Message):
    """An instruction has its answer. frame: the first that is segmented by it. number: of the question; None for one
    asked again."""

    type: Literal["answered"] = "answered"
    frame: FrameNumber
    number: FrameNumber
    text: str
    labels: tuple[str, ...]


class Saved(_Message):
    """Bytes: the snapshot. frames: the client's numbers of the frames in it, with the stream's own. asks: instructions
    that it knows of, since the session was opened. wanted: whether the client asked for it."""

    type: Literal["saved"] = "saved"
    frames: tuple[FramePair, ...]
    asks: int = 0
    wanted: bool = True


class Resumed(_Message):
    """What segmented the stream had to be replaced. It goes on from after this frame, the last that is remembered;
    None: from the beginning. Results of later frames stay right; what they added to the memory is lost."""

    type: Literal["resumed"] = "resumed"
    frame: FrameNumber | None


class Draining(_Message):
    """The server ends; the stream is closed after so many seconds. A snapshot goes on elsewhere."""

    type: Literal["draining"] = "draining"
    seconds: float


class Failed(_Message):
    """code: a name that programs can read. frame, number: of the frame or the question it is about. fatal: the stream
    is closed."""

    type: Literal["error"] = "error"
    code: str
    message: str
    frame: FrameNumber | None = None
    number: FrameNumber | None = None
    fatal: bool = False


class Closed(_Message):
    """The last message. results: frames that were segmented."""

    type: Literal["closed"] = "closed"
    results: int
    dropped: int


class Ready(_Message):
    """Of a worker alone, once its engines run. session_bytes: of a stream's buffers, without its frames.
    free_bytes: of the device's memory, where it has its own."""

    type: Literal["ready"] = "ready"
    session_bytes: int
    device: str
    bundle: str
    tasks: tuple[str, ...]
    free_bytes: int | None = None


FromClient = Annotated[Open | Resume | Part | Frame | Ask | Save | Close, Field(discriminator="type")]
FromServer = Annotated[
    Opened | Result | Answered | Saved | Resumed | Draining | Failed | Closed, Field(discriminator="type")
]
ToWorker = Annotated[Open | Resume | Frame | Ask | Save | Close | Clip, Field(discriminator="type")]
FromWorker = Annotated[Ready | Result | Answered | Saved | Failed, Field(discriminator="type")]
AnyMessage = Open | Resume | Part | Frame | Ask | Save | Close | Clip | Decoded | Opened | Result | Answered | Saved
Message = AnyMessage | Resumed | Draining | Failed | Closed | Ready
FromReader = Annotated[Clip | Decoded | Close | Failed, Field(discriminator="type")]
FROM_CLIENT: TypeAdapter[FromClient] = TypeAdapter(FromClient)
FROM_SERVER: TypeAdapter[FromServer] = TypeAdapter(FromServer)
TO_WORKER: TypeAdapter[ToWorker] = TypeAdapter(ToWorker)
FROM_WORKER: TypeAdapter[FromWorker] = TypeAdapter(FromWorker)
FROM_READER: TypeAdapter[FromReader] = TypeAdapter(FromReader)


@dataclass(frozen=True, eq=False)
class Packet:
    """A message with the bytes it brings. session: whose it is, between a server and its workers."""

    message: Message
    payload: bytes = b""
    session: int = 0


def encode(message: Message, payload: bytes = b"") -> bytes:
    """A packet as a binary WebSocket message."""
    text = message.model_dump_json().encode()
    return _LENGTH.pack(len(text)) + text + payload


def decode(data: str | bytes, kind: TypeAdapter[Any], most_json: int = 2**31) -> Packet:
    """What came over a WebSocket. kind: what may come. Raises ProtocolError."""
    text, payload = (data.encode("utf-8", "surrogatepass"), b"") if isinstance(data, str) else _parts(data)
    if len(text) > most_json:
        raise ProtocolError(f"A message of {len(text)} bytes of JSON; wanted up to {most_json}.")
    try:
        return Packet(kind.validate_json(text), payload)
    except ValidationError as error:
        raise ProtocolError(f"Not a message of this place: {explained(error)}.") from error


def _parts(data: bytes) -> tuple[bytes, bytes]:
    if len(data) < _LENGTH.size:
        raise ProtocolError(f"A packet of {len(data)} bytes; wanted the length of its JSON first, in {_LENGTH.size}.")
    end = _LENGTH.size + _LENGTH.unpack_from(data)[0]
    if end > len(data):
        raise ProtocolError(f"A packet whose JSON ends at {end}, of {len(data)} bytes.")
    return data[_LENGTH.size : end], data[end:]


def explained(error: ValidationError) -> str:
    """The first things that are wrong."""
    return in_few_words(error.errors(include_url=False, include_input=False, include_context=False))


def in_few_words(found: Sequence[Any]) -> str:
    """found: pydantic's errors. Names and tags in them are the client's own, of any length."""
    return "; ".join(f"{'.'.join(map(str, one['loc']))[:_FEW] or 'message'}: {one['msg'][:_FEW]}" for one in found[:3])


def code_of(error: X2SamError) -> str:
    """PromptError → "prompt", NoMasksError → "no_masks"."""
    name = type(error).__name__.removesuffix("Error")
    return "".join("_" + c.lower() if c.isupper() and i else c.lower() for i, c in enumerate(name))
