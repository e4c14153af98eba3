"""Many sessions at once give what each gives alone, to the last bit, and leave nothing behind.

    python benchmarks/soak.py --frames 100000 --image-size 64

24 sessions of one runtime are opened, asked, stepped and closed at random from 4 threads. Every frame's segments are
compared with those of the same frame of a session that had the process to itself. Writes benchmarks/results/soak.json.
Exit 1 when a frame differs, or memory or open files have grown since the first tenth.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock

import psutil
import torch
from timer import save

from x2sam_rt.data.synthetic import ClipSettings, make_clip
from x2sam_rt.export.bundle_writer import ExportPlan, export_bundle
from x2sam_rt.media.types import Pixels
from x2sam_rt.model.checkpoint.files import embedded_checkpoint
from x2sam_rt.model.checkpoint.loading import load_checkpoint
from x2sam_rt.model.knobs import ModelKnobs
from x2sam_rt.runtime.results import FrameResult
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.runtime.session import VideoSession
from x2sam_rt.tasks.instruction import Instruction
from x2sam_rt.tasks.regions import Prompt

SESSIONS, THREADS, LENGTH = 24, 4, 40  # LENGTH: frames of a whole session
GROWTH_MB = 20.0  # what allocators may keep of four threads' work
_SIDE, _EARLY_CLOSE, _MOST_AT_ONCE = 96, 0.01, 6
_QUESTIONS = (
    Instruction(phrases=("the red circle",)),
    Instruction(phrases=("the square", "a blue shape")),
    Instruction("panoptic", things=("circle", "square"), stuff=("sky", "ground")),
    Instruction("object", regions=(Prompt.point(40, 40),)),
)


@dataclass(frozen=True)
class Script:
    """What one session does: the frames it sees, and at which it is asked what."""

    frames: tuple[Pixels, ...]
    questions: dict[int, Instruction]

    def play(self, runtime: Runtime) -> Iterator[FrameResult]:
        """One session from its opening to its end; left early, it is closed."""
        with runtime.stream(self.questions[0]) as session:
            for index, frame in enumerate(self.frames):
                self._ask(session, index)
                yield session.step(frame)

    def _ask(self, session: VideoSession, index: int) -> None:
        if index and index in self.questions:
            session.ask(self.questions[index])


def make_script(seed: int) -> Script:
    draw = random.Random(seed)
    clip = make_clip(seed, ClipSettings(side=_SIDE, frames=LENGTH))
    asked = {0: draw.choice(_QUESTIONS)} | {draw.randrange(1, LENGTH): draw.choice(_QUESTIONS[:3]) for _ in range(2)}
    return Script(tuple(clip.frames), asked)


def digest(result: FrameResult) -> bytes:
    """Of all a frame's result says, but for its timings."""
    seen = hashlib.blake2b(result.segmentation.map.tobytes(), digest_size=16)
    for one in result.segments:
        seen.update(repr((one.id, one.label, one.score, one.is_thing)).encode())
        seen.update(one.mask.tobytes())
    return seen.digest()


class Soak:
    """The sessions, each with its script's place, taken by one thread at a time."""

    def __init__(self, runtime: Runtime, scripts: list[Script], expected: list[list[bytes]], frames: int) -> None:
        self._runtime, self._scripts, self._expected, self._goal = runtime, scripts, expected, frames
        self._playing = [(place, scripts[place].play(runtime)) for place in range(SESSIONS)]
        self._at = [0] * SESSIONS
        self._locks = [Lock() for _ in range(SESSIONS)]
        self._counting = Lock()
        self.frames = self.differing = self.opened = self.closed_early = 0
        self.samples: list[tuple[int, float, int]] = []  # frames, MiB, open files

    def run(self) -> None:
        with ThreadPoolExecutor(THREADS) as threads:
            for worker in [threads.submit(self._work, seed) for seed in range(THREADS)]:
                worker.result()
        for _, session in self._playing:
            session.close()

    def _work(self, seed: int) -> None:
        draw = random.Random(1000 + seed)
        torch.set_num_threads(1)
        while self.frames < self._goal:
            slot = draw.randrange(SESSIONS)
            if self._locks[slot].acquire(blocking=False):
                try:
                    self._advance(slot, draw)
                finally:
                    self._locks[slot].release()

    def _advance(self, slot: int, draw: random.Random) -> None:
        for _ in range(draw.randint(1, _MOST_AT_ONCE)):
            script, session = self._playing[slot]
            result = next(session, None)
            if result is None or draw.random() < _EARLY_CLOSE:
                self._reopen(slot, draw, early=result is not None)
                return
            same = digest(result) == self._expected[script][self._at[slot]]
            self._at[slot] += 1
            self._count(same)

    def _reopen(self, slot: int, draw: random.Random, *, early: bool) -> None:
        self._playing[slot][1].close()
        script = draw.randrange(len(self._scripts))
        self._playing[slot], self._at[slot] = (script, self._scripts[script].play(self._runtime)), 0
        with self._counting:
            self.opened += 1
            self.closed_early += early

    def _count(self, same: bool) -> None:
        with self._counting:
            self.frames += 1
            self.differing += not same
            if self.frames % max(1, self._goal // 20) == 0:
                self.samples.append((self.frames, *resources()))


def resources() -> tuple[float, int]:
    """Resident MiB, and open files."""
    gc.collect()
    process = psutil.Process()
    return process.memory_info().rss / 2**20, process.num_fds()


def soak(bundle: Path, frames: int, scripts: int = SESSIONS) -> dict[str, object]:
    torch.set_num_threads(1)
    with Runtime.load(bundle) as runtime:
        played = [make_script(seed) for seed in range(scripts)]
        expected = [[digest(result) for result in script.play(runtime)] for script in played]
        places = played * (SESSIONS // scripts)
        started = time.perf_counter()
        one = Soak(runtime, places, expected * (SESSIONS // scripts), frames)
        one.run()
        seconds = time.perf_counter() - started
    early = next(sample for sample in one.samples if sample[0] >= frames / 10)
    late = one.samples[-1]
    return {
        "frames": one.frames,
        "sessions_opened": one.opened + SESSIONS,
        "closed_early": one.closed_early,
        "frames_that_differ": one.differing,
        "frames_per_second": round(one.frames / seconds, 1),
        "resident_mib_after_a_tenth": round(early[1], 1),
        "resident_mib_at_the_end": round(late[1], 1),
        "open_files_after_a_tenth": early[2],
        "open_files_at_the_end": late[2],
        "holds": bool(one.differing == 0 and late[1] - early[1] < GROWTH_MB and late[2] <= early[2]),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100_000)
    parser.add_argument("--image-size", type=int, default=128, help="of the model; 64 halves the time of a frame")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        bundle = Path(work) / "bundle"
        toy = load_checkpoint(embedded_checkpoint())
        toy = replace(toy, config=ModelKnobs(image_size=options.image_size).turned(toy.config))
        export_bundle(ExportPlan(toy, "torch", verify=False), bundle)
        found = {"image_size": options.image_size, **soak(bundle, options.frames)}
    for name, value in found.items():
        print(f"{name:30s} {value}")
    print(f"written to {save('soak', [found])}")
    return 0 if found["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
