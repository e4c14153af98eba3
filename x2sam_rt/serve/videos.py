"""Uploaded videos: each is a session of its own, whose frames a process of its own reads from the file."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import tempfile
import time
from pathlib import Path
from typing import Literal

from fastapi import UploadFile

from x2sam_rt.errors import ServeError, X2SamError
from x2sam_rt.serve.hub import Hub
from x2sam_rt.serve.image import next_result
from x2sam_rt.serve.link import ChildProcess
from x2sam_rt.serve.live_session import LiveSession
from x2sam_rt.serve.messages import FROM_READER, Ask, Asked, Clip, Decoded, Failed, Frame, Open, Packet, code_of

log = logging.getLogger("x2sam_rt.serve")
_CHUNK = 2**20


class VideoJob:
    """One video. name: what its client knows it by. folder: of its own, removed with it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.state: Literal["running", "done", "failed", "cancelled"] = "running"
        self.frames = 0
        self.error: ServeError | None = None
        self.ended: float | None = None
        self.task: asyncio.Task[None] | None = None
        self.total: int | None = None

    @property
    def video(self) -> Path:
        return self.folder / "video"

    @property
    def result(self) -> Path:
        return self.folder / "masks.jsonl"


class Videos:
    """All that were uploaded, until their results are old."""

    def __init__(self, hub: Hub) -> None:
        self._hub, self._jobs = hub, dict[str, VideoJob]()

    async def begin(self, upload: UploadFile, asked: Asked) -> VideoJob:
        """Raises ServeError when too many run."""
        self._forget_old()
        if sum(job.state == "running" for job in self._jobs.values()) >= self._hub.settings.most_videos:
            raise ServeError("busy", f"{self._hub.settings.most_videos} videos are being segmented; try again later.")
        job = VideoJob(secrets.token_hex(16), Path(tempfile.mkdtemp(prefix="x2sam-rt-video-")))
        self._jobs[job.name] = job
        with job.video.open("wb") as file:
            while chunk := await upload.read(_CHUNK):
                file.write(chunk)
        job.task = asyncio.create_task(self._run(job, asked))
        return job

    def find(self, name: str) -> VideoJob:
        """Raises ServeError. Names are looked up, and never become a path."""
        self._forget_old()
        if name not in self._jobs:
            raise ServeError("not_found", "There is no such video here; results are kept for a while only.")
        return self._jobs[name]

    def result(self, name: str) -> Path:
        """Raises ServeError unless it is done."""
        job = self.find(name)
        if job.state != "done":
            raise ServeError("not_done", f"The video is {job.state}.")
        return job.result

    async def remove(self, name: str) -> VideoJob:
        job = self.find(name)
        await self._end(job)
        return self._jobs.pop(name)

    async def close(self) -> None:
        for name in list(self._jobs):
            await self.remove(name)

    async def _end(self, job: VideoJob) -> None:
        if job.task is not None and not job.task.done():
            job.task.cancel()
            await asyncio.gather(job.task, return_exceptions=True)
            job.state = "cancelled"
        shutil.rmtree(job.folder, ignore_errors=True)

    def _forget_old(self) -> None:
        oldest = time.monotonic() - self._hub.settings.keep_seconds
        for job in [one for one in self._jobs.values() if one.ended is not None and one.ended < oldest]:
            shutil.rmtree(self._jobs.pop(job.name).folder, ignore_errors=True)

    async def _run(self, job: VideoJob, asked: Asked) -> None:
        try:
            with self._hub.admit():
                await self._segment(job, asked)
            job.state = "done"
        except X2SamError as error:
            code = error.code if isinstance(error, ServeError) else code_of(error)
            job.error, job.state = ServeError(code, str(error)), "failed"
        finally:
            job.ended = time.monotonic()
            job.video.unlink(missing_ok=True)

    async def _segment(self, job: VideoJob, asked: Asked) -> None:
        placed, settings = _on_frames(asked), self._hub.settings
        arguments = [f"--video={job.video}", f"--most-pixels={settings.most_pixels}"]
        reader = await ChildProcess.start("x2sam_rt.serve.video_reader", arguments)
        try:
            reader.send(Packet(Ask(instruction=placed)))
            clip = await _next(reader)
            assert isinstance(clip.message, Clip), "comes before all frames"
            job.total = clip.message.total
            session = await self._hub.open(Packet(Open(drop="never")))
            try:
                session.offer(clip)
                await self._step_all(job, session, reader)
            finally:
                self._hub.close(session)
        finally:
            await reader.stop()

    async def _step_all(self, job: VideoJob, session: LiveSession, reader: ChildProcess) -> None:
        with job.result.open("w", encoding="utf-8") as lines:
            while isinstance(decoded := (packet := await _next(reader)).message, Decoded):
                if job.frames >= self._hub.settings.most_video_frames:
                    raise ServeError("too_large", f"The video has more than {job.frames} frames.")
                message = Frame(frame=job.frames, format="rgb", height=decoded.height, width=decoded.width)
                session.offer(Packet(message, packet.payload))
                record = {**(await next_result(session)).record, "timestamp": decoded.timestamp}
                lines.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
                job.frames += 1


async def _next(reader: ChildProcess) -> Packet:
    """What is read next. Raises ServeError where it cannot be read."""
    try:
        packet = await reader.receive(FROM_READER)
    except (asyncio.IncompleteReadError, OSError) as error:
        raise ServeError("video", "What read the video ended; the file may be damaged.") from error
    if isinstance(packet.message, Failed):
        raise ServeError(packet.message.code, packet.message.message)
    return packet


def _on_frames(asked: Asked) -> Asked:
    """A region of no frame is on the first."""
    regions = tuple(
        region if region.frame is not None else region.model_copy(update={"frame": 0}) for region in asked.regions
    )
    return asked.model_copy(update={"regions": regions})
