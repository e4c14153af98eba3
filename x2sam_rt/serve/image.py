"""A request's own session: opened, asked and closed here rather than by a client."""

from __future__ import annotations

from x2sam_rt.errors import ServeError
from x2sam_rt.serve.hub import Hub
from x2sam_rt.serve.live_session import LiveSession
from x2sam_rt.serve.messages import Asked, Closed, Failed, Frame, Open, Packet, Result


async def segment_image(hub: Hub, data: bytes, asked: Asked) -> Result:
    """data: a JPEG or PNG. Raises ServeError."""
    image_format = "png" if data.startswith(b"\x89PNG") else "jpeg"
    session = await hub.open(Packet(Open(instruction=asked, media="image", drop="never")))
    try:
        session.offer(Packet(Frame.model_validate({"frame": 0, "format": image_format}), data))
        return await next_result(session)
    finally:
        hub.close(session)


async def next_result(session: LiveSession) -> Result:
    """Raises ServeError for what the session tells instead."""
    while True:
        message = (await session.replies.get()).message
        session.read()
        match message:
            case Result():
                return message
            case Failed():
                raise ServeError(message.code, message.message)
            case Closed():
                raise ServeError("worker_lost", "The session ended before its result.")
