"""Damaged films and images, decoded in a process of their own: a decoder that crashes must not take the fuzzer along.

Memory is limited to what the largest sound seed needs many times over, and an input that takes a second ends it.
"""

from __future__ import annotations

import random
import resource
import selectors
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import mutate as mutations
import numpy as np

from x2sam_rt.errors import X2SamError

HERE = Path(__file__).parent
_MOST_SECONDS = 5.0  # of waiting, on a machine that does other things too
_MOST_MEMORY = 8 * 2**30  # of addresses: FFmpeg's threads reserve much and use little


def decode(path: Path) -> str:
    """What became of a file, in a word. Raises what is not promised."""
    from x2sam_rt.media.image import read_image
    from x2sam_rt.media.video import VideoReader

    try:
        if path.suffix == ".mp4":
            with VideoReader(path) as video:
                return str(sum(1 for _ in video))
        return str(read_image(path).shape)
    except X2SamError as error:
        return type(error).__name__


def work() -> None:
    """A path per line in, a line per file out."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    for line in sys.stdin:
        print(decode(Path(line.strip())), flush=True)


class Worker:
    """A process that decodes, begun anew when it is gone."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def decode(self, path: Path) -> str:
        """Raises RuntimeError when the process crashed or did not answer in time."""
        if self._process is None:
            command = [sys.executable, str(Path(__file__)), "work"]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self._ask("/nowhere.png", 120.0)
        return self._ask(str(path), _MOST_SECONDS)

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _ask(self, line: str, seconds: float) -> str:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            answered = ready.select(seconds)
        answer = process.stdout.readline() if answered else ""
        if not answer.endswith("\n"):
            code = process.poll()
            self.close()
            raise RuntimeError(f"no answer within {seconds} s" if code is None else f"the process ended with {code}")
        return answer.strip()


def seeds(folder: Path) -> list[Path]:
    """Small sound files of each kind."""
    from PIL import Image

    from x2sam_rt.media.video_writer import VideoWriter

    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 48, 3), dtype=np.uint8)
    found = [folder / f"seed.{kind}" for kind in ("png", "jpg", "gif", "webp", "tiff", "bmp", "avif")]
    for path in found:
        Image.fromarray(pixels[0]).save(path)
    with VideoWriter(folder / "seed.mp4", 48, 32, 10) as writer:
        for frame in pixels:
            writer.write(frame)
    return [*found, folder / "seed.mp4"]


def fuzz_media(seconds: float, seed: int, most: int | None = None) -> int:
    """Returns 0, or 1 after something that is not promised; the file is kept."""
    rng, worker, ran, trouble = random.Random(seed), Worker(), 0, 0
    with tempfile.TemporaryDirectory() as name:
        sound = [(path.suffix, path.read_bytes()) for path in seeds(Path(name))]
        until = time.monotonic() + seconds
        while time.monotonic() < until and (most is None or ran < most):
            suffix, content = rng.choice(sound)
            path = Path(name) / f"mutant{suffix}"
            path.write_bytes(mutations.mutate(content, rng, document=False))
            try:
                worker.decode(path)
            except RuntimeError as error:
                found = HERE / "found"
                found.mkdir(exist_ok=True)
                (found / f"media-{ran}{suffix}").write_bytes(path.read_bytes())
                print(f"media: {suffix}: {error}")
                trouble = 1
            ran += 1
        worker.close()
    print(f"media: {ran:,} inputs")
    return trouble


if __name__ == "__main__":
    work()
