"""Uploaded videos: each is a session of its own, whose frames the server reads from the file."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from fastapi import UploadFile

from x2sam_rt.errors import ServeError, VideoError, X2SamError
from x2sam_rt.media.containers import open_container, video_stream
from x2sam_rt.media.sources import VideoFile
from x2sam_rt.media.video import VideoFrame
from x2sam_rt.runtime.prompt_frames import PromptFrames, read_prompt_frames
from x2sam_rt.serve.hub import Hub
from x2sam_rt.serve.image import next_result
from x2sam_rt.serve.live_session import LiveSession
from x2sam_rt.serve.messages import Asked, Clip, Frame, Open, Packet, code_of

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
        """As `runtime.run.run_video`: the instruction is answered on frames of all of the file."""
        placed = _on_frames(asked)
        await asyncio.to_thread(require_video, job.video, self._hub.settings.most_pixels)
        with await asyncio.to_thread(VideoFile, job.video) as source:
            job.total = source.num_frames
            clip = await asyncio.to_thread(read_prompt_frames, source, placed.instruction(_same(placed)))
            assert clip is not None, "a file is read twice"
            session = await self._hub.open(Packet(Open(drop="never")))
            try:
                session.offer(_clip_packet(placed, clip))
                await self._step_all(job, session, iter(source))
            finally:
                self._hub.close(session)

    async def _step_all(self, job: VideoJob, session: LiveSession, frames: Iterator[VideoFrame]) -> None:
        with job.result.open("w", encoding="utf-8") as lines:
            while (frame := await asyncio.to_thread(next, frames, None)) is not None:
                if job.frames >= self._hub.settings.most_video_frames:
                    raise ServeError("too_large", f"The video has more than {job.frames} frames.")
                height, width = frame.pixels.shape[:2]
                message = Frame(frame=job.frames, format="rgb", height=height, width=width)
                session.offer(Packet(message, frame.pixels.tobytes()))
                record = {**(await next_result(session)).record, "timestamp": frame.timestamp}
                lines.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
                job.frames += 1


def _on_frames(asked: Asked) -> Asked:
    """A region of no frame is on the first."""
    regions = tuple(
        region if region.frame is not None else region.model_copy(update={"frame": 0}) for region in asked.regions
    )
    return asked.model_copy(update={"regions": regions})


def _same(asked: Asked) -> dict[int, int] | None:
    """The file's own numbers, for every region."""
    return {region.frame: region.frame for region in asked.regions if region.frame is not None} or None


def _clip_packet(asked: Asked, clip: PromptFrames) -> Packet:
    drawn_on = tuple(sorted(clip.by_index))
    frames = [*clip.frames, *(clip.by_index[index] for index in drawn_on)]
    height, width = clip.frames[0].shape[:2]
    message = Clip(instruction=asked, height=height, width=width, shown=len(clip.frames), drawn_on=drawn_on)
    return Packet(message, b"".join(np.ascontiguousarray(frame.numpy()).tobytes() for frame in frames))


def require_video(path: Path, most_pixels: int) -> None:
    """Raises VideoError for a file that is no single video of frames that are small enough. FFmpeg would also play
    lists of other files."""
    with path.open("rb") as file:
        head = file.read(12)
    if not (head[4:8] == b"ftyp" or head[:4] == b"\x1aE\xdf\xa3" or (head[:4], head[8:]) == (b"RIFF", b"AVI ")):
        raise VideoError("The upload is no MP4, MOV, MKV, WebM or AVI file.")
    with open_container(path) as container:
        context = video_stream(container, path).codec_context
        if context.width * context.height > most_pixels:
            raise VideoError(f"The video is {context.width}×{context.height}; up to {most_pixels} pixels are taken.")
