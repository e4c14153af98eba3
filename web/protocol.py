"""Writes what the page shares with the server, from the server's own classes: `src/protocol.ts`, the messages' types,
and `test/vectors.json`, packets, masks and colours as Python has them.

python web/protocol.py
"""

from __future__ import annotations

import json
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np
from pydantic import BaseModel

from x2sam_rt.media.colors import color_of, text_color_on
from x2sam_rt.media.rle import RunLengths, encode_mask
from x2sam_rt.runtime.results import FrameRecord, SegmentRecord, SpanRecord
from x2sam_rt.serve import app, messages

HERE = Path(__file__).parent
PROTOCOL, VECTORS = HERE / "src" / "protocol.ts", HERE / "test" / "vectors.json"
HEAD = "// Written by web/protocol.py from x2sam_rt/serve/messages.py and app.py; edit those.\n"
PLAIN = {str: "string", int: "number", float: "number", bool: "boolean", type(None): "null", Any: "unknown"}
ASKED = (messages.Stroke, messages.Box, messages.Rle, messages.Drawn, messages.Options, messages.Asked)
REGIONS = (messages.Stroke, messages.Box, messages.Drawn)
FROM_CLIENT = (
    messages.Open,
    messages.Resume,
    messages.Part,
    messages.Frame,
    messages.Ask,
    messages.Save,
    messages.Close,
)
FROM_SERVER = (
    messages.Opened, messages.Result, messages.Answered, messages.Saved, messages.Resumed, messages.Draining,
    messages.Failed, messages.Closed,
)  # fmt: skip
RECORDS = (RunLengths, SegmentRecord, SpanRecord, FrameRecord)
ANSWERS = (app.Problem, app.Shown, app.Info, app.ShownPass, app.ImageResult, app.VideoState)


def typescript(hint: Any) -> str:
    """A Python annotation as TypeScript's type."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return typescript(arguments[0])
    if origin is Literal:
        return " | ".join(json.dumps(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(map(typescript, arguments))
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"[{', '.join(map(typescript, arguments))}]"
    if origin in (tuple, list):
        return f"Array<{typescript(arguments[0])}>"
    if origin is dict:
        return f"Record<{typescript(arguments[0])}, {typescript(arguments[1])}>"
    return PLAIN.get(hint) or str(hint.__name__)


def interface(cls: type, sent: bool) -> str:
    """sent: fields with a default may be left out. What is received has them all."""
    lines = []
    for name in getattr(cls, "model_fields", cls.__annotations__):
        hint = get_type_hints(cls, include_extras=True)[name]
        shown = "FrameRecord" if name == "record" else typescript(hint)
        lines.append(f"  {name}{'?' if sent and may_be_left_out(cls, name) else ''}: {shown};")
    return "\n".join([f"export interface {cls.__name__} {{", *lines, "}", ""])


def may_be_left_out(cls: type, name: str) -> bool:
    return issubclass(cls, BaseModel) and name != "type" and not cls.model_fields[name].is_required()


def union(name: str, classes: Sequence[type]) -> str:
    return f"export type {name} = {' | '.join(cls.__name__ for cls in classes)};\n"


def protocol() -> str:
    sent = [interface(cls, sent=True) for cls in ASKED + FROM_CLIENT]
    received = [interface(cls, sent=False) for cls in RECORDS + FROM_SERVER + ANSWERS]
    unions = [union("Region", REGIONS), union("FromClient", FROM_CLIENT), union("FromServer", FROM_SERVER)]
    return "\n".join([HEAD, *sent, *received, *unions])


def vectors() -> dict[str, Any]:
    """What both languages must compute alike."""
    rng = np.random.default_rng(0)
    shapes = ((1, 1), (1, 9), (9, 1), (31, 45))
    masks = [rng.random(shape) < share for shape in shapes for share in (0.0, 0.1, 0.9, 1.0)]
    frame = messages.Frame(frame=7, format="png")
    return {
        "masks": [{"rle": encode_mask(mask), "pixels": mask.astype(int).tolist()} for mask in masks],
        "colors": [{"color": color_of(id), "text": text_color_on(color_of(id))} for id in range(300)],
        "packet": {
            "message": frame.model_dump(),
            "bytes": list(messages.encode(frame, b"\x00\xff")),
            "payload": [0, 255],
        },
        "result": {"bytes": list(messages.encode(messages.Saved(frames=((4, 0),)), b"abc")), "payload": list(b"abc")},
    }


def main() -> None:
    PROTOCOL.write_text(protocol())
    VECTORS.write_text(json.dumps(vectors(), separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
