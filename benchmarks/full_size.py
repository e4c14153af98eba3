"""A random checkpoint of the published size, or a share of it, taken through export, load, asking, segmenting and
verify: wall time, peak anonymous memory (what must fit; mapped files need not) beside what was said before, and disk.

    python benchmarks/full_size.py FOLDER --scale 0.05 --side 256
    python benchmarks/full_size.py FOLDER --limit 16 --steps whole,export-torch,load-torch --result full_size

Each step is a process of its own, which is stopped when it passes the limit. Ends with exit code 1 when a step took
more memory than was said.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from random_checkpoint import scaled, write_training, write_whole
from timer import RESULTS

from x2sam_rt.evaluation.results import this_machine, versions
from x2sam_rt.export.bundle_writer import ExportPlan
from x2sam_rt.export.needs import verify_bytes
from x2sam_rt.model.checkpoint.files import embedded_checkpoint
from x2sam_rt.model.checkpoint.loading import load_checkpoint
from x2sam_rt.model.checkpoint.published import PUBLISHED
from x2sam_rt.runtime.bundle import load_manifest
from x2sam_rt.runtime.needs import AskedFrames, answer_bytes, frame_bytes, loaded_bytes
from x2sam_rt.runtime.prompt_frames import PromptFrames
from x2sam_rt.runtime.runtime import Runtime
from x2sam_rt.tasks.instruction import Instruction

POLL_SECONDS, CONTEXT = 0.02, 4096
CLI = "import sys; from x2sam_rt.cli.app import app; app(sys.argv[1:])"
TOKENIZER = embedded_checkpoint() / "tokenizer"
CLIP, IMAGE = AskedFrames("video", 16, 360, 640), AskedFrames("image", 1, 512, 512)
PAIR = AskedFrames("video", 1, 1024, 1024)  # a stream is asked on its first frame
PHRASE = "the red circle"


def pictures(shown: AskedFrames, count: int) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (shown.height, shown.width, 3), dtype=np.uint8) for _ in range(count)]


def load(bundle: Path) -> int:
    Runtime.load(bundle, context=CONTEXT).close()
    return 0


def ask(bundle: Path) -> int:
    """A question on the clip, known answer. Returns what it took beside the loaded bundle."""
    frames = PromptFrames(tuple(torch.from_numpy(picture) for picture in pictures(CLIP, CLIP.count)), {})
    with Runtime.load(bundle, context=CONTEXT) as runtime, taken() as taking:
        answer = runtime.language.answer(Instruction(phrases=(PHRASE,)), "video", frames)
        assert answer.embeddings is not None
        assert bool(answer.embeddings.seg.isfinite().all())
    return taking.bytes


def segment(bundle: Path) -> int:
    """One image."""
    with Runtime.load(bundle, context=CONTEXT) as runtime, taken() as taking:
        runtime.segment_image(pictures(IMAGE, 1)[0], PHRASE)
    return taking.bytes


def pair(bundle: Path) -> int:
    """Two frames of a stream, the second through the memory."""
    with Runtime.load(bundle, context=CONTEXT) as runtime, taken() as taking, runtime.stream(PHRASE) as session:
        for frame in pictures(PAIR, 2):
            session.step(frame)
    return taking.bytes


WORK = {"load": load, "ask": ask, "segment": segment, "pair": pair}


@dataclass
class Taken:
    """bytes: anonymous memory at its highest, beside what was there at the beginning."""

    bytes: int = 0


@contextlib.contextmanager
def taken() -> Iterator[Taken]:
    """Measures the body in this process."""
    result, done, before = Taken(), threading.Event(), anonymous_bytes("self")

    def watch() -> None:
        while not done.wait(POLL_SECONDS):
            result.bytes = max(result.bytes, anonymous_bytes("self") - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield result
    finally:
        done.set()
        watcher.join()


def anonymous_bytes(process: int | str) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


@dataclass(frozen=True)
class Measured:
    """seconds: wall time. memory: peak anonymous bytes of the process; said: at most, before it began (None: nothing
    was). taken: of memory, what the work took beside a loaded bundle; said_taken: at most. disk: bytes of the folder
    after the step. load: processes that wanted a core at its end, of which it is one or two."""

    step: str
    seconds: float
    memory: int
    said: int | None
    taken: int
    said_taken: int | None
    disk: int
    load: float

    @property
    def holds(self) -> bool:
        within = self.said is None or self.memory <= self.said
        return within and (self.said_taken is None or self.taken <= self.said_taken)


class PastLimit(Exception):
    """A step that took more memory than allowed."""


@dataclass(frozen=True)
class Step:
    """said, said_taken: as in `Measured`, asked for when the step's turn comes."""

    command: list[str]
    said: Callable[[], tuple[int | None, int | None]] = lambda: (None, None)


def measure(name: str, step: Step, folder: Path, limit: float) -> Measured:
    """Runs a command and watches it. limit: GB. Raises PastLimit, or CalledProcessError when it fails."""
    said, said_taken = step.said()
    started, peak = time.perf_counter(), 0
    with subprocess.Popen(step.command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, anonymous_bytes(process.pid))
            if peak > limit * 1e9:
                process.kill()
                raise PastLimit(f"{name} took more than {limit} GB of anonymous memory.")
            time.sleep(POLL_SECONDS)
        assert process.stdout is not None
        last = process.stdout.read().strip().rpartition("\n")[2]
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, step.command)
    seconds = round(time.perf_counter() - started, 1)
    disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    with Path("/proc/loadavg").open() as file:
        load_now = float(file.read().split()[0])
    taken_bytes = int(last) if last.isdigit() else 0
    return Measured(name, seconds, peak, said, taken_bytes, said_taken, disk, load_now)


