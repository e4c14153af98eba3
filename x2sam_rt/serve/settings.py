"""What a server allows: every limit in one place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from x2sam_rt.errors import ConfigError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class WorkerConfig:
    """most_pixels: of a frame. save_every: frames between snapshots; 0 = none are taken but those asked for. threads:
    PyTorch's; None = its choice."""

    bundle: Path
    device: str | None = None
    context: int | None = None
    threads: int | None = None
    most_pixels: int = 1920 * 1080
    save_every: int = 30

    def arguments(self) -> list[str]:
        """As `main` takes them."""
        return [f"--{name}={value}" for name, value in vars(self).items() if value is not None]


@dataclass(frozen=True)
class Settings:
    """devices: one worker each; None = where the bundle's engines were built for. token: that clients must bring.
    memory: bytes for sessions; None = half of what is free once the workers run. sessions: at most so many, whatever
    the memory. most_*: pixels of a frame, bytes of a message, of an upload, frames of a video, videos at once;
    kept, bytes of snapshots for clients who come back.
    save_every: frames between a session's snapshots; 0 = none, and a lost worker loses its streams. *_seconds: hello,
    until the first message of a connection or the head of a request is there; idle, between messages; total, of a
    session; upload, of a request's body; keep, of a video's result, and of a session's snapshot; drain, that sessions
    get to end when the server does. origins: of pages that may call (CORS)."""

    bundle: Path
    host: str = "127.0.0.1"
    port: int = 8000
    devices: tuple[str | None, ...] = (None,)
    threads: int | None = None
    context: int | None = None
    token: str | None = None
    origins: tuple[str, ...] = ()
    memory: int | None = None
    sessions: int = 256
    most_pixels: int = 1920 * 1080
    most_message: int = 8 * 2**20
    most_upload: int = 256 * 2**20
    most_video_frames: int = 20_000
    most_videos: int = 2
    most_kept: int = 256 * 2**20
    save_every: int = 30
    hello_seconds: float = 10
    idle_seconds: float = 60
    total_seconds: float = 4 * 3600
    upload_seconds: float = 120
    keep_seconds: float = 600
    drain_seconds: float = 20

    def __post_init__(self) -> None:
        if self.token is None and self.host not in LOOPBACK:
            raise ConfigError(
                f"--host {self.host} can be reached by others, and there is no token: set X2SAM_RT_TOKEN, or serve on "
                "127.0.0.1 behind something that checks who comes."
            )
        if self.token is not None and len(self.token) < 16:
            raise ConfigError(f"The token has {len(self.token)} characters; wanted 16 or more, which nobody guesses.")
        if not self.devices or self.sessions < 1 or self.most_pixels < 1 or self.save_every < 0:
            raise ConfigError("A server needs a device, room for a session and frames of one pixel or more.")

    @property
    def frame_bytes(self) -> int:
        return self.most_pixels * 3

    def worker(self, device: str | None) -> WorkerConfig:
        return WorkerConfig(self.bundle, device, self.context, self.threads, self.most_pixels, self.save_every)