def steps(folder: Path, own: list[str]) -> dict[str, Step]:
    """own: the options that this script passes to itself."""
    here = [sys.executable, __file__, str(folder), *own, "--only"]
    made = {name: Step([*here, name]) for name in ("whole", "training")}
    base = folder / "training/vlm"
    made["export-torch"] = export(folder, "torch", "whole", ExportChoice("torch", "bf16"))
    made["export-training"] = export(folder, "merged", "training", ExportChoice("torch", "bf16"), base)
    made["export-onnx"] = export(folder, "onnx", "whole", ExportChoice("onnxruntime", "fp32"))
    for bundle in ("torch", "onnx"):
        for work in WORK:
            made[f"{work}-{bundle}"] = Step([*here, f"{work}-{bundle}"], said_of_work(folder / bundle, work))
        made[f"verify-{bundle}"] = Step(
            [sys.executable, "-c", CLI, "verify", str(folder / bundle), "--quick"], said_of_verify(folder / bundle)
        )
    return made


@dataclass(frozen=True)
class ExportChoice:
    engine: str
    precision: str


def export(folder: Path, name: str, source: str, choice: ExportChoice, base: Path | None = None) -> Step:
    options = ["--engine", choice.engine, "--precision", choice.precision, "--language-precision", "bf16"]
    options += ["--tokenizer", str(TOKENIZER), "--no-verify", *([] if base is None else ["--vlm", str(base)])]
    command = [sys.executable, "-c", CLI, "export", str(folder / source), "-o", str(folder / name), *options]

    def said() -> tuple[int, None]:
        checkpoint = load_checkpoint(folder / source, vlm=None if base is None else str(base), tokenizer=TOKENIZER)
        plan = ExportPlan(checkpoint, choice.engine, choice.precision, language_precision="bf16", verify=False)
        return plan.needs.memory, None

    return Step(command, said)


def said_of_work(bundle: Path, work: str) -> Callable[[], tuple[int, int | None]]:
    def said() -> tuple[int, int | None]:
        manifest = load_manifest(bundle)
        frame = frame_bytes(manifest.model)
        more = {
            "load": 0,
            "ask": answer_bytes(manifest, CLIP),
            "segment": answer_bytes(manifest, IMAGE) + frame,
            "pair": answer_bytes(manifest, PAIR) + frame,
        }[work]
        return loaded_bytes(manifest) + more, more

    return said


def said_of_verify(bundle: Path) -> Callable[[], tuple[int, None]]:
    return lambda: (verify_bytes(load_manifest(bundle)), None)


def run_all(folder: Path, names: list[str], own: list[str], limit: float) -> Iterator[Measured]:
    known = steps(folder, own)
    for name in names or known:
        done = measure(name, known[name], folder, limit)
        said = "" if done.said is None else f" (said: {done.said / 1e9:.2f})"
        taken = "" if not done.said_taken else f", the work {done.taken / 1e9:.2f} (said: {done.said_taken / 1e9:.2f})"
        print(
            f"{name:16} {done.seconds:8.1f} s {done.memory / 1e9:7.2f} GB memory{said}{taken}, "
            f"{done.disk / 1e9:.2f} GB disk, load {done.load:.1f}",
            flush=True,
        )
        yield done


def keep(path: Path, options: argparse.Namespace, done: Measured) -> None:
    """Into the file beside the other steps of the same size, with the machine and versions it ran on."""
    size = {"scale": options.scale, "side": options.side}
    kept = json.loads(path.read_text()) if path.is_file() else {}
    rows = kept["steps"] if kept.get("scale") == options.scale and kept.get("side") == options.side else []
    rows = [row for row in rows if row["step"] != done.step] + [asdict(done) | {"holds": done.holds}]
    content = {"machine": asdict(this_machine()), "versions": versions(), **size, "steps": rows}
    path.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the published weights")
    parser.add_argument("--side", type=int, default=PUBLISHED.image_size)
    parser.add_argument("--limit", type=float, default=16.0, help="GB of anonymous memory")
    parser.add_argument("--steps", default="", help="comma-separated; default: all")
    parser.add_argument("--result", type=Path, help="JSON file; a bare name: in benchmarks/results/")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        run_one(options)
        return
    own = ["--scale", str(options.scale), "--side", str(options.side)]
    names = [name for name in options.steps.split(",") if name]
    past = []
    for done in run_all(options.folder, names, own, options.limit):
        past += [] if done.holds else [done.step]
        if options.result:
            bare = options.result.parent == Path() and not options.result.suffix
            keep(RESULTS / f"{options.result}.json" if bare else options.result, options, done)
    if past:
        sys.exit(f"More memory than was said: {', '.join(past)}.")


def run_one(options: argparse.Namespace) -> None:
    """One step in this process; what its work took is printed."""
    make = {"whole": write_whole, "training": write_training}
    if options.only in make:
        make[options.only](scaled(options.scale, options.side), options.folder / options.only)
    else:
        work, _, bundle = options.only.partition("-")
        print(WORK[work](options.folder / bundle))


if __name__ == "__main__":
    main()
